"""The commands as people and scripts run them: exit codes, streams, promised keys."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from mirror import __version__
from mirror.simulator import Stage, Vms
from tests import warm_command
from tests.site import Site

ROOT = Path(__file__).resolve().parents[2]
DAY = datetime(2024, 5, 1, 8, 0, tzinfo=UTC)
EVIL = "Gate \x1b[31m\x07\r\n\u202e\x9b2J.mp4"
RAW_CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e]")
KEYS = {
    "source": (str,),
    "id": (int,),
    "state": (str,),
    "reason": (str, type(None)),
    "name": (str, type(None)),
    "camera_id": (int, type(None)),
    "stream_type": (str, type(None)),
    "footage_from": (str, type(None)),
    "footage_to": (str, type(None)),
    "created_at": (str, type(None)),
    "first_seen": (str,),
    "version": (int,),
    "deadline": (str, type(None)),
    "size_bytes": (int, type(None)),
    "sha256": (str, type(None)),
    "proof": (str, type(None)),
    "doubt": (str, type(None)),
    "attempts": (int,),
    "last_error": (str, type(None)),
    "copies": (list,),
}
TIMES = ("footage_from", "footage_to", "created_at", "first_seen", "deadline")


@dataclass(frozen=True, slots=True)
class Ran:
    """A command that has ended."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[dict[str, Any]]:
        """Its stdout as one JSON object a line."""
        return [json.loads(line) for line in self.out.splitlines()]


def environment(**more: str) -> dict[str, str]:
    """Return ours without what would configure the program."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("ARCHIVE_MIRROR", "JOURNAL", "NOTIFY", "CREDENTIALS"))
    }
    return kept | {"PYTHONPATH": str(ROOT)} | more


def run(*arguments: str | Path, **env: str) -> Ran:
    """Run the real command to its end."""
    done = warm_command.run([*map(str, arguments)], env=environment(**env))
    ran = Ran(done.code, done.out.decode(), done.err.decode())
    assert "Traceback" not in ran.err + ran.out
    return ran


async def run_beside(*arguments: str | Path, **env: str) -> Ran:
    """Run it while the simulated VMS lives in this process."""
    return await asyncio.to_thread(lambda: run(*arguments, **env))


def on(site: Site) -> tuple[str, str]:
    """Return the options that name a site's configuration."""
    return "--config", str(site.folder / "archive-mirror.toml")


@pytest.fixture(scope="module")
def full(tmp_path_factory) -> Site:
    """Give a site with two sources and exports of many kinds; only to be read."""
    return asyncio.run(_fill(tmp_path_factory.mktemp("full")))


async def _fill(folder: Path) -> Site:
    async with Vms() as hq, Vms(seed=1) as annex:
        site = Site.make(folder, hq, sweep_depth="9999d")
        site.tables["sources"]["annex"] = {
            "url": annex.url,
            "token_file": str(folder / "token"),
            "sweep_depth": "9999d",
        }
        hq.add(export_id=7, name="Gate.mp4", camera_id=1, created_at=DAY)
        hq.add(
            export_id=8,
            name="Yard.mp4",
            camera_id=2,
            created_at=DAY + timedelta(days=1),
            stage=Stage.ASKED,
        )
        hq.add(
            export_id=9,
            name="Roof.mp4",
            created_at=DAY + timedelta(days=2),
            then="redirect_other",
        )
        hq.add(export_id=11, name=EVIL, camera_id=2, created_at=DAY, stage=Stage.ASKED)
        old = hq.add(export_id=10, name="Old.mp4", created_at=DAY)
        annex.add(export_id=7, name="Gate.mp4", created_at=DAY, camera_id=3)
        annex.add(export_id=21, name="Hall.mp4", created_at=DAY)
        await site.once()
        hq.remove_row(old)
        hq.add(export_id=10, name="New.mp4", created_at=DAY + timedelta(days=3))
        await site.once()
        return site


def labels(ran: Ran) -> list[str]:
    """Return which exports `list --json` printed."""
    assert ran.code == 0, ran
    return [f"{one['source']}/{one['id']}" for one in ran.lines]


