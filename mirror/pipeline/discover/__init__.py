"""Walk the list of a source, and decide what each row means."""
