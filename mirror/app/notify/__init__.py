"""Tell others: a command of the operator's, and watchers elsewhere."""