def tree(folder: Path) -> dict[str, tuple[int, bytes | None]]:
    """Return all there is in a folder, with modes and bytes."""
    return {
        str(path.relative_to(folder)): (
            path.lstat().st_mode,
            path.read_bytes() if path.is_file() else None,
        )
        for path in sorted(folder.rglob("*"))
    }


# -- the options that go with every command --------------------------------------


def test_the_version():
    """On stdout, exit 0, without a configuration."""
    ran = run("--version")

    assert (ran.code, ran.out, ran.err) == (
        0,
        f"archive-mirror {__version__}\n",
        "",
    )


@pytest.mark.parametrize("arguments", [["--help"], ["list", "-h"]])
def test_help(arguments):
    """On stdout, exit 0."""
    ran = run(*arguments)

    assert (ran.code, ran.err) == (0, "")
    assert "Usage" in ran.out


def test_the_configuration_may_be_named_anywhere(full):
    """Before the command, after it, in one word, by the environment."""
    path = str(full.folder / "archive-mirror.toml")
    forms: list[list[str]] = [
        ["--config", path, "list", "--json"],
        ["list", "--json", "--config", path],
        ["list", "-c", path, "--json"],
        [f"-c{path}", "list", "--json"],
        ["list", f"-c{path}", "--json"],
        [f"--config={path}", "list", "--json"],
    ]
    printed = {run(*form).out for form in forms}
    printed.add(run("list", "--json", ARCHIVE_MIRROR_CONFIG=path).out)

    assert len(printed) == 1
    assert len(printed.pop().splitlines()) == 8


def test_the_option_wins_over_the_environment(full, tmp_path):
    """As always."""
    ran = run(*on(full), "list", "--json", ARCHIVE_MIRROR_CONFIG=str(tmp_path / "no"))

    assert len(labels(ran)) == 8


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["bogus"],
        ["retry"],
        ["list", "--state", "bogus"],
        ["list", "--camera", "north"],
        ["list", "--since", "yesterday"],
        ["--log-level", "loud", "list"],
        ["list", "--log-format", "xml"],
        ["once", "--dry-run=maybe"],
        ["simulate-vms", "--port", "0", "--fault", "bogus"],
    ],
)
def test_wrong_usage_is_2(full, arguments):
    """The text is on stderr, nothing on stdout."""
    ran = run(*arguments, ARCHIVE_MIRROR_CONFIG=on(full)[1])

    assert (ran.code, ran.out) == (2, "")
    assert "Error" in ran.err or "Usage" in ran.err


@pytest.mark.parametrize(
    "command",
    [
        ["run"],
        ["once"],
        ["check"],
        ["status"],
        ["verify"],
        ["retry", "hq/7"],
    ],
)
def test_a_wrong_configuration_is_78(tmp_path, command):
    """Every fault at once on stderr, each with its key; nothing is made."""
    path = tmp_path / "archive-mirror.toml"
    path.write_text(
        'state_dir = "state"\nbogus = 1\n[sources.hq]\nurl = 7\nper_page = -1\n'
        '[targets.nas]\ntype = "floppy"\n'
    )
    ran = run(*command, "-c", path)

    assert (ran.code, ran.out) == (78, "")
    for key in ("bogus", "sources.hq.url", "sources.hq.per_page", "targets.nas"):
        assert key in ran.err
    assert all(line.startswith("configuration: ") for line in ran.err.splitlines())
    assert list(tmp_path.iterdir()) == [path]


def test_a_missing_configuration_is_78(tmp_path):
    """The text names the file."""
    ran = run("status", "-c", tmp_path / "none.toml")

    assert ran.code == 78 and "none.toml" in ran.err


# -- a ledger that is not there, or is none --------------------------------------


@pytest.fixture
def bare(tmp_path) -> Site:
    """Give a site that never ran and whose VMS does not answer."""
    (tmp_path / "token").write_text("a-secret-token")
    tables = {
        "state_dir": str(tmp_path / "state"),
        "sources": {
            "hq": {"url": "http://127.0.0.1:1", "token_file": str(tmp_path / "token")}
        },
        "targets": {"nas": {"type": "directory", "path": str(tmp_path / "archive")}},
        "http": {"listen": "127.0.0.1:0"},
        "transfer": {"retry_initial": "20ms", "retry_max": "50ms"},
    }
    site = Site(tmp_path, tables)
    site.settings()
    return site


