"""The service as IT runs it: stops, kills, tokens, reloads, targets that go away."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import signal
import sys
from datetime import timedelta

import aiohttp
import pytest

from mirror.model import State
from mirror.simulator import Fault, Kind, Stage, Vms
from tests import warm_command
from tests.site import Site

MB = 1_000_000


@pytest.fixture
async def vms():
    async with Vms() as served:
        yield served


async def start(
    site: Site, *, stderr: int = asyncio.subprocess.PIPE
) -> asyncio.subprocess.Process:
    """Start the real command on a site's configuration."""
    site.settings()
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "mirror",
        "run",
        "--config",
        str(site.folder / "archive-mirror.toml"),
        "--log-format",
        "json",
        stderr=stderr,
    )


async def test_an_export_is_kept_with_its_sidecar(tmp_path, vms):
    """The whole way: listed, fetched, proven, published, recorded."""
    site = Site.make(tmp_path, vms)
    served = vms.add(size=300_000)
    async with site.service():
        await site.until_state(served, State.SAVED)

    assert list(site.media().values()) == [vms.truth(served).sha256]
    assert site.export(served).sha256 == vms.truth(served).sha256


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
async def test_a_stopped_or_killed_service_resumes(tmp_path, vms, number):
    """The next run asks with Range for what is missing, and the bytes are right."""
    site = Site.make(tmp_path, vms)
    slow = Fault(kind=Kind.RATE, rate=1_200_000)  # ten seconds
    served = vms.add(size=12 * MB, faults=[slow])
    first = await start(site)
    await site.until(
        lambda: bool(site.exports()) and site.export(served).part_bytes > 500_000
    )
    first.send_signal(number)
    code = await asyncio.wait_for(first.wait(), 60)
    held = site.export(served).part_bytes

    second = await start(site)
    await site.until_state(served, State.SAVED)
    second.send_signal(signal.SIGTERM)
    await asyncio.wait_for(second.wait(), 60)

    assert code == (0 if number == signal.SIGTERM else -signal.SIGKILL)
    assert second.returncode == 0
    assert held > 500_000
    ranges = [request.range for request in vms.file_requests(served)]
    assert ranges == [None, f"bytes={held}-"]
    assert list(site.media().values()) == [vms.truth(served).sha256]


async def test_a_graceful_stop_leaves_the_export_ready_and_due(tmp_path, vms):
    """What is in flight goes back to ready, bytes kept, due at once."""
    site = Site.make(tmp_path, vms)
    served = vms.add(size=3 * MB, faults=[Fault(kind=Kind.STALL, after=MB)])
    async with site.service() as service:
        await site.until(
            lambda: (
                service.engine is not None
                and service.engine.progress.received_bytes > 500_000
            )
        )

    export = site.export(served)
    assert (export.state, export.due_us) == (State.READY, 0)
    assert export.part_bytes > 500_000
    assert site.kept() == {}


async def test_a_new_token_is_taken_up_without_a_restart(tmp_path, vms):
    """401 is one loud state; nothing is hammered; a right token ends it."""
    site = Site.make(tmp_path, vms)
    site.tables["transfer"] |= {"retry_initial": "1s", "retry_max": "30s"}
    (tmp_path / "token").write_text("wrong")
    served = vms.add()
    async with site.service():
        await site.until(lambda: vms.journal.counters.get("list_401", 0) > 3)
        (tmp_path / "token").write_text(f"Bearer {vms.token}\n")
        await site.until_state(served, State.SAVED)

    refused = [one.at for one in vms.requests if one.status == 401]
    # A poll and a sweep at the start; then with a back-off of a second and more.
    took_s = (refused[-1] - refused[0]).total_seconds()
    assert len(refused) <= 4 + 4 * took_s


