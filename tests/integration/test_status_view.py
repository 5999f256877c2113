"""The status in a terminal: the verdict, the worst first, within its height."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from mirror import config
from mirror.cli import status_view
from mirror.model import State
from tests.afternoon import HOUR, MINUTE, SECOND, HandmadeSite, afternoon
from tests.integration.test_doubtful_shown import told

REFUSED = "no connection to 10.0.0.1: Connection refused"


@pytest.fixture
def scene(tmp_path):
    with HandmadeSite.open(tmp_path) as scene:
        yield scene


def more_sources(scene: HandmadeSite, number: int) -> None:
    """Configure further sources, all at one address that does not answer."""
    path = scene.folder / "archive-mirror.toml"
    names = [f"site{n:02}" for n in range(number)]
    tables = (f'[sources.{name}]\nurl = "https://vms.example"\n' for name in names)
    path.write_text(path.read_text() + "".join(tables))
    scene.settings = config.load(path, {})
    for name in names:
        scene.read(name, ago_us=40 * MINUTE, problem=REFUSED)


def lines_of(scene: HandmadeSite, width: int, height: int) -> list[str]:
    """Return what `status --watch` shows in a terminal of that size."""
    out = io.StringIO()
    console = Console(file=out, width=width, height=height, highlight=False)
    zone = scene.settings.timezone
    console.print(status_view.fitted(console, scene.status(), zone, brief=True))
    return out.getvalue().splitlines()


@pytest.mark.parametrize("size", [(80, 24), (140, 40), (80, 60)])
@pytest.mark.parametrize("more", [0, 27])
def test_it_fits_the_terminal_and_begins_with_the_worst(scene, size, more):
    """However many sources, causes and transfers there are."""
    afternoon(scene)
    more_sources(scene, more)
    for number in range(20):
        error = f"the VMS answers {500 + number} for the file"
        scene.add("hq", State.READY, made_us=HOUR, attempts=1, last_error=error)
        scene.add("hq", State.FETCHING, made_us=HOUR, attempts=1)
    width, height = size

    lines = lines_of(scene, width, height)

    assert len(lines) <= height
    assert max(map(len, lines)) <= width
    assert lines[0].startswith("\N{BALLOT X} Footage is at risk   15:20:00 CET")
    assert lines[1].startswith(" - 1 export is not fetched yet")
    heads = [line.split()[0] for line in lines if line]
    assert "WHY" in heads and "FETCHED" in heads
    assert heads[heads.index("SOURCE") + 1] == "harbour"
    assert heads[heads.index("TARGET") + 1] == "nas"


def test_a_cause_that_stops_many_files_is_told_once(scene):
    """With how many, and of which source; the most first."""
    for number in range(7):
        deadline = {} if number else {"deadline_us": None}
        for source, error in (("depot", "cut"), ("hq", "the VMS answers 500")):
            if source == "hq" or number < 3:
                given = {"attempts": 1, "last_error": error} | deadline
                scene.add(source, State.READY, made_us=HOUR, **given)
    scene.add("hq", State.READY, made_us=HOUR)

    lines = told(scene, "status").splitlines()

    causes = lines[lines.index("WHY IT IS NOT HERE YET") + 1 :][:3]
    assert causes == ["7 x the VMS answers 500 (hq)", "3 x cut (depot)", ""]


def test_sources_that_one_cause_stops_are_one_thing(scene):
    """It names some of them; another cause is another thing."""
    more_sources(scene, 9)
    scene.read("hq", ago_us=30 * SECOND, problem="the token is refused.")

    concerns = scene.status()["concerns"]

    others, one = sorted(concern["text"] for concern in concerns)
    assert one == (
        "Source hq cannot be read: the token is refused. What it has made since may "
        "expire unseen."
    )
    assert others == (
        "9 sources (site00, site01, site02, site03, site04 and 4 more) cannot be "
        f"read: {REFUSED}. What they have made since may expire unseen."
    )


def test_a_transfer_shows_how_far_it_is_and_how_much_time_is_left(scene):
    """In a file as on a terminal."""
    part = {"part_bytes": 30 << 20, "part_total": 40 << 20, "spool_dir": "spool"}
    number = scene.add("hq", State.FETCHING, made_us=HOUR, attempts=1, **part)

    lines = lines_of(scene, 80, 24)

    (line,) = (one for one in lines if one.startswith(f"hq/{number}"))
    bar = "\N{BOX DRAWINGS HEAVY HORIZONTAL}" * 12
    assert f"  {bar}      75% of 40.0 MiB  2 h   " in line


def test_it_says_that_the_service_is_dead(scene):
    """Before all else; also that there is nothing to tell yet."""
    lines = told(scene, "status").splitlines()

    assert lines[0].startswith("\N{BALLOT X} Nothing is fetched now   ")
    assert lines[1].startswith(" - The service does not run: nothing is fetched.")
    assert "exports   none yet" in lines