def test_an_absent_ledger_reads_as_an_empty_one(bare):
    """And no command that only asks makes one."""
    before = tree(bare.folder)
    empty = run(*on(bare), "status", "--json")
    assert (empty.code, empty.lines[0]["exports"], empty.err) == (0, {}, "")
    assert run(*on(bare), "status").code == 0
    assert (run(*on(bare), "list", "--json").code, empty.err) == (0, "")
    assert run(*on(bare), "list").code == 0
    shown = run(*on(bare), "show", "hq/7")
    assert (shown.code, shown.out) == (1, "") and "hq/7" in shown.err
    assert run(*on(bare), "retry", "hq/7").code == 1
    assert run(*on(bare), "retry", "--state", "lost").code == 0
    verified = run(*on(bare), "verify", "--json")
    assert (verified.code, verified.lines[0]["checked"], verified.err) == (0, 0, "")

    assert tree(bare.folder) == before


def test_a_damaged_ledger_is_told_in_one_line(bare):
    """Not as a traceback; exit 74."""
    (bare.folder / "state").mkdir()
    (bare.folder / "state" / "ledger.sqlite3").write_bytes(b"no database" * 1000)
    for command in (["status"], ["list"], ["show", "hq/7"], ["verify"], ["once"]):
        ran = run(*on(bare), *command)
        assert (ran.code, ran.out) == (74, "")
        assert "ledger" in ran.err


# -- list -------------------------------------------------------------------------


def test_list_json_has_exactly_the_promised_keys(full):
    """In that order, with those types; unknown is null, times end in Z."""
    ran = run(*on(full), "list", "--json")

    assert ran.err == ""
    assert len(ran.lines) == 8
    for line in ran.lines:
        assert list(line) == list(KEYS)
        for key, kinds in KEYS.items():
            assert type(line[key]) in kinds, (key, line[key])
        for key in TIMES:
            assert line[key] is None or line[key].endswith("Z")
        for copy in line["copies"]:
            assert list(copy) == ["target", "state", "path", "verified_at"]
            assert not Path(copy["path"]).is_absolute()
    saved = next(line for line in ran.lines if line["name"] == "Gate.mp4")
    assert saved["state"] == saved["copies"][0]["state"] == "saved"
    assert (full.archive / saved["copies"][0]["path"]).stat().st_size == (
        saved["size_bytes"]
    )
    waiting = next(line for line in ran.lines if line["id"] == 8)
    assert (waiting["sha256"], waiting["size_bytes"], waiting["copies"]) == (
        None,
        None,
        [],
    )
    assert "/storage/" not in ran.out


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (
            [],
            ["hq/10", "hq/9", "hq/8", "annex/7", "hq/10", "hq/11", "annex/21", "hq/7"],
        ),
        (["--state", "unavailable"], ["hq/8", "hq/11"]),
        (["--state", "parked"], ["hq/9"]),
        (["--source", "annex"], ["annex/7", "annex/21"]),
        (["--camera", "2"], ["hq/8", "hq/11"]),
        (["--camera", "3", "--state", "saved"], ["annex/7"]),
        (["--camera", "3", "--state", "waiting"], []),
        (["--since", "2024-05-03T08:00:00Z"], ["hq/10", "hq/9"]),
        (["--since", "2024-05-04"], ["hq/10"]),
        (["--since", "2024-05-03T10:00:00+02:00"], ["hq/10", "hq/9"]),
        (["--since", "2024-05-02", "--until", "2024-05-03T08:00:00Z"], ["hq/8"]),
        (["--name", "Gate.mp4"], ["annex/7", "hq/7"]),
        (["--name", "*a*.mp4"], ["hq/8", "annex/7", "hq/11", "annex/21", "hq/7"]),
        (["--name", "gate.mp4"], []),
        (["--name", "' OR 1=1 --"], []),
    ],
)
def test_filters(full, options, expected):
    """Each narrows the list; times are `created_at`, from included, to excluded."""
    found = labels(run(*on(full), "list", "--json", *options))

    assert sorted(found) == sorted(expected)


def test_list_is_newest_first(full):
    """By the time the VMS made the row."""
    ran = run(*on(full), "list", "--json")
    created = [line["created_at"] for line in ran.lines]

    assert created == sorted(created, reverse=True)