async def test_files_get_no_credentials(tmp_path, vms):
    """The token and the device id go to the API only; bodies are asked for plain."""
    site = Site.make(tmp_path, vms)
    served = vms.add()
    await site.once()

    (request,) = vms.file_requests(served)
    names = {name.lower() for name in request.headers}
    assert not names & {"authorization", "cookie", "x-uuid", "x-client"}
    assert request.headers["Accept-Encoding"] == "identity"


async def test_an_expired_export_is_lost_and_says_why(tmp_path, vms):
    """Past its deadline and seen without its file in three walks."""
    site = Site.make(tmp_path, vms, file_lifetime="1s")
    site.tables["sources"]["hq"]["sweep_interval"] = "100ms"
    async with site.service():
        await site.until(site.swept)
        served = vms.add(then="status_404")
        await site.until_state(served, State.LOST)

    export = site.export(served)
    assert (export.reason, export.counts_as_ours) == ("expired", True)
    assert "404" in (export.last_error or "")
    assert site.dossier(served).attempts


async def test_a_row_that_is_gone_ends_after_two_complete_sweeps(tmp_path, vms):
    """Absence counts only from complete sweeps, and only past the deadline."""
    site = Site.make(tmp_path, vms, file_lifetime="1s")
    served = vms.add(then="status_500")
    async with site.service():
        await site.until(lambda: served.export_id in site.exports())
        vms.remove_row(served)
        await site.until(lambda: site.exports()[served.export_id].state is State.LOST)

    assert site.exports()[served.export_id].reason == "row_gone"


async def test_a_file_that_is_made_again_after_its_loss_is_fetched(tmp_path, vms):
    """Lost is not for ever: the flag turns true again."""
    site = Site.make(tmp_path, vms, file_lifetime="500ms")
    served = vms.add(stage=Stage.MADE, faults=["status_500"], then="status_500")
    async with site.service():
        await site.until(lambda: served.export_id in site.exports())
        vms.delete_file(served)
        await site.until_state(served, State.LOST)
        vms.script(served)
        vms.make_file(served)
        await site.until_state(served, State.SAVED)

    assert list(site.media().values()) == [vms.truth(served).sha256]


async def test_a_target_that_goes_away_does_not_stop_fetching(tmp_path, vms):
    """The other spool takes the files; nothing lands at the bare mount point."""
    site = Site.make(tmp_path, vms)
    first = vms.add()
    async with site.service():
        await site.until_state(first, State.SAVED)
        site.archive.rename(tmp_path / "away")
        site.archive.mkdir()
        second = vms.add(size=200_000)
        await site.until_state(second, State.SPOOLED)
        assert list(site.archive.rglob("*")) == []
        site.archive.rmdir()
        (tmp_path / "away").rename(site.archive)
        await site.until_state(second, State.SAVED)

    assert len(site.media()) == 2
    assert vms.truth(second).sha256 in site.media().values()


async def test_a_foreign_file_at_the_path_is_not_overwritten(tmp_path, vms):
    """The copy is told apart by ~2; the foreign bytes stay."""
    site = Site.make(tmp_path, vms)
    site.tables["targets"]["nas"]["layout"] = "{id}"
    served = vms.add()
    site.archive.mkdir()
    foreign = site.archive / f"{served.export_id}.mp4"
    foreign.write_bytes(b"somebody else's")
    await site.once()

    assert foreign.read_bytes() == b"somebody else's"
    assert site.media()[f"{served.export_id}~2.mp4"] == vms.truth(served).sha256


async def test_an_id_counted_anew_is_another_export(tmp_path, vms):
    """A reinstalled VMS starts again at 1: both files are kept."""
    site = Site.make(tmp_path, vms)
    site.tables["targets"]["nas"]["layout"] = "{id}"
    old = vms.add(export_id=1)
    await site.once()
    old_sha = vms.truth(old).sha256
    vms.remove_row(old)
    new = vms.add(export_id=1, created_at=vms.now() + timedelta(seconds=5), size=50_000)
    await site.once()

    assert sorted(site.media()) == ["1.mp4", "1~2.mp4"]
    assert site.media()["1.mp4"] == old_sha
    assert site.media()["1~2.mp4"] == vms.truth(new).sha256


