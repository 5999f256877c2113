"""`pause`, `resume` and `ack`: what people say, and what the service makes of it."""

from __future__ import annotations

import asyncio
import os
from datetime import datetime, timedelta
from typing import Literal

import pytest
import structlog
from typer.testing import CliRunner

from mirror.app import lock, pause
from mirror.cli.main import app
from mirror.ledger import Ledger
from mirror.model import State
from mirror.simulator import Export as Served
from mirror.simulator import Vms
from tests.afternoon import HOUR, MINUTE, HandmadeSite
from tests.command import on, run, run_beside
from tests.site import Site


@pytest.fixture
async def vms():
    async with Vms() as vms:
        yield vms


@pytest.fixture
async def site(tmp_path, vms):
    vms.add(size=20_000)
    site = Site.make(tmp_path, vms)
    assert (await site.once()).saved == 1
    return site


@pytest.fixture
def handmade(tmp_path):
    with HandmadeSite.open(tmp_path) as handmade:
        yield handmade


def typed(command: str, *arguments: str) -> tuple[int, str]:
    """Run a command in this process; return its code and all that it said."""
    done = CliRunner().invoke(app, [*arguments[-2:], command, *arguments[:-2]])
    structlog.reset_defaults()  # logs went to a stream that is closed now
    return done.exit_code, f"{done.output}{done.exception}"


async def quiet(vms) -> int:
    """Return how often the VMS was asked, once it is left alone for a second."""
    async with asyncio.timeout(30):
        while True:
            asked = len(vms.requests)
            await asyncio.sleep(1)
            if asked == len(vms.requests):
                return asked


async def test_a_paused_source_is_left_alone_until_it_is_resumed(site, vms):
    """Also by the next service; and /readyz does not wait for it."""
    async with site.service():
        done = await run_beside("pause", "hq", "--for", "1h", *on(site))
        assert done.code == 0, done.err
        asked = await quiet(vms)
    new = vms.add(size=30_000)
    async with site.service() as service:
        await site.until(lambda: service.engine is not None)
        await asyncio.sleep(1.5)
        assert len(vms.requests) == asked
        assert not await service.health.unready()
        shown = run("status", "--json", *on(site)).lines[0]
        assert shown["sources"][0]["paused_until"] > shown["targets"][0]["checked"]
        assert "Source hq is paused until" in run("status", *on(site)).out
        await service.health.refresh()
        told = service._metrics.registry.get_sample_value
        assert told("archive_mirror_source_paused", {"source": "hq"}) == 1

        done = await run_beside("resume", "hq", *on(site))
        assert "goes on" in done.out
        await site.until_state(new, State.SAVED)
    assert "was not paused" in (await run_beside("resume", "hq", *on(site))).out


async def test_a_pause_ends_by_itself(site, vms):
    async with site.service() as service:
        await run_beside("pause", "hq", "--for", "4s", *on(site))
        await site.until(
            lambda: (engine := service.engine) and "hq" in engine.pool.paused
        )
        until = run("status", "--json", *on(site)).lines[0]["sources"][0]
        new = vms.add(size=30_000)
        await site.until_state(new, State.SAVED)
    (asked,) = vms.file_requests(new)
    assert asked.at >= datetime.fromisoformat(until["paused_until"])


async def test_a_fetch_under_way_ends_in_the_pause(site, vms):
    slow = vms.add(size=400_000, then="slow")  # six seconds
    next_ = vms.add(size=30_000)
    site.tables["sources"]["hq"]["concurrency"] = 1
    async with site.service():
        await site.until_state(slow, State.FETCHING)
        assert typed("pause", "hq", "--for", "1h", *on(site))[0] == 0
        await site.until_state(slow, State.SAVED)
        await quiet(vms)
    assert site.export(next_).state in {State.READY, State.WAITING}


async def test_a_paused_target_gets_nothing_and_fetching_goes_on(site, vms):
    async with site.service() as service:
        await run_beside("pause", "nas", "--for", "1h", *on(site))
        await site.until(
            lambda: (engine := service.engine) and engine.publishers["nas"].paused
        )
        new = vms.add(size=30_000)
        await site.until_state(new, State.SPOOLED)
        await asyncio.sleep(1)
        assert len(site.media()) == 1
        # The disk of the target is free to go.
        assert str(site.archive) not in (site.export(new).spool_dir or "")
        await run_beside("resume", "nas", *on(site))
        await site.until_state(new, State.SAVED)
    assert len(site.media()) == 2


