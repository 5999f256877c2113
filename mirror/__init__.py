"""archive-mirror keeps the footage a VMS exports before the VMS deletes it."""

__version__ = "0.1.0"