async def test_two_targets_hold_files_of_their_own(tmp_path, vms):
    """One damaged block must not take both copies: they share no inode."""
    site = Site.make(tmp_path, vms)
    other = tmp_path / "other"
    site.tables["targets"]["two"] = {"type": "directory", "path": str(other)}
    served = vms.add(size=100_000)
    report = await site.once()

    (one,) = site.media()
    assert report.exit_code == 0
    assert (site.archive / one).stat().st_ino != (other / one).stat().st_ino
    assert (other / one).read_bytes() == (site.archive / one).read_bytes()
    assert site.export(served).state is State.SAVED


async def test_a_target_added_later_is_filled_from_its_sibling(tmp_path, vms):
    """The VMS need not have the file any more."""
    site = Site.make(tmp_path, vms)
    served = vms.add(size=100_000)
    await site.once()
    vms.delete_file(served)
    other = tmp_path / "other"
    site.tables["targets"]["two"] = {"type": "directory", "path": str(other)}
    await site.once()

    (one,) = site.media()
    assert (other / one).read_bytes() == (site.archive / one).read_bytes()
    assert site.export(served).state is State.SAVED


async def test_a_lost_spool_file_is_fetched_anew(tmp_path, vms):
    """spooled, the file gone: ready again for that reason, and saved in the end."""
    site = Site.make(tmp_path, vms)
    site.archive.write_text("a file where the target should be")
    served = vms.add(size=100_000)
    async with site.service():
        await site.until_state(served, State.SPOOLED)
        shutil.rmtree(tmp_path / "state" / "spool")
        site.archive.unlink()
        await site.until_state(served, State.SAVED)

    assert len(vms.file_requests(served)) == 2
    assert list(site.media().values()) == [vms.truth(served).sha256]


async def test_metrics_and_health_are_served(tmp_path, vms):
    """Prometheus reads the counts of the ledger; health says ok."""
    site = Site.make(tmp_path, vms)
    port = 0
    served = vms.add()
    process = await start(site)
    assert process.stderr is not None
    try:
        while not port:
            line = (await process.stderr.readline()).decode()
            found = re.search(
                r'"port": (\d+).*http.listening|http.listening.*"port": (\d+)', line
            )
            if found:
                port = int(found.group(1) or found.group(2))
        await site.until_state(served, State.SAVED)
        async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session:
            async with session.get("/metrics") as response:
                text = await response.text()
            async with session.get("/healthz") as response:
                assert response.status == 200
            async with session.get("/readyz") as response:
                assert response.status == 200
            async with session.post("/metrics") as response:
                assert response.status == 405
    finally:
        process.send_signal(signal.SIGTERM)
        await process.communicate()

    assert 'archive_mirror_exports{source="hq",state="saved"} 1.0' in text
    assert 'archive_mirror_exports_saved_total{source="hq"} 1.0' in text
    assert vms.token not in text


async def test_a_second_instance_is_refused(tmp_path, vms):
    """One service per state directory: exit 75."""
    site = Site.make(tmp_path, vms)
    async with site.service():
        await site.until((tmp_path / "state" / "ledger.sqlite3").exists)
        second = await start(site)
        assert second.stderr is not None
        text = (await second.stderr.read()).decode()
        assert await second.wait() == 75

    assert str(os.getpid()) in text