async def test_once_leaves_what_is_paused_alone(site, vms):
    run("pause", "hq", "--for", "1h", *on(site))
    vms.add(size=30_000)
    asked = len(vms.requests)
    done = await run_beside("once", *on(site))
    assert done.code == 0, done.err
    assert "hq is paused" in done.out
    assert len(vms.requests) == asked


async def test_once_does_not_wait_for_a_paused_target(site, vms):
    run("pause", "nas", "--for", "1h", *on(site))
    new = vms.add(size=30_000)
    done = await run_beside("once", *on(site))
    assert done.code == 3, done.err
    assert site.export(new).state is State.SPOOLED


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("annex", "--for", "1h"), "there are: hq, nas"),
        (("hq", "--for", "soon"), "must be a duration"),
        (("hq", "--for", "0s"), "at least 1s"),
        (("hq",), "--for"),
        (("targets.hq", "--for", "1h"), "there are: hq, nas"),
    ],
)
async def test_wrong_usage_is_said(site, arguments, words):
    code, said = typed("pause", *arguments, *on(site))
    assert (code, words in said) == (2, True), said


async def test_a_name_that_two_bear_must_say_which(site):
    site.tables["targets"]["hq"] = {
        "type": "directory",
        "path": str(site.folder / "second"),
    }
    site.settings()
    assert "targets.hq" in run("pause", "hq", "--for", "1h", *on(site)).err
    done = run("pause", "targets.hq", "--for", "1h", *on(site))
    assert "target hq is paused" in done.out


async def test_without_a_ledger_there_is_nothing_to_pause(tmp_path, vms):
    site = Site.make(tmp_path, vms)
    site.settings()
    done = run("pause", "hq", "--for", "1h", *on(site))
    assert done.code == 1
    assert "start the service first" in done.err


def paused(handmade: HandmadeSite, hours: int, name: str = "hq") -> str:
    kind: Literal["source", "target"] = (
        "source" if name in handmade.settings.sources else "target"
    )
    handmade.settings = handmade.settings.model_copy(
        update={"state_dir": handmade.folder}
    )
    length = timedelta(hours=hours)
    lines = pause.pause(handmade.settings, kind, name, length, handmade.now_us)
    return "\n".join(lines)


def test_the_answer_names_what_a_pause_endangers(handmade):
    due = handmade.add("hq", State.READY, made_us=2 * HOUR)
    late = handmade.add("hq", State.READY, made_us=MINUTE)
    handmade.add("hq", State.FETCHING, made_us=2 * HOUR)
    handmade.add("depot", State.READY, made_us=2 * HOUR)

    short, long = paused(handmade, 2), paused(handmade, 4)

    assert "1 export reaches" in short
    assert f"hq/{due} " in short
    assert f"hq/{late} " not in short
    assert "is not seen" not in short
    assert "2 exports reach" in long
    assert f"hq/{late} " in long
    assert "is not seen" in long
    assert "DANGER" not in paused(handmade, 1, "vault")


def test_a_pause_that_fills_the_spool_is_told(handmade, monkeypatch):
    for minutes in range(1, 40):
        handmade.keep("hq", made_us=minutes * MINUTE, took_us=1)
    monkeypatch.setattr(
        os,
        "statvfs",
        lambda _: type("S", (), {"f_bavail": 1, "f_frsize": 99, "f_blocks": 9}),
    )
    assert "the spool is full nothing is fetched" in paused(handmade, 6, "nas")


def test_a_clock_put_back_ends_a_pause(handmade):
    now = handmade.now_us
    handmade.ledger.pauses.pause_target("nas", from_us=now, until_us=now + HOUR)
    handmade.ledger.pauses.pause_source("hq", from_us=now, until_us=now + HOUR)

    names = [
        (sorted(found.sources), sorted(found.targets))
        for at in (now - 1, now, now + HOUR - 1, now + HOUR)
        for found in [handmade.ledger.pauses.now(at)]
    ]

    assert names == [([], []), (["hq"], ["nas"]), (["hq"], ["nas"]), ([], [])]


async def lose(site: Site, vms: Vms) -> Served:
    """Have an export be lost."""
    site.tables["sources"]["hq"]["file_lifetime"] = "1s"
    gone = vms.add(then="status_404")
    async with site.service():
        await site.until(lambda: bool(vms.file_requests(gone)))
        vms.delete_file(gone)
        await site.until_state(gone, State.LOST)
    return gone


