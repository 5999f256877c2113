"""The spool: partial files, and whole ones that wait for their targets."""
