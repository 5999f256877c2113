"""Decide which proxy a request goes by: pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

from yarl import URL

if TYPE_CHECKING:
    from collections.abc import Mapping

_SCHEMES = ("http", "https")


@dataclass(frozen=True, slots=True, kw_only=True)
class Proxies:
    """The proxies of one source; by default there is none.

    Attributes:
        by_scheme: By the scheme of the address that is asked for.
        exceptions: Hosts and domains that are asked without one, as in `NO_PROXY`:
            with commas between, a port behind a host if need be, `*` for all.
    """

    by_scheme: Mapping[str, URL] = field(default_factory=dict)
    exceptions: str = ""

    @classmethod
    def always(cls, url: str) -> Self:
        """Return one proxy for all addresses."""
        return cls(by_scheme=dict.fromkeys(_SCHEMES, URL(url)))

    @classmethod
    def of_environment(cls, environ: Mapping[str, str]) -> Self:
        """Return what `HTTP_PROXY`, `HTTPS_PROXY` and `NO_PROXY` say, in any case."""
        proxies: dict[str, URL] = {}
        for scheme in _SCHEMES:
            named = _variable(environ, f"{scheme}_proxy")
            if named:
                proxies[scheme] = URL(named if "://" in named else f"http://{named}")
        return cls(by_scheme=proxies, exceptions=_variable(environ, "no_proxy"))

    def of(self, address: URL) -> URL | None:
        """Return the proxy for an address; None if it is asked directly."""
        host = (address.raw_host or "").lower()
        for named in self.exceptions.lower().split(","):
            name = named.strip().lstrip(".")
            if name in {"*", host, f"{host}:{address.port}"}:
                return None
            if name and host.endswith(f".{name}"):
                return None
        return self.by_scheme.get(address.scheme)

    @property
    def hosts(self) -> frozenset[str]:
        """The hosts of the proxies, for error texts."""
        return frozenset(url.raw_host or "" for url in self.by_scheme.values())

    @property
    def secrets(self) -> frozenset[str]:
        """What no log may show."""
        urls = self.by_scheme.values()
        texts = {text for url in urls for text in (url.password, url.raw_password)}
        return frozenset(text for text in texts if text)


def variable_of(environ: Mapping[str, str], name: str) -> str:
    """Return which variable counts, by its name in lower case: that, or in capitals."""
    return name if environ.get(name) else name.upper()


def _variable(environ: Mapping[str, str], name: str) -> str:
    return environ.get(variable_of(environ, name), "").strip()