async def test_a_loss_is_acknowledged_and_stays_counted(site, vms):
    name = f"hq/{(await lose(site, vms)).export_id}"
    before = run("status", "--json", *on(site)).lines[0]
    assert (before["lost_by_us"], before["unacknowledged"]) == (1, 1)
    assert "nobody has taken note of it" in run("status", *on(site)).out

    done = run("ack", name, "--note", "made again as 77", *on(site))

    assert done.code == 0, done.err
    after = run("status", "--json", *on(site)).lines[0]
    assert (after["lost_by_us"], after["unacknowledged"]) == (1, 0)
    shown = run("show", name, "--json", *on(site)).lines[0]
    assert shown["note"] == "made again as 77"
    assert shown["acknowledged_at"] is not None
    assert "made again as 77" in run("show", name, *on(site)).out
    assert "expired, noted" in run("list", "--state", "lost", *on(site)).out


async def test_all_losses_of_a_source_are_acknowledged_at_once(site, vms):
    """Only those of which nobody took note, so that no note is written over."""
    noted = f"hq/{(await lose(site, vms)).export_id}"
    run("ack", noted, "--note", "the first", *on(site))
    fresh = f"hq/{(await lose(site, vms)).export_id}"
    site.tables["sources"]["annex"] = dict(site.tables["sources"]["hq"])
    site.settings()
    everywhere = ("ack", "--state", "lost", "--note", "the outage")

    elsewhere = run(*everywhere, "--source", "annex", *on(site))
    unknown = run(*everywhere, "--source", "nope", *on(site))
    done = run(*everywhere, "--source", "hq", *on(site))
    again = run(*everywhere, *on(site))

    assert (elsewhere.code, again.code) == (0, 0)
    assert elsewhere.out == again.out == "no loss waits to be acknowledged\n"
    assert (unknown.code, "there are: annex, hq" in unknown.err) == (2, True)
    assert done.out == "1 of 1 losses are acknowledged\n"
    assert run("status", "--json", *on(site)).lines[0]["unacknowledged"] == 0
    notes = [
        run("show", name, "--json", *on(site)).lines[0]["note"]
        for name in (noted, fresh)
    ]
    assert notes == ["the first", "the outage"]


async def test_what_is_lost_again_is_told_again(site, vms):
    again = await lose(site, vms)
    name = f"hq/{again.export_id}"
    run("ack", name, "--note", "seen", *on(site))
    async with site.service():
        await run_beside("retry", name, *on(site))
        await site.until(lambda: site.export(again).acknowledged_us is None)
        await site.until_state(again, State.LOST)
    ledger = Ledger.read(site.folder / "state")
    assert ledger.queries.unacknowledged() == {"hq": 1}
    ledger.close()


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("hq/ID", "--note", "x"), 1, "only a lost export"),
        (("hq/1", "--note", "x"), 1, "no export hq/1"),
        (("hq/ID", "--note", " "), 2, "--note"),
        (("hq/ID", "--note", "a\nb"), 2, "--note"),
        (("hq/ID",), 2, "--note"),
        (("--note", "x"), 2, "SOURCE/ID"),
        (("--note", "x", "--source", "hq"), 2, "SOURCE/ID"),
        (("hq/ID", "--note", "x", "--source", "hq"), 2, "--source goes with"),
        (("--state", "saved", "--note", "x"), 2, "--state"),
    ],
)
async def test_what_cannot_be_acknowledged_is_said(site, vms, arguments, code, words):
    (kept,) = site.exports()
    mine = [one.replace("ID", str(kept)) for one in arguments]
    ended, said = typed("ack", *mine, *on(site))
    assert (ended, words in said) == (code, True), said


async def test_the_plugin_answers_whatever_happens(site, tmp_path):
    async with site.service() as service:
        await site.until(lambda: service.engine is not None)
        assert (await run_beside("status", "--nagios", *on(site))).code == 0
    dead = run("status", "--nagios", *on(site))
    assert (dead.code, "does not run" in dead.out) == (2, True)
    (site.folder / "state" / "ledger.sqlite3").write_bytes(b"no ledger" * 1000)
    broken = run("status", "--nagios", *on(site))
    assert (broken.code, "is damaged" in broken.out) == (3, True), broken
    absent = run("status", "--nagios", "-c", tmp_path / "none.toml")
    assert (absent.code, "no such file" in absent.out) == (3, True)
    assert all(len(one.out.splitlines()) == 1 for one in (dead, broken, absent))


async def test_looking_whether_it_runs_keeps_nobody_from_starting(site):
    """However often somebody looks."""
    state, ended, times = site.folder / "state", False, 0

    def look() -> None:
        while not ended:
            lock.is_held(state)

    looking = asyncio.create_task(asyncio.to_thread(look))
    try:
        for _ in range(200):
            with lock.held(state):
                await asyncio.sleep(0)
                times += 1
    finally:
        ended = True
        await looking

    assert times == 200
    assert not lock.is_held(state)