@pytest.mark.parametrize(
    "arguments",
    [
        ["list", "--camera", "99999999999999999999"],
        ["show", "hq/99999999999999999999"],
        ["show", "hq/" + "9" * 5000],
        ["retry", "99999999999999999999"],
    ],
)
def test_a_number_no_export_can_have(full, arguments):
    """It is not found, or refused as usage; it is no unforeseen failure."""
    ran = run(*on(full), *arguments)

    assert ran.code in {0, 1, 2}
    assert "unexpected failure" not in ran.err


def test_a_reader_that_leaves_early(full):
    """`list | head -1` is no failure worth a traceback."""
    command = f'"{sys.executable}" -u -m mirror list --json | head -1; exit 0'
    done = subprocess.run(
        ["/bin/sh", "-c", command],
        capture_output=True,
        env=environment(ARCHIVE_MIRROR_CONFIG=on(full)[1]),
        timeout=60,
        check=False,
    )

    assert json.loads(done.stdout)["id"] == 10
    assert done.stderr == b""


def test_a_reader_that_is_already_gone(full):
    """All is written to a pipe that nobody reads; still no traceback."""
    for arguments in (["list", "--json"], ["list"], ["status"], ["show", "hq/8"]):
        reader, writer = os.pipe()
        os.close(reader)
        try:
            done = subprocess.run(
                [sys.executable, "-m", "mirror", *arguments, *on(full)],
                stdout=writer,
                stderr=subprocess.PIPE,
                env=environment(),
                timeout=60,
                check=False,
            )
        finally:
            os.close(writer)
        assert done.stderr == b"", arguments
        assert done.returncode in {0, 1}, arguments


def shell(script: str, full: Site) -> subprocess.CompletedProcess[str]:
    """Run a script for which `$MIRROR` is the command."""
    return subprocess.run(
        ["/bin/sh", "-c", script],
        capture_output=True,
        text=True,
        env=environment(
            ARCHIVE_MIRROR_CONFIG=on(full)[1], MIRROR=f"{sys.executable} -m mirror"
        ),
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_closed_standard_stream_is_no_harm(full, closed):
    """Also not to what is opened next, which would get its number."""
    done = shell(f"$MIRROR list --json {closed}; echo ended $?", full)

    assert done.stdout.splitlines()[-1] == "ended 0"
    assert (len(done.stdout.splitlines()) > 2) == (">&-" not in closed.split())
    assert done.stderr == ""


@pytest.mark.parametrize("command", ["status", "list --json", "--version"])
def test_an_output_without_room_is_told(full, command):
    """It is not called an unexpected failure."""
    done = shell(f"$MIRROR {command} > /dev/full", full)

    assert done.returncode == 1
    assert done.stderr == (
        "archive-mirror: standard output cannot be written (No space left on device); "
        "give it a place with room\n"
    )


def test_what_is_no_longer_configured_is_marked(full):
    """It is still in the ledger, and nothing is wrong with it."""
    before = run("status", *on(full)).out
    full.tables["targets"]["other"] = full.tables["targets"].pop("nas")
    full.settings()
    try:
        out = run("status", *on(full)).out
    finally:
        full.tables["targets"]["nas"] = full.tables["targets"].pop("other")
        full.settings()

    assert "no longer configured" not in before
    (marked,) = (line for line in out.splitlines() if "no longer configured" in line)
    assert marked.split()[:2] == ["target", "nas"]


def test_control_characters_never_reach_the_terminal(full):
    """A name from the VMS can neither colour, ring, nor forge a line."""
    for arguments in (
        ["list"],
        ["list", "--json"],
        ["show", "hq/11"],
        ["show", "hq/11", "--json"],
    ):
        ran = run(*on(full), *arguments)
        assert ran.code == 0 and "Gate" in ran.out
        assert not RAW_CONTROL.search(ran.out + ran.err), arguments
    table = run(*on(full), "list").out.splitlines()
    assert sum(line.startswith(("hq/", "annex/")) for line in table) == 8
    assert run(*on(full), "list", "--json", "--camera", "2").lines[1]["name"] == EVIL


# -- show -------------------------------------------------------------------------


def test_show_one_export(full):
    """All that is known; the url, a capability, is not."""
    ran = run(*on(full), "show", "hq/9", "--json")

    (one,) = ran.lines
    assert ran.code == 0
    assert set(KEYS) < set(one)
    assert (one["state"], one["reason"]) == ("parked", "origin_refused")
    assert one["history"] and one["history"][0]["error"]
    assert one["item"]["name"] == "Roof.mp4" and "url" not in one["item"]
    plain = run(*on(full), "show", "hq/9")
    assert plain.code == 0 and "file_origins" in plain.out
    assert "/storage/" not in plain.out + ran.out


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("hq/999", "hq/999"),
        ("nosuch/7", "nosuch/7"),
        ("hq/7@2001-01-01T00:00:00Z", "@2001"),
    ],
)
def test_an_export_that_is_not_known_is_1(full, name, told):
    """The text is on stderr."""
    ran = run(*on(full), "show", name)

    assert (ran.code, ran.out) == (1, "")
    assert told in ran.err


