"""The runbook knows all that the program and the alerts can say, and errs in nothing.

A test that fails here names what is missing: write its remedy into docs/runbook.md.
"""

from __future__ import annotations

import ast
import importlib
import re
import shlex
import shutil
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
from typer.testing import CliRunner

from mirror.model import Reason
from mirror.pipeline.verify.judge import Problem
from tests import operator_texts
from tests.prometheus import DEPLOY
from tests.shown_commands import APP, commands, understood

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGE = operator_texts.ROOT / "docs" / "runbook.md"
PAGES = [operator_texts.ROOT / name for name in ("README.md", "docs/install.md")]
TEXT = PAGE.read_text("utf-8")
PROSE = re.sub(r"\s+", " ", re.sub(r"```.*?```", "", TEXT, flags=re.DOTALL))
RUNBOOK = "file:///usr/share/doc/archive-mirror/runbook.md"
"""Where the package puts it."""
RULES = (DEPLOY / "prometheus" / "alerts.rules.yml").read_text("utf-8")
ALERTS = re.findall(r"- alert: (\w+)", RULES)
command_line = importlib.import_module("mirror.cli.main")
CODES = {
    value for name, value in vars(command_line).items() if name.startswith("EXIT_")
} | {1, 2, 3, 4}


def section(heading: str) -> str:
    """Return what stands under a heading, to the next heading."""
    found = re.search(
        rf"^(#+) {re.escape(heading)}\n(.*?)(?=^#{{1,3}} |\Z)",
        TEXT,
        re.MULTILINE | re.DOTALL,
    )
    assert found, f"there is no heading {heading}"
    return found[2]


def anchors(text: str) -> set[str]:
    """Return what the headings of a page are linked by."""
    titles = re.findall(
        r"^#+ (.+)$", re.sub(r"```.*?```", "", text, flags=re.DOTALL), re.MULTILINE
    )
    return {re.sub(r"[^\w\- ]", "", one.lower()).replace(" ", "-") for one in titles}


