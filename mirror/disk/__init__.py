"""Files, and the disks they lie on: durable writes, threads per disk, mounts."""
