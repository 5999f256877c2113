"""Which certificates a client takes, and for which origins."""

from __future__ import annotations

import contextlib
import hashlib
import shutil
from typing import TYPE_CHECKING

import pytest

from mirror.errors import FetchError, ListError, OriginRefusedError
from mirror.simulator import Vms, fault
from mirror.vms import Tls
from tests.certificates import make_certificates
from tests.vms_client import (
    SECRET,
    ask,
    ask_wide,
    client,
    fetch,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.certificates import Certificates


@pytest.fixture(scope="module")
def certificates(tmp_path_factory) -> Certificates:
    """Make an authority and what it signs."""
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@contextlib.asynccontextmanager
async def secure(certificates: Certificates, name: str) -> AsyncIterator[Vms]:
    """Run a VMS over https that shows one of the certificates."""
    context = certificates.context(name)
    async with Vms(token=SECRET, ssl_context=context) as served:
        yield served


async def refused_by_tls(folder: Path, url: str, tls: Tls) -> str:
    """Ask for the list and for a file; return the text of both refusals."""
    async with client(folder, url, tls=tls) as made:
        with pytest.raises(ListError) as listing:
            await ask(made)
        with pytest.raises(FetchError) as fetching:
            await fetch(made, url + "/storage/1.mp4")
    assert (listing.value.reason, fetching.value.reason) == ("tls", "tls")
    text = f"{listing.value} {fetching.value}"
    assert SECRET not in text
    return text


@pytest.mark.parametrize(
    ("shown", "told"),
    [
        ("expired", "expired"),
        ("wrong_name", "127.0.0.1"),
        ("self", "self-signed"),
    ],
)
async def test_a_certificate_that_is_not_right_is_refused(
    tmp_path, certificates, shown, told
):
    """Though the authority is trusted; nothing is asked, and the text says why."""
    async with secure(certificates, shown) as vms:
        tls = Tls(ca_file=certificates.authority)
        assert told in await refused_by_tls(tmp_path, vms.url, tls)
        assert vms.requests == []


@pytest.mark.parametrize("ca", [None, "other_ca.pem"])
async def test_an_unknown_authority_is_refused(tmp_path, certificates, ca):
    """Without `ca_file`, or with that of another authority."""
    tls = Tls(ca_file=certificates.folder / ca if ca else None)
    async with secure(certificates, "good") as vms:
        assert "not trusted" in await refused_by_tls(tmp_path, vms.url, tls)
        assert vms.requests == []


@pytest.mark.parametrize(
    ("shown", "how"),
    [
        ("good", "ca_file"),
        ("good", "fingerprint"),
        ("self", "fingerprint"),
        ("self", "its own ca_file"),
        ("expired", "fingerprint"),
        ("wrong_name", "fingerprint"),
        ("self", "unverified"),
        ("expired", "unverified"),
    ],
)
async def test_a_certificate_that_is_trusted(tmp_path, certificates, shown, how):
    """By its authority, by its fingerprint, or because anything will do."""
    tls = {
        "ca_file": Tls(ca_file=certificates.authority),
        "its own ca_file": Tls(ca_file=certificates.folder / "self.pem"),
        "fingerprint": Tls(fingerprint=certificates.fingerprint(shown)),
        "unverified": Tls(verify=False),
    }[how]
    async with secure(certificates, shown) as vms:
        served = vms.add()
        async with client(tmp_path, vms.url, tls=tls) as made:
            page = await ask_wide(made)
            body = await fetch(made, page.rows[0].url)

        assert hashlib.sha256(body).hexdigest() == vms.truth(served).sha256


@pytest.mark.parametrize("verify", [True, False])
async def test_another_fingerprint_is_refused(tmp_path, certificates, verify):
    """Though the authority is trusted, and even where `verify` is false."""
    async with secure(certificates, "good") as vms:
        tls = Tls(
            ca_file=certificates.authority,
            fingerprint=certificates.fingerprint("second"),
            verify=verify,
        )
        assert "fingerprint" in await refused_by_tls(tmp_path, vms.url, tls)
        assert vms.requests == []


@pytest.mark.parametrize("content", [None, "", "no certificate", "folder"])
async def test_a_ca_file_of_no_use_stops_the_source_only(tmp_path, content):
    """The text names the file and says what to put there; it may come later."""
    path = tmp_path / "vms.pem"
    if content == "folder":
        path.mkdir()
    elif content is not None:
        path.write_text(content)
    async with client(tmp_path, "https://127.0.0.1:9", tls=Tls(ca_file=path)) as made:
        with pytest.raises(ListError) as caught:
            await ask(made)
        with pytest.raises(FetchError):
            await fetch(made, "https://127.0.0.1:9/1.mp4")

    assert caught.value.reason == "tls"
    assert str(path) in str(caught.value) and "PEM" in str(caught.value)


async def test_a_ca_file_that_comes_later_is_taken_up(tmp_path, certificates):
    """No restart is needed."""
    path = tmp_path / "vms.pem"
    async with secure(certificates, "good") as vms:
        async with client(tmp_path, vms.url, tls=Tls(ca_file=path)) as made:
            with pytest.raises(ListError):
                await ask(made)
            shutil.copy(certificates.authority, path)

            assert (await ask(made)).size == 0


@pytest.mark.parametrize("to", ["other", "http"])
async def test_a_redirect_from_https_to_http_is_refused(tmp_path, certificates, to):
    """Before anything is asked there."""
    async with secure(certificates, "self") as vms:
        served = vms.add(then=fault("redirect", to=to))
        async with client(tmp_path, vms.url, tls=Tls(verify=False)) as made:
            page = await ask_wide(made)
            with pytest.raises(OriginRefusedError, match="redirected"):
                await fetch(made, page.rows[0].url)

        assert [request.status for request in vms.file_requests(served)] == [302]


async def test_verify_false_holds_for_the_own_origin_only(tmp_path, certificates):
    """A file elsewhere is fetched only over a connection that is trusted."""
    async with secure(certificates, "self") as vms, secure(certificates, "good") as s3:
        path = s3.file_path(s3.add())
        async with client(
            tmp_path, vms.url, tls=Tls(verify=False), allowed=[s3.url]
        ) as made:
            with pytest.raises(FetchError) as caught:
                await fetch(made, s3.url + path)

        assert caught.value.reason == "tls"
        assert s3.requests == []


async def test_a_server_that_speaks_no_tls(tmp_path):
    """It is a TLS failure in words, not a crash."""
    async with Vms() as vms:
        async with client(tmp_path, vms.url.replace("http", "https")) as made:
            with pytest.raises(ListError) as caught:
                await ask(made)

    assert caught.value.reason in {"tls", "cut"}
