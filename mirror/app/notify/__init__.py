"""Notify others: the command of `on_event`, the urls of `heartbeat_url`."""
