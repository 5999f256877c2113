"""A directory as a target: a local disk, or an NFS or SMB mount."""
