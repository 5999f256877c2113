"""What the service answers over HTTP: metrics, health, the status page."""

from mirror.web.server import HttpServer, ListenError

__all__ = ["HttpServer", "ListenError"]