def rows(heading: str) -> Iterator[list[str]]:
    """Yield the cells of the table under a heading."""
    for line in section(heading).splitlines():
        if line.startswith("| ") and "|---" not in line:
            yield [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


@pytest.mark.parametrize("alert", ALERTS)
def test_each_alert_has_its_remedy(alert):
    text = section(alert)

    for word in ("Means", "At stake", "Look", "Do"):
        assert f"- **{word}**" in text


def test_each_alert_leads_to_its_heading():
    urls = re.findall(rf"runbook_url: {re.escape(RUNBOOK)}#(\S+)", RULES)

    assert urls == [alert.lower() for alert in ALERTS]
    assert len(urls) >= 18
    assert set(urls) <= anchors(TEXT)


def test_one_place_sets_the_address_of_the_runbook_and_the_severities(tmp_path):
    """What an operator changes in settings.sed reaches every alert."""
    settings = (DEPLOY / "prometheus" / "settings.sed").read_text("utf-8")
    mine = {
        f"{RUNBOOK}|\n": "https://wiki.example/mirror|\n",
        "critical|\n": "page|\n",
        "warning|\n": "ticket|\n",
    }
    for ours, theirs in mine.items():
        assert settings.count(ours) == 1
        settings = settings.replace(ours, theirs)
    (tmp_path / "settings.sed").write_text(settings, "utf-8")
    sed = shutil.which("sed")
    assert sed is not None
    ran = subprocess.run(
        [sed, "-f", str(tmp_path / "settings.sed")],
        input=RULES,
        capture_output=True,
        text=True,
        check=True,
    )

    urls = re.findall(r"runbook_url: (\S+)", ran.stdout)
    assert urls == [f"https://wiki.example/mirror#{alert.lower()}" for alert in ALERTS]
    severities = re.findall(r"severity: (\w+)", ran.stdout)
    assert len(severities) == len(ALERTS)
    assert set(severities) == {"page", "ticket"}


def test_each_table_is_one():
    """A bar within a cell would end it."""
    for table in re.findall(r"(?:^\|.*\n)+", TEXT, re.MULTILINE):
        widths = {line.count("|") for line in table.splitlines()}
        assert len(widths) == 1, table


def test_each_link_leads_somewhere():
    """To a heading of the page, or to a file."""
    links = re.findall(r"\]\(([^)#]*)(?:#([^)]*))?\)", TEXT)

    assert len(links) > 50
    for file, anchor in links:
        target = PAGE.parent / file if file else PAGE
        assert target.exists(), file
        assert not anchor or anchor in anchors(target.read_text("utf-8")), anchor


def test_each_reason_of_an_error_has_its_remedy():
    reasons = operator_texts.reasons()
    missing = {
        reason: places
        for reason, places in reasons.items()
        if f"`{reason.partition(operator_texts.GAP)[0]}" not in PROSE
    }

    assert len(reasons) > 45
    assert not missing


def test_a_new_reason_is_noticed(monkeypatch):
    """Also where its text stands in a name, or cannot be read at all."""
    errors = operator_texts.modules()["mirror.errors"]
    new = """
class ShyError(FetchError):
    ...
def ask(reason):
    why = "brand_new" if reason else "newer"
    raise ShyError(why, "no")
"""
    planted = {"mirror.errors": errors, "mirror.vms.file_answer": ast.parse(new)}
    monkeypatch.setattr(operator_texts, "modules", lambda: planted)

    assert set(operator_texts.reasons()) == {"brand_new", "newer"}

    planted["mirror.vms.file_answer"] = ast.parse(new.replace("(why,", "(reason,"))
    with pytest.raises(LookupError, match="ShyError"):
        operator_texts.reasons()


@pytest.mark.parametrize("word", [*Reason, *Problem], ids=repr)
def test_each_reason_of_a_state_and_each_finding_of_verify_is_named(word):
    assert f"`{word.value}`" in PROSE


def test_each_error_without_a_reason_is_quoted():
    """Some words in quotes are words of its text."""
    quoted = re.findall(r'"([^"]{8,}?)"', PROSE)
    messages = operator_texts.messages()
    missing = [
        f"{place}: {text}"
        for text, place in messages.items()
        if not any(quote in text for quote in quoted)
    ]

    assert len(messages) > 12
    assert not missing


def test_each_event_that_is_logged_as_a_warning_or_an_error_is_named():
    named = "".join(cells[0] for cells in rows("Words in the log"))
    events = operator_texts.events()

    assert len(events) > 20
    assert {
        event: at for event, at in events.items() if f"`{event}`" not in named
    } == {}


def test_each_exit_code_is_explained():
    assert {int(code) for code, *_ in list(rows("Exit codes"))[1:]} == CODES


def test_each_bad_finding_of_check_has_its_remedy():
    """By its name, how it ends, and words of its text; or by that of an error."""
    told = {
        (cells[0].strip("`"), *cells[1].partition(": ")[::2])
        for cells in rows("What `check` says")
    }
    bad = 0
    for place in operator_texts.calls("mirror.app.check"):
        if place.name != "Finding":
            continue
        grades = set(place.says(place.argument("grade")))
        assert grades, f"no result can be read at {place}"
        details = place.says(place.argument("detail")) or [""]
        for name in place.says(place.argument("name")):
            for grade in grades - {"pass"}:
                bad += 1
                known = {
                    words
                    for of, result, words in told
                    if (of, result) == (name.replace(operator_texts.GAP, "NAME"), grade)
                }
                fits = any(
                    words in text for words in known if words for text in details
                )
                assert fits or (details == [""] and "" in known), str(place)

    assert bad >= 7


SHOWN = {
    shlex.join(words): words
    for text in (
        TEXT,
        *(page.read_text("utf-8") for page in PAGES),
        *(f"`{one}`" for one in re.findall(r'command: "?([^"\n]+)', RULES)),
        *(text for text in operator_texts.texts() if "`archive-mirror" in text),
    )
    for words in commands(
        re.sub(r"\{\{.*?\}\}", "NAME", text).replace(operator_texts.GAP, "NAME")
    )
}


@pytest.mark.parametrize("shown", SHOWN)
def test_each_command_shown_can_be_typed(shown):
    """Those of the pages, of the alerts, and of the program's own texts."""
    understood(SHOWN[shown])


@pytest.mark.parametrize(
    ("wrong", "said_of_it"),
    [
        ("mend", "mend"),
        ("list --status lost", "--status"),
        ("list --state gone", "gone"),
        ("token put NAME", "put"),
    ],
)
def test_a_command_that_is_not_there_is_noticed(wrong, said_of_it):
    """So are a wrong option and a wrong value."""
    with pytest.raises(Exception, match=said_of_it):
        understood(shlex.split(wrong))


def test_the_commands_of_the_runbook_are_found():
    """The search behind the tests above finds what there is to be tested."""
    assert {
        "check",
        "status",
        "verify",
        "backup",
        "token",
        "retry",
        "show",
        "list",
    } <= {words[0] for words in commands(TEXT) if words}


def tree(command: Any, above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    yield above
    for name, below in getattr(command, "commands", {}).items():
        yield from tree(below, (*above, name))


@pytest.mark.parametrize("path", [*tree(APP)], ids=" ".join)
def test_each_command_tells_of_itself(path):
    result = CliRunner().invoke(command_line.app, [*path, "--help"])

    assert result.exit_code == 0
    assert "Usage: " in result.output
