"""Decide which address a listed url means, and whether a request may go there."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from urllib.parse import quote

from yarl import URL

from mirror.errors import OriginRefusedError
from mirror.model import is_folder

_LEGAL = re.compile(r"(?:[A-Za-z0-9\-._~:/?#\[\]@!$&'()*+,;=]|%[0-9A-Fa-f]{2})+")
_CONTROL = re.compile(r"[\x00-\x20\x7f\\]")
_PARTS = re.compile(
    r"((?:[A-Za-z][A-Za-z0-9+.\-]*:)?(?://)?)((?<=//)[^/?#]*)?(.*)", re.DOTALL
)
_SAFE = "%:/?#[]@!$&'()*+,;=~"
_STRAY_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")
_SHOWN, _SCHEME_SHOWN = 300, 20
_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True, kw_only=True)
class Origins:
    """Where the files of one source may be fetched from.

    Attributes:
        allowed: Origins besides the source's own, `scheme://host[:port]`.
        rewrites: From an origin as listed to the one to be used.
    """

    base: URL
    allowed: frozenset[str] = frozenset()
    rewrites: tuple[tuple[str, str], ...] = ()

    @property
    def own(self) -> str:
        """The source's own origin."""
        return origin_of(self.base)

    def resolve(self, url: str, name: str | None) -> URL:
        """Return the address of a listed url; a folder gets `name` added.

        Raises:
            OriginRefusedError: It leads to an origin that is not allowed, or is not
                an address at all.
        """
        folder = self.base
        if not folder.raw_path.endswith("/"):
            folder = folder.with_path(folder.raw_path + "/", encoded=True)
        address = self._checked(_parse(url, folder))
        if not is_folder(url) or name is None:
            return address
        path = address.raw_path + ("" if address.raw_path.endswith("/") else "/")
        return address.with_path(path + quote(name, safe=""), encoded=True)

    def redirect(self, current: URL, location: str) -> URL:
        """Return where a redirect leads; raises as `resolve`."""
        return self._checked(_parse(location, current))

    def _checked(self, address: URL) -> URL:
        if address.scheme not in _PORTS or not address.raw_host:
            raise OriginRefusedError(
                f"the url does not begin with http:// or https:// "
                f"({address.scheme[:_SCHEME_SHOWN] or 'no'} scheme); "
                "nothing was requested"
            )
        if address.user is not None or address.password is not None:
            raise OriginRefusedError(
                "the url carries a user name; nothing was requested"
            )
        address = self._rewritten(address)
        origin = origin_of(address)
        if origin != self.own and origin not in self.allowed:
            raise OriginRefusedError(
                f"{origin[:_SHOWN]} is not where this source's files may come from; "
                "add it to file_origins, or map it to the right one in rewrite_origins"
            )
        return address

    def _rewritten(self, address: URL) -> URL:
        origin = origin_of(address)
        for listed, ours in self.rewrites:
            if origin == listed:
                return _moved(address, URL(ours))
        if origin in self.allowed:
            return address
        own = URL(self.own)
        if is_loopback(address.raw_host) and not is_loopback(own.raw_host):
            return _moved(address, own)
        upgrade = (
            own.scheme == "https"
            and address.scheme == "http"
            and address.port == _PORTS["http"]
            and address.raw_host == own.raw_host
        )
        return _moved(address, own) if upgrade else address


def origin_of(address: URL) -> str:
    """Return `scheme://host[:port]`, lower case, without a default port."""
    host = (address.raw_host or "").lower().rstrip(".")
    if ":" in host:
        host = f"[{host}]"
    port = address.port
    suffix = "" if port in {None, _PORTS.get(address.scheme)} else f":{port}"
    return f"{address.scheme}://{host}{suffix}"


def is_loopback(host: str | None) -> bool:
    """Tell whether a host is this machine by name or number."""
    name = (host or "").lower().rstrip(".")
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _moved(address: URL, origin: URL) -> URL:
    """Return the same path and query elsewhere; a path may begin with two slashes."""
    moved = address.with_scheme(origin.scheme).with_host(origin.raw_host or "")
    return moved.with_port(origin.explicit_port)


def _parse(url: str, base: URL) -> URL:
    """Return the absolute address; what is not legal in a url is encoded once."""
    text = url.strip().split("#", 1)[0]
    try:
        if not _LEGAL.fullmatch(text):
            text = _encoded(text)
        relative = URL(text, encoded=True)
        complete = relative.scheme and relative.absolute
        address = relative if complete else base.join(relative)
        host = address.raw_host
        # With its last dot, a number is a name that is looked up.
        return address if host is None else address.with_host(host.lower().rstrip("."))
    except ValueError as exc:
        raise OriginRefusedError(
            "the url cannot be understood; nothing was requested"
        ) from exc


def _encoded(text: str) -> str:
    """Encode all but the host, which has an encoding of its own (RFC 5890)."""
    parts: tuple[str, str, str] = _PARTS.findall(text)[0]
    scheme, authority, rest = parts
    if _CONTROL.search(authority):
        raise ValueError("a host with control characters")
    whole = _STRAY_PERCENT.sub("%25", rest)
    # Bytes of a header that are no UTF-8 reach us as surrogates.
    return scheme + authority + quote(whole, safe=_SAFE, errors="surrogateescape")
