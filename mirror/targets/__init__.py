"""Places that keep copies; each implements `ports.Target`."""
