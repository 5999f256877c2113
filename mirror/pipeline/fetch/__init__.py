"""Bring files from a source into the spool."""