@pytest.mark.parametrize("command", ["show", "retry"])
@pytest.mark.parametrize("name", ["hq/seven", "hq/", "hq/-7", "hq/\u0667", ""])
def test_a_name_that_is_none_is_2(full, command, name):
    """It is wrong usage; the text says the form."""
    ran = run(*on(full), command, name)

    assert (ran.code, ran.out) == (2, "")
    assert "SOURCE/ID" in ran.err


def test_a_bare_id_will_do_if_one_source_has_it(full):
    """Else the choices are named, and it is 1."""
    assert run(*on(full), "show", "21", "--json").lines[0]["source"] == "annex"
    for command in ("show", "retry"):
        ran = run(*on(full), command, "7")
        assert (ran.code, ran.out) == (1, "")
        assert "annex/7" in ran.err and "hq/7" in ran.err


def test_an_id_counted_anew(full):
    """SOURCE/ID is the newest; with @CREATED_AT it is the one created then."""
    newest = run(*on(full), "show", "hq/10", "--json").lines[0]
    assert newest["name"] == "New.mp4"
    listed = run(*on(full), "list", "--json", "--name", "Old.mp4").lines[0]
    named = f"hq/10@{listed['created_at']}"

    assert run(*on(full), "show", named, "--json").lines[0]["name"] == "Old.mp4"
    bare_id = f"10@{listed['created_at']}"
    assert run(*on(full), "show", bare_id, "--json").lines[0]["name"] == "Old.mp4"


# -- status -----------------------------------------------------------------------


def test_status_counts_what_list_shows(full):
    """As JSON on one line, and in words."""
    ran = run(*on(full), "status", "--json")
    listed = run(*on(full), "list", "--json").lines
    (shown,) = ran.lines

    assert (ran.code, ran.err) == (0, "")
    for state, number in shown["exports"].items():
        assert number == sum(line["state"] == state for line in listed)
    assert sum(shown["exports"].values()) == len(listed)
    assert {source["name"] for source in shown["sources"]} == {"annex", "hq"}
    assert [target["name"] for target in shown["targets"]] == ["nas"]
    assert shown["owed"] == 1
    words = run(*on(full), "status")
    assert words.code == 0 and "parked 1" in words.out and "nas" in words.out


