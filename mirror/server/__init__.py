"""What the outside asks the service, and what it tells systemd."""

from mirror.server.http import HttpServer, ListenError
from mirror.server.systemd import Notifier

__all__ = ["HttpServer", "ListenError", "Notifier"]
