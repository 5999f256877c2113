"""Name the cause of an HTTP failure and the remedy; the texts hold no address."""

from __future__ import annotations

import os
import ssl
from http import HTTPStatus
from typing import TYPE_CHECKING

import aiohttp

from mirror.errors import FetchError
from mirror.ports import FIRST_BYTE
from mirror.vms.response import MOST_INTERIM, InterimFloodError

if TYPE_CHECKING:
    from collections.abc import Collection

PROXY_ASKS = (
    "the proxy asks for a user and a password (407); put them into the source's proxy, "
    "http://USER:PASSWORD@HOST:PORT"
)
_PIN = "pin it with tls.fingerprint"
_UNKNOWN_AUTHORITY = (
    "no authority known here has signed it; put the authority's certificate into a "
    f"file named by tls.ca_file, or {_PIN}"
)
_OTHER_NAME = f"it is not for {{host}}; set url to a name that it is for, or {_PIN}"
_UNTRUSTED = {
    9: "it is not valid yet; set the clock of this machine, or that of the VMS",
    10: (
        "it has expired; renew it on the VMS, unless the clock of this machine is wrong"
    ),
    18: f"it is self-signed; put it into a file named by tls.ca_file, or {_PIN}",
    19: _UNKNOWN_AUTHORITY,
    20: _UNKNOWN_AUTHORITY,
    21: _UNKNOWN_AUTHORITY,
    62: _OTHER_NAME,
    64: _OTHER_NAME,
}
"""By X509_V_ERR of OpenSSL's x509_vfy.h."""
_OLD_TLS = frozenset(
    {
        "NO_PROTOCOLS_AVAILABLE",
        "TLSV1_ALERT_PROTOCOL_VERSION",
        "UNSUPPORTED_PROTOCOL",
    }
)
_NO_TLS = frozenset({"HTTP_REQUEST", "RECORD_LAYER_FAILURE", "WRONG_VERSION_NUMBER"})


def late(waited_s: float) -> FetchError:
    """Return the error for a file whose first byte did not come in time."""
    return FetchError(
        FIRST_BYTE,
        f"no answer, or no byte of it, for too long ({waited_s:g} s, by "
        "first_byte_timeout; after each such try it is waited for longer)",
    )


def explained(exc: Exception, proxies: Collection[str] = ()) -> tuple[str, str]:
    """Return the reason, fit for a label, and the text for an HTTP failure.

    The request may have gone by proxies on the hosts given.
    """
    if isinstance(exc, aiohttp.ConnectionTimeoutError):
        return (
            "timeout",
            "no connection for too long; is the VMS up, and the way there?",
        )
    if isinstance(exc, TimeoutError):
        return "timeout", "no answer, or no byte, for too long"
    return (
        _of_proxy(exc, proxies)
        or _of_tls(exc)
        or _of_connection(exc)
        or _of_answer(exc)
    )


def _of_connection(exc: Exception) -> tuple[str, str] | None:
    if isinstance(exc, aiohttp.ClientConnectorDNSError):
        return "unreachable", (
            f"the host name {exc.host} cannot be resolved; check url, and this "
            "machine's name server"
        )
    if not isinstance(exc, aiohttp.ClientConnectorError):
        return None
    return "unreachable", (
        f"no connection to {exc.host} port {exc.port}: {_why(exc)}; is it up, and is "
        "url right?"
    )


def _why(exc: aiohttp.ClientConnectorError) -> str:
    # Of several addresses that failed each in its way, asyncio names none.
    number = exc.os_error.errno
    return os.strerror(number) if number else "none of its addresses can be reached"


def _of_answer(exc: Exception) -> tuple[str, str]:
    if isinstance(exc, InterimFloodError):
        return "bad_answer", f"more than {MOST_INTERIM} answers came that are not final"
    if isinstance(exc, aiohttp.ClientPayloadError | aiohttp.ServerDisconnectedError):
        return "cut", "the connection was closed too early"
    if isinstance(exc, aiohttp.ClientResponseError):
        return "bad_answer", f"the answer is not valid HTTP ({type(exc).__name__})"
    if isinstance(exc, OSError):
        return "cut", exc.strerror or type(exc).__name__
    return "bad_answer", type(exc).__name__


def _of_proxy(exc: Exception, proxies: Collection[str]) -> tuple[str, str] | None:
    if isinstance(exc, aiohttp.ClientHttpProxyError):
        if exc.status == HTTPStatus.PROXY_AUTHENTICATION_REQUIRED:
            return "proxy", PROXY_ASKS
        return "proxy", (
            f"the proxy refuses to connect to the VMS ({exc.status}); have it allowed "
            "there, or do without proxy"
        )
    if isinstance(exc, aiohttp.ClientConnectorDNSError) and exc.host in proxies:
        return "proxy", (
            f"the host name {exc.host} of the proxy cannot be resolved; check proxy, "
            "and this machine's name server"
        )
    if isinstance(exc, aiohttp.ClientProxyConnectionError):
        return "proxy", (
            f"no connection to the proxy {exc.host} port {exc.port}: {_why(exc)}; is "
            "it up, and is proxy right?"
        )
    return None


def _of_tls(exc: Exception) -> tuple[str, str] | None:
    if isinstance(exc, aiohttp.ServerFingerprintMismatch):
        return "tls", (
            "the certificate is not the one that is pinned; if the VMS has a new one, "
            f'set tls.fingerprint = "sha256:{exc.got.hex()}"'
        )
    if isinstance(exc, aiohttp.ClientConnectorCertificateError):
        fault = exc.certificate_error
        code = getattr(fault, "verify_code", 0)
        remedy = _UNTRUSTED.get(code, "").format(host=exc.host)
        return "tls", f"the certificate is not trusted: {remedy or fault}"
    if isinstance(exc, aiohttp.ClientConnectorSSLError | ssl.SSLError):
        return "tls", _no_tls(getattr(exc, "os_error", exc))
    closed = getattr(exc, "os_error", None)
    if isinstance(closed, ConnectionError) and closed.errno is None:
        # It comes from asyncio, once there was a connection.
        return "tls", (
            "the connection was closed during the TLS handshake; does the VMS speak "
            "TLS of version 1.2 or later on this port?"
        )
    return None


def _no_tls(failure: OSError) -> str:
    reason = getattr(failure, "reason", None) or "handshake"
    if reason in _OLD_TLS:
        return (
            "the VMS has no TLS of version 1.2 or later; update it, or put a proxy "
            "that has before it"
        )
    if reason in _NO_TLS:
        return "the port does not speak TLS; if it is plain http, say http:// in url"
    return f"no TLS connection could be made ({reason})"