async def test_a_hostile_answer_cannot_drive_the_terminal(tmp_path):
    """What a 422 says goes through `status`, `check` and `once` without controls."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        body = json.dumps({"errors": {"from": ["\x1b[2J\x07 bad\r\nFORGED line"]}})
        writer.write(
            b"HTTP/1.1 422 X\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s"
            % (len(body), body.encode())
        )
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    (tmp_path / "token").write_text("a-secret-token")
    site = Site(
        tmp_path,
        {
            "state_dir": str(tmp_path / "state"),
            "sources": {
                "hq": {
                    "url": f"http://127.0.0.1:{port}",
                    "token_file": str(tmp_path / "token"),
                }
            },
            "targets": {"nas": {"type": "directory", "path": str(tmp_path / "a")}},
            "transfer": {"retry_initial": "20ms", "retry_max": "50ms"},
        },
    )
    site.settings()
    try:
        for arguments in (
            ["once", "--log-format", "console"],
            ["check"],
            ["status"],
            ["status", "--json"],
        ):
            ran = await run_beside(*on(site), *arguments)
            text = ran.out + ran.err
            assert "bad" in text, arguments
            assert not RAW_CONTROL.search(text), arguments
            assert not re.search(r"^FORGED", text, re.MULTILINE), arguments
    finally:
        server.close()


async def test_status_says_once_whose_problem_it_is_and_since_when_it_is_known(
    tmp_path,
):
    """Who mends a mount sees that the target was not looked at since."""
    async with Vms() as vms:
        site = Site.make(tmp_path, vms)
        path = tmp_path / "away" / "deeper"
        site.tables["targets"]["nas"]["path"] = str(path)
        vms.add()
        site.settings()
        assert (await run_beside(*on(site), "once")).code == 3
        shown = await run_beside(*on(site), "status")

    line = next(one for one in shown.out.splitlines() if one.startswith("target"))
    assert re.search(rf"PROBLEM {path} is missing: .* \(as of 20\S+Z\)$", line)


# -- retry ------------------------------------------------------------------------


async def test_retry_makes_exports_due(tmp_path):
    """By name, or all in a state; what is saved needs nothing."""
    async with Vms() as vms:
        site = Site.make(tmp_path, vms)
        parked = [vms.add(then="redirect_other") for _ in range(3)]
        saved = vms.add()
        await site.once()
        assert {site.export(one).state for one in parked} == {"parked"}
        one = await run_beside(*on(site), "retry", f"hq/{parked[0].export_id}")
        assert (one.code, one.err) == (0, "") and "1 of 1" in one.out
        assert "others" not in one.out
        known = await run_beside(*on(site), "show", f"hq/{saved.export_id}")
        assert "\nacknowledged_at  -\n" in known.out
        assert site.export(parked[0]).state == "ready"
        rest = await run_beside(*on(site), "retry", "--state", "parked")
        assert rest.code == 0 and "2 of 2" in rest.out
        assert {site.export(each).state for each in parked} == {"ready"}
        kept = await run_beside(*on(site), "retry", str(saved.export_id))
        assert kept.code == 0 and "0 of 1" in kept.out and "are kept" in kept.out
        unknown = await run_beside(
            *on(site), "retry", f"hq/{saved.export_id}", "hq/99999"
        )
        assert (unknown.code, unknown.out) == (1, "") and "99999" in unknown.err
        for each in parked:
            vms.script(each)
        assert (await run_beside(*on(site), "once")).code == 0
        assert {site.export(each).state for each in parked} == {"saved"}


# -- once -------------------------------------------------------------------------


async def test_once_is_0_when_all_is_kept(tmp_path):
    """The result is on stdout, logs are on stderr, one JSON object a line."""
    async with Vms() as vms:
        site = Site.make(tmp_path, vms)
        site.settings()
        served = vms.add()
        vms.add(stage=Stage.ASKED)
        ran = await run_beside(*on(site), "once")

        assert ran.code == 0
        assert ran.out == "saved 1, owed 0, newly lost 0, newly doubtful 0, at risk 0\n"
        assert [json.loads(line)["event"] for line in ran.err.splitlines()]
        assert vms.token not in ran.out + ran.err
        assert "/storage/" not in ran.out + ran.err
        assert list(site.media().values()) == [vms.truth(served).sha256]


async def test_once_is_3_when_something_is_owed(tmp_path):
    """A parked export is still owed; the rest is saved."""
    async with Vms() as vms:
        site = Site.make(tmp_path, vms)
        site.settings()
        vms.add()
        vms.add(then="redirect_other")
        ran = await run_beside(*on(site), "once")

        assert ran.code == 3
        assert ran.out.startswith("saved 1, owed 1, newly lost 0")


async def test_once_is_1_when_a_list_cannot_be_read(tmp_path):
    """Named on stdout; it comes before 3, and the other source is mirrored."""
    async with Vms() as vms, Vms() as dark:
        site = Site.make(tmp_path, vms)
        site.tables["sources"]["dark"] = {
            "url": dark.url,
            "token_file": str(tmp_path / "token"),
        }
        site.settings()
        dark.script_list(then="status_500")
        served = vms.add()
        vms.add(then="redirect_other")
        ran = await run_beside(*on(site), "once")

        assert ran.code == 1
        assert "dark" in ran.out and "saved 1, owed 1" in ran.out
        assert dark.journal.counters["list"] == 3
        assert vms.truth(served).sha256 in site.media().values()


async def test_once_beside_a_running_service_is_75(tmp_path):
    """So is a second `run`; the asking commands work beside it."""
    async with Vms() as vms:
        site = Site.make(tmp_path, vms)
        async with site.service():
            await site.until((tmp_path / "state" / "ledger.sqlite3").exists)
            for command in ("once", "run"):
                ran = await run_beside(*on(site), command)
                assert (ran.code, ran.out) == (75, "")
                assert "archive-mirror: " in ran.err
            for command in ("list", "status", "check"):
                assert (await run_beside(*on(site), command)).code == 0
            assert (await run_beside(*on(site), "once", "--dry-run")).code == 0


async def test_a_dry_run_changes_nothing_on_disk(tmp_path):
    """Before the first run and after it; it says what would be fetched."""
    async with Vms() as vms:
        site = Site.make(tmp_path, vms)
        site.settings()
        scratch = tmp_path / "scratch"
        scratch.mkdir()
        vms.add(name=EVIL.replace("\n", ""))
        for already in (0, 1):
            before = tree(tmp_path)
            ran = await run_beside(*on(site), "once", "--dry-run", TMPDIR=str(scratch))
            after = tree(tmp_path)
            for name in ("state/ledger.sqlite3-shm", "state/ledger.sqlite3-wal"):
                before.pop(name, None)
                after.pop(name, None)
            assert after == before
            assert ran.code == 0
            assert "would fetch 1 files" in ran.out
            assert not RAW_CONTROL.search(ran.out + ran.err)
            assert vms.journal.counters["file"] == already
            if not already:
                await site.once()
                vms.add(name="Late.mp4")
        vms.script_list(then="status_500")
        ran = await run_beside(*on(site), "once", "--dry-run")
        assert ran.code == 1 and "hq" in ran.out


# -- check ------------------------------------------------------------------------


async def test_check_passes(tmp_path):
    """Exit 0; each finding on stdout, in words or as one object."""
    async with Vms() as vms:
        site = Site.make(tmp_path, vms)
        site.settings()
        words = await run_beside(*on(site), "check")
        (shown,) = (await run_beside(*on(site), "check", "--json")).lines

    assert words.code == 0
    assert {line[:4] for line in words.out.splitlines()} <= {"pass", "warn"}
    for name in ("state_dir", "source hq"):
        assert f"pass  {name}: " in words.out
    assert shown["ok"] is True
    assert {one["name"] for one in shown["checks"]} >= {
        "state_dir",
        "source hq",
        "target nas",
    }
    assert vms.token not in words.out + words.err
    assert not (tmp_path / "state").exists()


async def test_check_fails(tmp_path):
    """Exit 1; every failed check is told, with its remedy, on stdout."""
    async with Vms() as vms:
        site = Site.make(tmp_path, vms)
        (tmp_path / "token").write_text("a-wrong-token")
        (tmp_path / "archive").write_text("no folder")
        site.settings()
        ran = await run_beside(*on(site), "check")
        (shown,) = (await run_beside(*on(site), "check", "--json")).lines

    failed = [line for line in ran.out.splitlines() if line.startswith("fail")]
    assert ran.code == 1 and len(failed) == 2
    assert "401" in failed[0] and "token" in failed[0] and "nas" in failed[1]
    assert shown["ok"] is False
    assert "a-wrong-token" not in ran.out + ran.err


async def test_check_adopts_another_disk(tmp_path):
    """Another disk at the path fails; once adopted it is ours, for `once` too."""
    async with Vms() as vms:
        site = Site.make(tmp_path, vms)
        vms.add()
        await site.once()
        site.archive.rename(tmp_path / "old")
        site.archive.mkdir()
        refused = await run_beside(*on(site), "check")
        adopted = await run_beside(*on(site), "check", "--adopt", "nas")
        again = await run_beside(*on(site), "check")
        unknown = await run_beside(*on(site), "check", "--adopt", "floppy")
        served = vms.add(size=50_000)
        after = await run_beside(*on(site), "once")

    assert refused.code == 1 and "--adopt" in refused.out
    assert adopted.code == 0 and "adopted" in adopted.out
    assert again.code == 0
    assert unknown.code == 2 and "floppy" in unknown.err
    assert after.code == 0
    assert vms.truth(served).sha256 in site.media().values()


# -- demo and simulator -----------------------------------------------------------


async def test_the_demo_ends_well(tmp_path):
    """Exit 0 by itself; it leaves nothing, or with --keep all, and that is usable."""
    scratch, kept = tmp_path / "scratch", tmp_path / "kept"
    scratch.mkdir()
    passing, keeping = await asyncio.gather(
        run_beside("demo", TMPDIR=str(scratch)),
        run_beside("demo", "--keep", kept, TMPDIR=str(scratch)),
    )

    for ran in (passing, keeping):
        assert (ran.code, ran.err) == (0, "")
        assert "files saved" in ran.out and not RAW_CONTROL.search(ran.out)
    assert list(scratch.iterdir()) == []
    assert str(kept) in keeping.out
    config = kept / "archive-mirror.toml"
    listed = run("list", "--json", "--state", "saved", "-c", config)
    assert listed.lines
    assert len(listed.lines) == len(list(kept.glob("archive/**/*.mp4")))
    log = (kept / "demo.log").read_text()
    assert "demo-token" not in log and "/storage/archive" not in log


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_simulator_serves_until_it_is_told_to_stop(number):
    """It prints a configuration to paste, and ends with 0."""
    process = subprocess.Popen(
        [sys.executable, "-m", "mirror", "simulate-vms", "--port", "0", "--quiet"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
        text=True,
    )
    assert process.stdout is not None
    try:
        printed = ""
        while "simulator-archive" not in printed:
            line = process.stdout.readline()
            assert line, "it ended before it served"
            printed += line
        process.send_signal(number)
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()

    assert (process.returncode, errors) == (0, "")
    assert re.search(r'url = "http://127\.0\.0\.1:[1-9]\d*"', printed)


async def test_what_the_simulator_prints_can_be_used(tmp_path):
    """Pasted as it says, `check` passes and `once` saves."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "mirror", "simulate-vms", "--port", "0", "--rate", "0",
        "--size-min", "20000", "--size-max", "20000", "--token", "it's a-token",
        stdout=asyncio.subprocess.PIPE, env=environment(),
    )  # fmt: skip
    assert process.stdout is not None
    try:
        text = ""
        while "simulator-archive" not in text:
            text += (await process.stdout.readline()).decode()
        path = tmp_path / "simulator.toml"
        path.write_text(text + '[http]\nlisten = "127.0.0.1:0"\n')
        assert "printf %s 'it'\"'\"'s a-token' > simulator.token" in text
        (tmp_path / "simulator.token").write_text("it's-a-token")
        ran = await run_beside("check", "-c", path)
        assert ran.code == 1 and "401" in ran.out
    finally:
        process.terminate()
        await process.communicate()
    assert process.returncode == 0


