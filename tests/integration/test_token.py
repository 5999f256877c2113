"""The token: its file, and when it expires."""

from __future__ import annotations

import base64
import json
import os
from typing import TYPE_CHECKING

import pytest

from mirror.errors import AuthError
from mirror.vms import TokenFile
from mirror.vms.token import expiry
from tests.vms_client import (
    SECRET,
    Raw,
    answer,
    ask,
    client,
)

if TYPE_CHECKING:
    from pathlib import Path


def token_file(path: Path, learned: list[str] | None = None) -> TokenFile:
    """Return a token file that tells what it learned."""
    known = [] if learned is None else learned
    return TokenFile(path, source="hq", learned=known.append)


@pytest.mark.parametrize(
    "content",
    [
        f"{SECRET}",
        f"{SECRET}\n",
        f"{SECRET}\r\n\r\n",
        f"  {SECRET}\t",
        f"Bearer {SECRET}\n",
        f"bearer   {SECRET}",
        f"BEARER {SECRET}",
    ],
)
async def test_forms_of_the_token_file(tmp_path, content):
    """A leading Bearer and blanks are no part of it; logs learn it."""
    (tmp_path / "t").write_text(content, newline="")
    learned: list[str] = []

    assert await token_file(tmp_path / "t", learned).read() == SECRET
    assert learned == [SECRET]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "make it by `archive-mirror token set hq`"),
        ("folder", "no regular file"),
        ("pipe", "no regular file"),
        (b"x" * 65_537, "longer than any token"),
        (b"", "empty"),
        (b" \r\n\t", "empty"),
        (b"Bearer ", "empty"),
        (b"Bearer\n", "empty"),
        (SECRET.encode() + b"\nsecond-token-line\n", "one line"),
        (SECRET.encode() + b" second-token-line", "one"),
        (SECRET.encode() + b"\x00\x01\xff", "one"),
        (bytes(range(128, 256)), "one"),
        ("секрет".encode(), "one"),
    ],
)
async def test_a_token_file_of_no_use(tmp_path, content, told):
    """The list is not asked; the text names the file, and no part of what is in it."""
    path = tmp_path / "t"
    if content == "folder":
        path.mkdir()
    elif content == "pipe":
        os.mkfifo(path)
    elif content is not None:
        path.write_bytes(content)
    async with Raw({"*": answer()}) as server:
        async with client(tmp_path, server.url, token=path) as made:
            with pytest.raises(AuthError) as caught:
                await ask(made)

    assert server.asked == []
    assert str(path) in str(caught.value) and told in str(caught.value)
    assert SECRET not in str(caught.value) and "second" not in str(caught.value)


async def test_no_token_file_at_all():
    """The text names the key and the systemd credential."""
    token = TokenFile(None, source="hq", learned=lambda _: None)
    with pytest.raises(AuthError) as caught:
        await token.read()

    assert "token_file" in str(caught.value) and "hq.token" in str(caught.value)
    assert await token.changed() is False


async def test_a_token_file_is_read_again_when_it_changes(tmp_path):
    """Written anew, replaced, gone, and there again."""
    path = tmp_path / "t"
    path.write_text("one")
    token = token_file(path)
    assert await token.changed()
    assert await token.read() == "one"
    assert not await token.changed()
    path.write_text("the-second")
    assert await token.changed()
    assert await token.read() == "the-second"
    (tmp_path / "new").write_text("the-thirds")
    (tmp_path / "new").rename(path)
    assert await token.changed()
    assert await token.read() == "the-thirds"
    path.unlink()
    assert await token.changed()
    with pytest.raises(AuthError):
        await token.read()
    path.write_text("back")
    assert await token.read() == "back"


def jwt(claims: object, *, padded: bool = False) -> str:
    """Return a token with these claims."""
    text = base64.urlsafe_b64encode(json.dumps(claims).encode()).decode()
    return f"eyJhbGciOiJub25lIn0.{text if padded else text.rstrip('=')}.sig"


@pytest.mark.parametrize(
    ("token", "expected"),
    [
        (jwt({"exp": 1_800_000_000}), 1_800_000_000),
        (jwt({"exp": 1_800_000_000}, padded=True), 1_800_000_000),
        (jwt({"exp": 1_800_000_000.9}), 1_800_000_000),
        (jwt({"exp": 1_800_000_000, "name": "Ж???>>>"}), 1_800_000_000),
        (jwt({"exp": "1800000000"}), None),
        (jwt({"exp": None}), None),
        (jwt({"exp": -1}), None),
        (jwt({"exp": 10**30}), None),
        (jwt({}), None),
        (jwt([]), None),
        (jwt("x"), None),
        ("a.b", None),
        ("a.%%%.c", None),
        ("a.e30.c", None),
        ("..", None),
        ("12|plain-sanctum-token", None),
        ("a." + "W1tb" * 20_000 + ".c", None),
    ],
)
def test_when_a_token_expires(token, expected):
    """A JWT says it; anything else is no JWT, and no failure."""
    assert expiry(token) == expected


async def test_the_expiry_is_known_after_a_walk(tmp_path):
    """For the metric of that name."""
    path = tmp_path / "t"
    path.write_text(jwt({"exp": 1_800_000_000}))
    async with Raw({"*": answer()}) as server:
        async with client(tmp_path, server.url, token=path) as made:
            known = [made.token_expiry_s]
            await ask(made)
            known.append(made.token_expiry_s)
            path.write_text("no-jwt")
            await ask(made)
            known.append(made.token_expiry_s)

    assert known == [None, 1_800_000_000, None]
