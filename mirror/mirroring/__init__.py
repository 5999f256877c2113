"""Walk the list, decide, fetch and publish."""