def test_a_port_that_is_taken_is_1():
    """Said in one line."""
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = str(holder.getsockname()[1])
        ran = run("simulate-vms", "--port", port)

    assert ran.code == 1 and port in ran.err and ran.err.count("\n") == 1


# -- the end of a process ---------------------------------------------------------


def test_a_command_ends_though_a_thread_hangs(full):
    """A dead mount holds a thread for ever; the exit does not wait for it."""
    program = (
        "import sys, threading, time; "
        "threading.Thread(target=time.sleep, args=(600,)).start(); "
        "from mirror.cli import main; main(sys.argv[1:])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, "show", "hq/999", *on(full)],
        capture_output=True,
        env=environment(),
        timeout=60,
        check=False,
    )

    assert done.returncode == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be refused")
@pytest.mark.parametrize("words", ["once", "run", "check", "verify --repair"])
async def test_root_makes_no_files_that_the_service_could_not_use(tmp_path, words):
    """It is told whose work that is; nothing is made."""
    async with Vms() as vms:
        site = Site.make(tmp_path, vms)
        site.settings()
        state = tmp_path / "state"
        state.mkdir()
        os.chown(state, 65534, 65534)
        ran = await run_beside(*words.split(), *on(site))

    assert ran.code == 1
    again = shlex.join(["archive-mirror", *words.split(), *map(str, on(site))])
    assert f"`runuser -u nobody -- {again}`" in ran.err
    assert list(state.iterdir()) == []
    assert not site.archive.exists()
