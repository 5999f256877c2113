"""`token set`: the file is for the service alone; what is no token changes nothing."""

from __future__ import annotations

import asyncio
import os
import stat

import pytest

from mirror.simulator import Vms
from tests import warm_command
from tests.command import environment, on
from tests.site import Site


async def put(
    site: Site, text: bytes, source: str = "hq", *more: str
) -> warm_command.Ended:
    """Run `token set` with this standard input, while the VMS lives."""
    arguments = ["token", "set", source, *more, *on(site)]
    return await asyncio.to_thread(
        lambda: warm_command.run(arguments, env=environment(), given=text)
    )


@pytest.fixture
async def site(tmp_path):
    async with Vms() as vms:
        vms.add(size=20_000)
        vms.add(size=30_000)
        site = Site.make(tmp_path, vms)
        assert (await site.once()).saved == 2
        vms.token = "other"
        yield site


async def test_what_is_longer_than_any_token_is_refused(site):
    """The token there was stays."""
    before = (site.folder / "token").read_bytes()
    for text in (b"x" * 65_537, b"x" * 10_000_000):
        done = await put(site, text)
        assert done.code == 1
        assert done.err == (
            b"archive-mirror: standard input is longer than any token\n"
        )
    assert (site.folder / "token").read_bytes() == before


async def test_a_running_service_takes_a_new_token_up(tmp_path):
    async with Vms() as vms:
        site = Site.make(tmp_path, vms)
        async with site.service():
            await site.until(lambda: vms.journal.counters["list_200"] > 0)
            vms.token = "the-new-one"
            await site.until(lambda: vms.journal.counters["list_401"] > 0)
            seen = vms.journal.counters["list_200"]
            done = await put(site, b"Bearer the-new-one\r\n")
            assert done.code == 0, done.err
            await site.until(lambda: vms.journal.counters["list_200"] > seen)
    assert b"the-new-one" not in done.out + done.err
    assert (tmp_path / "token").read_text() == "the-new-one\n"


async def test_a_file_that_others_could_read_is_for_the_service_alone(site):
    (site.folder / "token").chmod(0o640)
    assert (await put(site, b"other\n")).code == 0
    assert stat.S_IMODE((site.folder / "token").stat().st_mode) == 0o600


@pytest.mark.skipif(os.geteuid() != 0, reason="about root")
async def test_root_does_not_write_where_a_link_leads(site):
    """The real path is asked for."""
    (site.folder / "token").rename(site.folder / "real")
    (site.folder / "token").symlink_to("real")
    before = (site.folder / "real").read_bytes()
    done = await put(site, b"other\n")
    assert done.code == 78
    assert b"set token_file to the file's real path" in done.err
    assert (site.folder / "real").read_bytes() == before


async def test_a_new_file_is_for_the_service_alone(site):
    (site.folder / "token").unlink()
    state = site.folder / "state"
    if os.geteuid() == 0:
        os.chown(state, 12_345, 12_346)
    assert (await put(site, b"other\n")).code == 0
    made, owner = (site.folder / "token").stat(), state.stat()
    assert stat.S_IMODE(made.st_mode) == 0o600
    assert (made.st_uid, made.st_gid) == (owner.st_uid, owner.st_gid)


@pytest.mark.parametrize(
    "text", [b"", b"  \n", b"two tokens", b"a\nb\n", b"caf\xc3\xa9"]
)
async def test_what_is_no_token_changes_nothing(site, text):
    before = (site.folder / "token").read_bytes()
    done = await put(site, text)
    assert done.code == 1
    assert b"standard input" in done.err
    assert (site.folder / "token").read_bytes() == before


async def test_an_unknown_source_is_named(site):
    done = await put(site, b"x", "annex")
    assert done.code == 2
    assert b"there are: hq" in done.err


async def test_without_a_token_file_the_key_is_named(site):
    del site.tables["sources"]["hq"]["token_file"]
    site.settings()
    done = await put(site, b"x")
    assert done.code == 78
    assert b'set token_file = "/etc/archive-mirror/hq.token"' in done.err
    assert b"LoadCredential=" in done.err


async def test_a_folder_that_is_not_there_is_named(site):
    site.tables["sources"]["hq"]["token_file"] = str(site.folder / "no" / "token")
    site.settings()
    done = await put(site, b"other")
    assert done.code == 78
    assert str(site.folder / "no" / "token").encode() in done.err
    assert b"Traceback" not in done.err


async def test_a_token_that_the_vms_accepts_is_said_to_be(site):
    done = await put(site, b"other\n")
    assert (done.code, done.err) == (0, b"")
    assert b"the VMS accepts it" in done.out


async def test_a_token_that_the_vms_refuses_is_not_stored(site):
    """Unless that is asked for; neither time it is shown."""
    before = (site.folder / "token").read_bytes()
    refused = await put(site, b"wrong-one\n")
    kept = (site.folder / "token").read_bytes()
    forced = await put(site, b"wrong-one\n", "hq", "--force")

    assert refused.code == 1
    assert b"the VMS refuses this token (401): it is not stored" in refused.err
    assert kept == before
    assert forced.code == 0
    assert b"the VMS refuses it (401)" in forced.out
    assert (site.folder / "token").read_bytes() == b"wrong-one\n"
    assert b"wrong-one" not in refused.out + refused.err + forced.out + forced.err


async def test_a_token_that_cannot_be_tried_is_stored(site):
    """A machine is set up before its VMS may be there."""
    site.tables["sources"]["hq"]["url"] = "http://127.0.0.1:9"
    site.settings()
    done = await put(site, b"other\n")

    assert done.code == 0
    assert b"the token could not be tried: the list could not be read: " in done.err
    assert b"the VMS could not be asked about it" in done.out
    assert (site.folder / "token").read_bytes() == b"other\n"
