"""The work on an export, one folder per verb."""