async def test_a_reload_takes_up_another_configuration(tmp_path, vms):
    """SIGHUP: a broken one is refused, a good one replaces the old."""
    site = Site.make(tmp_path, vms)
    served = vms.add(camera_id=17)
    site.tables["sources"]["hq"]["rules"] = []
    process = await start(site)
    await site.until_state(served, State.SAVED)
    config = tmp_path / "archive-mirror.toml"
    config.write_text("nonsense = ")
    process.send_signal(signal.SIGHUP)
    assert process.stderr is not None
    errors = b""
    while b"config.refused" not in errors:
        line = await process.stderr.readline()
        assert line, "it has ended"
        errors += line
    late = vms.add()
    site.tables["targets"]["two"] = {
        "type": "directory",
        "path": str(tmp_path / "other"),
    }
    site.settings()
    process.send_signal(signal.SIGHUP)
    await site.until(lambda: len(list((tmp_path / "other").rglob("*.mp4"))) == 2)
    process.send_signal(signal.SIGTERM)
    _, more = await process.communicate()

    assert process.returncode == 0
    assert site.export(late).state is State.SAVED
    assert b"config.reloaded" in more


async def test_commands_beside_the_service_take_effect(tmp_path, vms):
    """`retry` from another process is noticed within seconds."""
    site = Site.make(tmp_path, vms)
    site.tables["transfer"] |= {"retry_initial": "60s", "retry_max": "600s"}
    served = vms.add(faults=["status_500"])
    config = str(tmp_path / "archive-mirror.toml")
    async with site.service():
        await site.until(
            lambda: (
                served.export_id in site.exports()
                and site.export(served).attempts == 1
                and site.export(served).state is State.READY
            )
        )
        words = ["retry", f"hq/{served.export_id}", "-c", config]
        assert (await asyncio.to_thread(warm_command.run, words)).code == 0
        await site.until_state(served, State.SAVED)


async def test_what_waits_from_before_the_sweeps_is_still_tried(tmp_path, vms):
    """A row older than sweep_depth gets its file in the end."""
    site = Site.make(tmp_path, vms, sweep_depth="1h")
    created = vms.now() - timedelta(days=900)
    served = vms.add(created_at=created, faults=["status_404"])
    await site.once()
    assert site.export(served).state is State.WAITING
    await site.once()

    assert list(site.media().values()) == [vms.truth(served).sha256]


async def test_tries_without_a_file_leave_nothing_in_the_spool(tmp_path, vms):
    """No empty parts are heaped up on the archive's disk."""
    site = Site.make(tmp_path, vms)
    for fault in ("status_404", "redirect_other", "html", "empty"):
        vms.add(then=fault)
    await site.once()

    assert list(site.archive.rglob("*.part")) == []


async def test_what_a_saved_export_left_in_the_spool_is_swept_up(tmp_path, vms):
    """At a start; what may be all that is left of an export stays."""
    site = Site.make(tmp_path, vms)
    saved, lost = vms.add(), vms.add(then="status_404")
    await site.once()
    folder = site.archive / ".archive-mirror" / "spool"
    async with site.engine() as engine:
        of_saved, of_lost = (
            engine.spool.file_name(site.export(one)) for one in (saved, lost)
        )
        unknown = of_saved.replace(f"-{saved.export_id}-", "-999-")
        for name in (of_saved, of_lost, unknown):
            (folder / name).write_bytes(b"footage")
            os.utime(folder / name, (1, 1))
        await engine.prepare()

    assert {path.name for path in folder.iterdir()} == {of_lost, unknown}


@pytest.mark.parametrize("reader", ["dead", "asleep"])
async def test_nobody_need_read_the_log(tmp_path, vms, reader):
    """The service saves what comes, and stops when told to."""
    site = Site.make(tmp_path, vms)
    site.settings()
    ours, theirs = os.pipe()
    if reader == "asleep":
        os.set_blocking(theirs, False)
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(theirs, b"x" * 4096)
        os.set_blocking(theirs, True)
    process = await start(site, stderr=theirs)
    os.close(theirs)
    if reader == "dead":
        os.close(ours)
    served = vms.add()
    await site.until_state(served, State.SAVED)
    process.send_signal(signal.SIGTERM)
    async with asyncio.timeout(30):
        assert await process.wait() == 0
    if reader == "asleep":
        os.close(ours)
