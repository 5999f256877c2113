"""Logs: one event a line, nothing secret in it, priorities for the journal."""

from __future__ import annotations

import io
import json
import logging
import os
import threading

import pytest
import structlog
from typing_extensions import override
from yarl import URL

from mirror import logs


@pytest.fixture(autouse=True)
def restored():
    """Leave the logging of the test run as it was."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


class Stream(io.StringIO):
    """What logs are written to; it can fail or hang."""

    def __init__(self) -> None:
        super().__init__()
        self.outlet: logs.LogWriter | None = None
        self.fails = False
        self.free = threading.Event()
        self.free.set()

    @override
    def write(self, text: str) -> int:
        self.free.wait()
        if self.fails:
            raise BrokenPipeError(32, "Broken pipe")
        return super().write(text)

    @override
    def getvalue(self) -> str:
        if self.outlet is not None:
            self.outlet.drain(30.0)
        return super().getvalue()


def logged(form, *, level="info"):
    """Return a logger, what it writes to, and its redactor."""
    stream, redactor = Stream(), logs.Redactor()
    stream.outlet = logs.configure(level, form, stream, redactor=redactor)
    return structlog.get_logger(), stream, redactor


def failure():
    """Return an exception that was raised."""
    try:
        int("broken")
    except ValueError as exc:
        return exc


def test_json_is_the_default_off_a_terminal():
    """One object a line, with time, level and event."""
    log, stream, _ = logged(None)
    log.warning("source.lost", source="hq", seconds=3)

    event = json.loads(stream.getvalue())
    assert event.pop("timestamp").endswith("Z")
    assert event == {
        "event": "source.lost",
        "level": "warning",
        "source": "hq",
        "seconds": 3,
    }


@pytest.mark.parametrize("form", ["json", "logfmt", "console"])
def test_secrets_and_capabilities_never_show(form):
    """Known tokens are replaced, urls are cut to their origin, wherever they stand."""
    log, stream, redactor = logged(form)
    redactor.add("s3cr3t-token")
    log.error(
        "a",
        error="GET https://user:pw@vms.example:8443/storage/x.mp4?sig=abc failed",
        nested={"list": ["Bearer s3cr3t-token", "http://h/p"]},
        exc_info=ValueError("https://vms.example/path s3cr3t-token"),
    )
    logging.getLogger("aiohttp").error("went to %s", "https://vms.example/secret")

    text = stream.getvalue()
    for secret in ("s3cr3t", "x.mp4", "sig=", "user:pw", "/p", "/path", "/secret"):
        assert secret not in text
    assert "https://vms.example:8443" in text and "[redacted]" in text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://h/clip (1).mp4?sig=abc".replace(" ", "%20"), "https://h"),
        ("https://h/it's[1].mp4?sig=abc end", "https://h end"),
        ("https://user:p@ss@h:8443/x", "https://h:8443"),
        ("https://h?next=user@y", "https://h"),
        ("HTTPS://h/x?sig=abc", "HTTPS://h"),
        ("http://[::1]:80/x", "http://[::1]:80"),
        (r"https:\/\/h\/storage\/x.mp4", r"https:\/\/h"),
        ("<https://h/x?sig=abc>; rel=next", "<https://h>; rel=next"),
    ],
)
def test_a_url_is_cut_to_its_origin(text, shown):
    """Whatever a file name holds: what follows a bracket may be the signature."""
    log, stream, _ = logged("json")
    log.info("a", error=text)

    assert json.loads(stream.getvalue())["error"] == shown


@pytest.mark.parametrize("secrets", [["abcd", "abcdefgh"], ["abcdefgh", "abcd"]])
def test_a_secret_within_another_leaves_no_rest(secrets):
    """The longer one is taken out first, in whatever order they came."""
    log, stream, redactor = logged("json")
    for secret in secrets:
        redactor.add(secret)
    log.info("a", token="abcdefgh")

    assert json.loads(stream.getvalue())["token"] == "[redacted]"


def test_values_of_any_type_are_cleaned():
    """What is turned to text only when written was cleaned before; so were keys."""
    log, stream, redactor = logged("json")
    redactor.add("s3cr3t")
    log.info(
        "a", url=URL("https://h/secret"), by={"https://h/x": {"s3cr3t"}}, wait=1e999
    )

    event = json.loads(stream.getvalue())
    assert event["url"] == "https://h"
    assert event["by"] == {"https://h": ["[redacted]"]}
    assert event["wait"] == "inf"


@pytest.mark.parametrize("form", ["json", "logfmt", "console"])
def test_a_hostile_name_cannot_break_the_line(form):
    """Newlines and escape sequences from the VMS stay inside one line."""
    log, stream, _ = logged(form)
    log.info("row.refused", name="a\nlevel=error\x1b[31m\r\x00\u2028\u202e\ud800b")

    text = stream.getvalue()
    assert len(text.splitlines()) == 1
    assert not set("\x1b\u202e\ud800") & set(text)


def test_a_hostile_error_cannot_move_the_cursor():
    """A traceback has lines, but no escape sequences."""
    log, stream, _ = logged("console", level="debug")
    log.error("a", exc_info=ValueError("x\x1b[31m"))

    assert "\nValueError: x\\x1b[31m" in stream.getvalue()


def test_no_traceback_unless_debug():
    """The type and the text are enough at 3 a.m."""
    for level, expected in (("info", False), ("debug", True)):
        log, stream, _ = logged("json", level=level)
        log.error("x", exc_info=failure())
        assert ("Traceback" in stream.getvalue()) is expected
        assert "broken" in stream.getvalue()


def test_an_exception_at_hand_is_named():
    """log.exception() passes no exception, only that there is one."""
    log, stream, _ = logged("json")
    try:
        int("broken")
    except ValueError:
        log.exception("a")
    log.error("b", exc_info=TimeoutError())

    first, second = map(json.loads, stream.getvalue().splitlines())
    assert first["error"].startswith("ValueError: invalid literal")
    assert second["error"] == "TimeoutError"


def test_levels_below_the_threshold_are_silent():
    """--log-level warning shows no info."""
    log, stream, _ = logged("json", level="warning")
    log.info("a")
    log.warning("b")

    assert [json.loads(line)["event"] for line in stream.getvalue().splitlines()] == [
        "b"
    ]


def test_lines_to_the_journal_begin_with_their_priority(tmp_path, monkeypatch):
    """Journald reads <3> as an error and <6> as information."""
    path = tmp_path / "journal"
    with path.open("w") as stream:
        found = os.fstat(stream.fileno())
        monkeypatch.setenv("JOURNAL_STREAM", f"{found.st_dev}:{found.st_ino}")
        outlet = logs.configure("info", "json", stream, redactor=logs.Redactor())
        structlog.get_logger().error("bad")
        structlog.get_logger().info("good")
        logging.getLogger("x").warning("foreign")
        outlet.drain(30.0)

    lines = path.read_text().splitlines()
    assert [line[:3] for line in lines] == ["<3>", "<6>", "<4>"]
    assert [json.loads(line[3:])["event"] for line in lines] == [
        "bad",
        "good",
        "foreign",
    ]


def test_lines_that_cannot_be_written_cost_nothing_but_themselves():
    """How many were missed is told once it is over."""
    log, stream, _ = logged("json")
    stream.fails = True
    log.error("first")
    logging.getLogger("x").warning("second")
    assert stream.getvalue() == ""
    stream.fails = False
    log.info("third")
    stream.getvalue()

    events = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [each["event"] for each in events] == ["third", "log.dropped"]
    assert events[1]["lines"] == 2


def test_a_stream_that_hangs_holds_nobody_up():
    """The memory for what waits is bounded, too."""
    log, stream, _ = logged("json")
    stream.free.clear()
    for number in range(12_000):
        log.info("line", number=number)
    assert stream.outlet is not None
    stream.outlet.drain(0.0)
    stream.free.set()
    stream.getvalue()

    *lines, last = stream.getvalue().splitlines()
    assert len(lines) == 10_000
    assert json.loads(last)["lines"] == 2_000


def test_text_for_people_has_no_words_of_a_programming_language():
    """What is unknown is left out."""
    log, stream, _ = logged("console")
    log.info("a", reason=None, complete=True, ours=False, left=[None, True], size=3)

    facts = stream.getvalue().split(" a ")[1].split()
    assert sorted(facts) == ["complete=yes", "left=yes", "ours=no", "size=3"]


def test_the_journal_gets_text_with_its_priority(tmp_path, monkeypatch):
    """Journald adds the time; programs ask for JSON."""
    path = tmp_path / "journal"
    with path.open("w") as stream:
        found = os.fstat(stream.fileno())
        monkeypatch.setenv("JOURNAL_STREAM", f"{found.st_dev}:{found.st_ino}")
        outlet = logs.configure("info", None, stream, redactor=logs.Redactor())
        structlog.get_logger().warning("source.lost", source="hq")
        outlet.drain(30.0)

    (line,) = path.read_text().splitlines()
    assert line.split() == ["<4>[warning", "]", "source.lost", "source=hq"]
