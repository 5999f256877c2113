"""Where a request for a file leads, and what it carries there."""

from __future__ import annotations

import hashlib

import pytest

from mirror.errors import FetchError, ListError, OriginRefusedError
from mirror.simulator import Vms
from tests.vms_client import (
    SECRET,
    Raw,
    answer,
    ask,
    ask_wide,
    client,
    fetch,
)


def credentials(headers: dict[str, str]) -> set[str]:
    """Return the names of the headers that tell who we are."""
    names = {name.lower() for name in headers}
    return names & {"authorization", "cookie", "x-uuid", "x-client"}


def hop(*locations: str) -> dict[str, bytes]:
    """Return answers that lead from /0 over each location in turn to a file."""
    steps = {
        f"/{number}": answer(302, b"", Location=location, Set_Cookie="a=b")
        for number, location in enumerate(locations)
    }
    return steps | {"*": answer(200, b"file")}


@pytest.mark.parametrize("send", [True, False])
async def test_the_token_goes_to_files_of_the_own_origin_if_configured(tmp_path, send):
    """And never to another origin, nor along a redirect."""
    async with Raw() as home, Raw() as other:
        home.answers = hop("/moved", "/2") | {"/away": answer(302, b"", Location="x")}
        home.answers["/away"] = answer(302, b"", Location=other.url + "/b")
        other.answers = {
            "/back": answer(302, b"", Location=home.url + "/c"),
            "*": answer(200, b"file"),
        }
        async with client(
            tmp_path, home.url, send_token_to_files=send, allowed=[other.url]
        ) as made:
            for url in ("/plain", "/0", "/away", other.url + "/d", other.url + "/back"):
                assert await fetch(made, url) == b"file"

    sent = {one.target: credentials(one.headers) for one in home.asked + other.asked}
    with_token = {"/plain", "/0", "/away"} if send else set()
    assert sent == {
        target: {"authorization"} if target in with_token else set()
        for target in ("/plain", "/0", "/moved", "/away", "/b", "/d", "/back", "/c")
    }
    for one in home.asked:
        if "Authorization" in one.headers:
            assert one.headers["Authorization"] == f"Bearer {SECRET}"


async def test_a_foreign_url_with_our_token_configured_is_refused(tmp_path):
    """Nothing at all is asked of an origin that is not allowed."""
    async with Raw({"*": answer(200, b"file")}) as home, Raw() as evil:
        home.answers["/0"] = answer(302, b"", Location=evil.url + "/x")
        async with client(tmp_path, home.url, send_token_to_files=True) as made:
            for url in (evil.url + "/1.mp4", "/0"):
                with pytest.raises(OriginRefusedError) as caught:
                    await fetch(made, url)
                assert SECRET not in str(caught.value)

    assert evil.asked == []


async def test_a_missing_token_fails_the_fetch_as_a_fetch(tmp_path):
    """Where files need the token: `open_file` raises what its contract names."""
    async with Raw({"*": answer(200, b"file")}) as server:
        async with client(
            tmp_path, server.url, token=tmp_path / "absent", send_token_to_files=True
        ) as made:
            with pytest.raises(FetchError, match="absent"):
                await fetch(made, "/1.mp4")

    assert server.asked == []


@pytest.mark.parametrize("name", ["a\rb", "a\nb", "a b, c", "%2e%2e", "?#", "Двор"])
async def test_a_name_in_a_url_reaches_the_vms_unchanged(tmp_path, name):
    """Encoded once, line breaks and all; the file behind it is fetched."""
    async with Vms(token=SECRET) as vms:
        served = vms.add(name=f"{name}.mp4")
        async with client(tmp_path, vms.url) as made:
            page = await ask_wide(made)
            body = await fetch(made, page.rows[0].url)

        assert hashlib.sha256(body).hexdigest() == vms.truth(served).sha256


async def test_five_redirects_are_followed(tmp_path):
    """Relative ones and absolute ones."""
    async with Raw() as server:
        server.answers = hop("1", "/2", f"{server.url}/3", "./4", "/file")
        async with client(tmp_path, server.url) as made:
            assert await fetch(made, "/0") == b"file"

    assert [one.target for one in server.asked] == [
        "/0", "/1", "/2", "/3", "/4", "/file",
    ]  # fmt: skip


async def test_six_redirects_are_refused(tmp_path):
    """The sixth is not followed."""
    async with Raw(hop("/1", "/2", "/3", "/4", "/5", "/file")) as server:
        async with client(tmp_path, server.url) as made:
            with pytest.raises(FetchError) as caught:
                await fetch(made, "/0")

    assert caught.value.reason == "redirects" and "5" in str(caught.value)
    assert len(server.asked) == 6


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirected_list_is_refused(tmp_path, status):
    """The token is not sent on; the text says which key to change."""
    async with Raw() as server:
        server.answers = {
            "/elsewhere": answer(),
            "*": answer(status, b"", Location="/elsewhere"),
        }
        async with client(tmp_path, server.url) as made:
            with pytest.raises(ListError) as caught:
                await ask(made)

    assert len(server.asked) == 1
    assert str(status) in str(caught.value) and "url" in str(caught.value)
    assert caught.value.reason == f"http_{status}"
