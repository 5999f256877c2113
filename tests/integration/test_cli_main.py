"""What goes with every command: options, streams, exit codes."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from mirror import __version__
from mirror.simulator import Vms
from tests.command import environment, labels, on, run, run_beside, tree
from tests.site import Site

RAW_CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e]")


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


def test_the_configuration_may_be_named_anywhere(filled_site):
    """Before the command, after it, in one word, by the environment."""
    path = str(filled_site.folder / "archive-mirror.toml")
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


def test_the_option_wins_over_the_environment(filled_site, tmp_path):
    """As always."""
    ran = run(
        *on(filled_site), "list", "--json", ARCHIVE_MIRROR_CONFIG=str(tmp_path / "no")
    )

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
def test_wrong_usage_is_2(filled_site, arguments):
    """The text is on stderr, nothing on stdout."""
    ran = run(*arguments, ARCHIVE_MIRROR_CONFIG=on(filled_site)[1])

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


def test_a_reader_that_leaves_early(filled_site):
    """`list | head -1` is no failure worth a traceback."""
    command = f'"{sys.executable}" -u -m mirror list --json | head -1; exit 0'
    done = subprocess.run(
        ["/bin/sh", "-c", command],
        capture_output=True,
        env=environment(ARCHIVE_MIRROR_CONFIG=on(filled_site)[1]),
        timeout=60,
        check=False,
    )

    assert json.loads(done.stdout)["id"] == 10
    assert done.stderr == b""


def test_a_reader_that_is_already_gone(filled_site):
    """All is written to a pipe that nobody reads; still no traceback."""
    for arguments in (["list", "--json"], ["list"], ["status"], ["show", "hq/8"]):
        reader, writer = os.pipe()
        os.close(reader)
        try:
            done = subprocess.run(
                [sys.executable, "-m", "mirror", *arguments, *on(filled_site)],
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


def shell(script: str, filled_site: Site) -> subprocess.CompletedProcess[str]:
    """Run a script for which `$MIRROR` is the command."""
    return subprocess.run(
        ["/bin/sh", "-c", script],
        capture_output=True,
        text=True,
        env=environment(
            ARCHIVE_MIRROR_CONFIG=on(filled_site)[1],
            MIRROR=f"{sys.executable} -m mirror",
        ),
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_closed_standard_stream_is_no_harm(filled_site, closed):
    """Also not to what is opened next, which would get its number."""
    done = shell(f"$MIRROR list --json {closed}; echo ended $?", filled_site)

    assert done.stdout.splitlines()[-1] == "ended 0"
    assert (len(done.stdout.splitlines()) > 2) == (">&-" not in closed.split())
    assert done.stderr == ""


@pytest.mark.parametrize("command", ["status", "list --json", "--version"])
def test_an_output_without_room_is_told(filled_site, command):
    """It is not called an unexpected failure."""
    done = shell(f"$MIRROR {command} > /dev/full", filled_site)

    assert done.returncode == 1
    assert done.stderr == (
        "archive-mirror: standard output cannot be written (No space left on device); "
        "give it a place with room\n"
    )


def test_a_command_ends_though_a_thread_hangs(filled_site):
    """A dead mount holds a thread for ever; the exit does not wait for it."""
    program = (
        "import sys, threading, time; "
        "threading.Thread(target=time.sleep, args=(600,)).start(); "
        "from mirror.cli import main; main(sys.argv[1:])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, "show", "hq/999", *on(filled_site)],
        capture_output=True,
        env=environment(),
        timeout=60,
        check=False,
    )

    assert done.returncode == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be given up")
@pytest.mark.parametrize(
    "words",
    [
        "once",
        "check",
        "verify --repair",
        "status",
        "retry --state parked",
        "ack --state lost --note seen",
        "pause hq --for 1s",
        "probe hq",
        "rebuild --force",
        "support-bundle {bundle}",
        "backup {backup}",
    ],
)
async def test_root_makes_no_files_that_the_service_could_not_use(tmp_path, words):
    """It goes on as the owner of the state directory, and says so."""
    for folder in (tmp_path, *tmp_path.parents):
        if "pytest" in str(folder):
            folder.chmod(0o755)
    private = tmp_path / "of root"
    private.mkdir(mode=0o700)
    async with Vms() as vms:
        vms.add(size=20_000)
        site = Site.make(tmp_path, vms)
        site.archive.mkdir()
        site.settings()
        state = tmp_path / "state"
        state.mkdir()
        for path in (state, site.archive, tmp_path / "token"):
            os.chown(path, 65534, 65534)
        first = await run_beside("once", *on(site))
        typed = words.split()
        typed = [
            one.format(bundle=private / "b", backup=private / "c") for one in typed
        ]
        ran = await run_beside(*typed, *on(site))

    assert (first.code, ran.code) == (0, 0), ran.err
    made = [state, *state.rglob("*"), *site.archive.rglob("*")]
    assert {(one.stat().st_uid, one.stat().st_gid) for one in made} == {(65534, 65534)}
    told = f"archive-mirror: goes on as nobody, who owns {state}\n"
    assert first.err.count(told) == 1
    assert ran.err.count(told) == (0 if words.startswith("backup") else 1)


def given_up(folder: Path, needed: Path) -> subprocess.CompletedProcess[str]:
    """Let root become the owner of a folder, who has still to load a file."""
    program = (
        "import os, sys; from pathlib import Path; os.setgroups([0, 4]); "
        "from mirror.app import service_user; "
        "service_user._LOADED_LATER = sys.argv[2:]; "
        "service_user.become(Path(sys.argv[1])); "
        "print(Path('/proc/self/status').read_text())"
    )
    return subprocess.run(
        [sys.executable, "-c", program, folder, needed],
        capture_output=True,
        text=True,
        env=environment(),
        timeout=60,
        check=False,
    )


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be given up")
@pytest.mark.parametrize("owner", [65534, 54_321], ids=["named", "without a name"])
def test_root_is_given_up_for_good(tmp_path, owner):
    """In every sense, with all groups; a hook or a hole gets nothing back."""
    os.chown(tmp_path, owner, owner)
    done = given_up(tmp_path, Path("/"))
    facts = dict(line.split(":", 1) for line in done.stdout.split("\n") if line)

    assert {*map(int, facts["Uid"].split())} == {owner}
    assert {*map(int, facts["Gid"].split())} == {owner}
    assert {*map(int, facts["Groups"].split())} <= {owner}
    assert int(facts["CapEff"], 16) == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be given up")
def test_who_could_not_load_the_program_is_told(tmp_path):
    """Before any work, which would end half way with a library that is missing."""
    os.chown(tmp_path, 65534, 65534)
    (needed := tmp_path / "os.py").touch(mode=0o600)
    done = given_up(tmp_path, needed)

    assert done.returncode != 0
    assert f"this is root, and {tmp_path} belongs to nobody" in done.stderr
    assert f"may not read {needed}; install this program" in done.stderr


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
