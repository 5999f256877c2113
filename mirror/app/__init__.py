"""Read the configuration, build the parts from it, and run them."""
