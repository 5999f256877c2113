"""What is known of the service, for people and for programs."""
