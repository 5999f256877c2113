"""Secrets made up for a proof, and the search for any part of one."""

from __future__ import annotations

import base64
import contextlib
import json
import sqlite3
import zlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import quote

if TYPE_CHECKING:
    import random
    from pathlib import Path

_WINDOW = 12
"""So many characters of a secret in a row are a leak."""


@dataclass(slots=True)
class Canaries:
    """What must not be seen.

    Attributes:
        php: A token as Laravel makes them, with the characters that JSON and urls
            write in several ways.
        fresh: The same, that comes later.
        jwt: A token that says when it ends.
        unused: The token of a source that is never reached.
        url: Stands in paths and queries of all files.
        user: Stands in all that is listed of a user.
    """

    php: str
    fresh: str
    jwt: str
    unused: str
    url: str
    user: str
    _tokens: frozenset[bytes] = field(init=False)

    @classmethod
    def draw(cls, rng: random.Random) -> Canaries:
        """Make up all of them."""

        def word() -> str:
            return f"{rng.getrandbits(64):016x}"

        head = base64.urlsafe_b64encode(b'{"alg":"HS256","typ":"JWT"}').rstrip(b"=")
        claims = json.dumps({"sub": word(), "exp": 4_000_000_000}).encode()
        body = base64.urlsafe_b64encode(claims).rstrip(b"=")
        return cls(
            php=f"12|{word()}/{word()}+{word()}",
            fresh=f"13|{word()}/{word()}+{word()}",
            jwt=f"{head.decode()}.{body.decode()}.{word()}{word()}",
            unused=word() + word(),
            url=word() + word(),
            user=word() + word(),
        )

    def __post_init__(self) -> None:
        secrets = (self.php, self.fresh, self.jwt, self.unused)
        self._tokens = frozenset().union(*map(_windows, secrets))

    def tokens_in(self, where: str, content: bytes) -> list[str]:
        """Say so if there is any part of a token."""
        return [f"a token in {where}"] if _any(self._tokens, content) else []

    def secrets_in(self, where: str, content: bytes) -> list[str]:
        """Say so if there is any part of a token or of a file's url."""
        urls = [f"a file's url in {where}"] if _any(_windows(self.url), content) else []
        return self.tokens_in(where, content) + urls

    def all_in(self, where: str, content: bytes) -> list[str]:
        """Say so if there is any part of a token, a file's url or a user."""
        users = [f"a user in {where}"] if _any(_windows(self.user), content) else []
        return self.secrets_in(where, content) + users


def _windows(secret: str) -> frozenset[bytes]:
    """Return each part of a secret, in each way it may be written."""
    forms = {secret, quote(secret, safe=""), secret.replace("/", "\\/")}
    for lead in ("", ":", "Bearer "):
        coded = base64.b64encode(f"{lead}{secret}".encode()).decode()
        forms.add(coded[-(-4 * len(lead) // 3) :].rstrip("="))
    return frozenset(
        form[start : start + _WINDOW].encode()
        for form in forms
        for start in range(len(form) - _WINDOW + 1)
    )


def _any(windows: frozenset[bytes], content: bytes) -> bool:
    return any(window in content for window in windows)


def tables_of(ledger: Path) -> bytes:
    """Return every value in a SQLite file, what is compressed as it was before."""
    values: list[bytes] = []
    with contextlib.closing(sqlite3.connect(f"file:{ledger}?mode=ro", uri=True)) as db:
        named = db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        for (table,) in named.fetchall():
            for row in db.execute(f'SELECT * FROM "{table}"'):
                values += [_plain(value) for value in row]
    return b"\n".join(values)


def _plain(value: object) -> bytes:
    if not isinstance(value, bytes):
        return str(value).encode("utf-8", "replace")
    try:
        return zlib.decompress(value)
    except zlib.error:
        return value
