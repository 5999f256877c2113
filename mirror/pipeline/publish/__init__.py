"""Bring spooled files to the targets."""
