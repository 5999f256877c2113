"""Places that keep copies."""
