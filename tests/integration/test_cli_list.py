"""`list`: the promised keys, filters, order."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mirror.cli import list as list_command
from mirror.cli.globals import Globals
from tests.command import KEYS, labels, on, run
from tests.filled_site import EVIL

RAW_CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e]")
TIMES = ("footage_from", "footage_to", "created_at", "first_seen", "deadline")


def test_list_json_has_exactly_the_promised_keys(filled_site):
    """In that order, with those types; unknown is null, times end in Z."""
    ran = run(*on(filled_site), "list", "--json")

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
    assert (filled_site.archive / saved["copies"][0]["path"]).stat().st_size == (
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
        (["--since", "2d"], []),
        (["--since", "20000d", "--source", "annex"], ["annex/7", "annex/21"]),
        (["--until", "2d", "--source", "annex"], ["annex/7", "annex/21"]),
        (["--limit", "2"], ["hq/10", "hq/9"]),
    ],
)
def test_filters(filled_site, options, expected):
    """Each narrows the list; times are `created_at`, from included, to excluded."""
    found = labels(run(*on(filled_site), "list", "--json", *options))

    assert sorted(found) == sorted(expected)


def test_list_is_newest_first(filled_site):
    """By the time the VMS made the row."""
    ran = run(*on(filled_site), "list", "--json")
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
def test_a_number_no_export_can_have(filled_site, arguments):
    """It is not found, or refused as usage; it is no unforeseen failure."""
    ran = run(*on(filled_site), *arguments)

    assert ran.code in {0, 1, 2}
    assert "unexpected failure" not in ran.err


def test_control_characters_never_reach_the_terminal(filled_site):
    """A name from the VMS can neither colour, ring, nor forge a line."""
    for arguments in (
        ["list"],
        ["list", "--json"],
        ["show", "hq/11"],
        ["show", "hq/11", "--json"],
    ):
        ran = run(*on(filled_site), *arguments)
        assert ran.code == 0 and "Gate" in ran.out
        assert not RAW_CONTROL.search(ran.out + ran.err), arguments
    table = run(*on(filled_site), "list").out.splitlines()
    assert sum(line.startswith(("hq/", "annex/")) for line in table) == 8
    assert (
        run(*on(filled_site), "list", "--json", "--camera", "2").lines[1]["name"]
        == EVIL
    )


@pytest.mark.parametrize("width", [80, 140])
def test_the_list_fits_the_terminal(filled_site, width):
    """Names are cut, not what tells exports apart; cameras have their names."""
    filled_site.tables["cameras"] = {"1": "North gate", "3": "Lobby"}
    filled_site.settings()
    lines = run(*on(filled_site), "list", COLUMNS=str(width)).out.splitlines()
    whole = run(*on(filled_site), "list").out
    del filled_site.tables["cameras"]
    filled_site.settings()

    assert max(map(len, lines)) <= width
    table = lines[1 : lines.index("")]
    assert [line.split()[0] for line in table][:2] == ["hq/10", "hq/9"]
    assert all(re.search(r" \d+ d( \d+ h)? ", line) for line in table)
    assert (
        "North gate" in whole
        and "Lobby" in whole
        and "\N{HORIZONTAL ELLIPSIS}" not in whole
    )


def test_a_list_for_people_ends(filled_site, monkeypatch, capsys):
    """It says so; `--limit` gives more, and JSON all."""
    monkeypatch.setattr(list_command, "_MOST", 3)
    context: Any = SimpleNamespace(obj=Globals(config=on(filled_site)[1]))
    list_command.list_exports(context)
    short = capsys.readouterr().out
    list_command.list_exports(context, limit=7)
    longer = capsys.readouterr().out
    list_command.list_exports(context, as_json=True)

    assert [
        len(re.findall(r"^\w+/\d", one, re.MULTILINE)) for one in (short, longer)
    ] == [3, 7]
    assert "the newest 3; --limit gives more, --json all" in short
    assert "the newest" not in longer
    assert len(capsys.readouterr().out.splitlines()) == 8


def test_an_empty_answer_says_what_there_is(filled_site, tmp_path):
    """Nothing is shown that could be taken for a failure, or for all being well."""
    ran = run(*on(filled_site), "list", "--state", "damaged")

    assert (ran.code, ran.err) == (0, "")
    assert re.fullmatch(r"none matches; there are: (\w+ \d+(, )?)+\n", ran.out)
    assert "saved 5" in ran.out and "parked 1" in ran.out
    empty = tmp_path / "empty.toml"
    state = str(filled_site.folder / "state")
    text = (filled_site.folder / "archive-mirror.toml").read_text()
    empty.write_text(text.replace(state, str(tmp_path / "none")))
    assert run("list", "-c", empty).out.startswith("no export was listed yet; ")


@pytest.mark.parametrize(
    ("arguments", "known"),
    [
        (["list", "--source", "nope"], "there is no source nope; there are: annex, hq"),
        (["verify", "--target", "tape"], "there is no target tape; there are: nas"),
        (["list", "--state", "lots"], "'lost'"),
    ],
)
def test_an_unknown_name_names_the_known_ones(filled_site, arguments, known):
    """Not an empty answer, from which one would take that there is nothing."""
    ran = run(*on(filled_site), *arguments)

    assert (ran.code, ran.out) == (2, "")
    assert known in " ".join(ran.err.split())
