"""Logs: one event a line, on stderr, with nothing secret in it."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import re
import sys
import threading
from collections import deque
from typing import TYPE_CHECKING, Any, TextIO

import structlog

if TYPE_CHECKING:
    from collections.abc import Iterator, MutableMapping

    from structlog.typing import EventDict, Processor

# Paths may hold brackets and quotes, so a url ends at white space, `"`, `<` or `>`.
# PHP escapes slashes in JSON: `https:\/\/`.
_URL = re.compile(
    r"""(https?:\\?/\\?/)(?:[^\s/?#\\"<>]*@)?([^\s/?#\\"'<>]*)[^\s"<>]*""",
    re.IGNORECASE,
)
# Also what turns the direction of writing, and surrogates, which UTF-8 cannot encode.
_CONTROL = re.compile(
    r"[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)
_PRIORITIES = {"debug": 7, "info": 6, "warning": 4, "error": 3, "critical": 2}
_HIDDEN = "[redacted]"
_MIN_SECRET = 4
_MOST_WAITING = 10_000
_EVENT_WIDTH = 18
_LAST_LINES_S = 2.0
_log = structlog.get_logger()


class Redactor:
    """Removes the secrets it knows, and the paths of urls, from every value."""

    def __init__(self) -> None:
        self._secrets: list[str] = []

    def add(self, secret: str) -> None:
        """Learn a secret."""
        if len(secret) >= _MIN_SECRET and secret not in self._secrets:
            # Longest first: a secret inside another must not leave the rest behind.
            self._secrets = sorted([*self._secrets, secret], key=len, reverse=True)

    def __call__(
        self, _logger: object, _method: str, event: EventDict
    ) -> MutableMapping[str, Any]:
        """Clean one event; a structlog processor."""
        return self._clean_keys(event)

    def _clean(self, value: object) -> object:
        if isinstance(value, dict):
            return self._clean_keys(value)
        if isinstance(value, list | tuple | set | frozenset):
            return [self._clean(inner) for inner in value]
        if isinstance(value, float) and not math.isfinite(value):
            return str(value)  # JSON cannot write it
        if value is None or isinstance(value, bool | int | float):
            return value
        if isinstance(value, BaseException):
            return self.clean(_described(value))
        return self.clean(str(value))

    def _clean_keys(self, event: MutableMapping[str, Any]) -> dict[str, Any]:
        return {
            self.clean(str(key)): self._clean(value) for key, value in event.items()
        }

    def clean(self, text: str) -> str:
        """Return the text without secrets, and of urls only their origins."""
        for secret in self._secrets:
            text = text.replace(secret, _HIDDEN)
        return _URL.sub(r"\1\2", text)


class LogWriter:
    """Writes to a stream in a thread of its own, so that no log line blocks the rest.

    A pipe whose reader is dead, a full disk, a stopped terminal or a hung journal
    costs log lines and no footage. `log.dropped` counts them once it is over.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = _own_file(stream)
        self._texts: deque[str] = deque()
        self._dropped = 0
        self._changed = threading.Condition()
        threading.Thread(target=self._work, name="log", daemon=True).start()

    def write(self, text: str) -> int:
        """Queue a text, or drop it if too many wait already."""
        with self._changed:
            if len(self._texts) < _MOST_WAITING:
                self._texts.append(text)
                self._changed.notify_all()
            else:
                self._dropped += 1
        return len(text)

    def flush(self) -> None:
        """Do nothing: each text is flushed as soon as it is written."""

    def drain(self, within_s: float = _LAST_LINES_S) -> None:
        """Wait until all is written, at most this long."""
        with self._changed:
            self._changed.wait_for(lambda: not self._texts, within_s)

    @contextlib.contextmanager
    def writing_to(self, stream: TextIO) -> Iterator[None]:
        """Write to another stream as long as the block lasts, such as above bars."""
        before, self._stream = self._stream, stream
        try:
            yield
        finally:
            self.drain()
            self._stream = before

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._texts)
            written = True
            try:
                self._stream.write(self._texts[0])
                self._stream.flush()
            except (OSError, ValueError):
                written = False
            with self._changed:
                self._texts.popleft()
                dropped = self._dropped if written else 0
                self._dropped += -dropped if written else 1
                self._changed.notify_all()
            if dropped:
                _log.warning("log.dropped", lines=dropped)


def configure(
    level: str, form: str | None, stream: TextIO, *, redactor: Redactor
) -> LogWriter:
    """Send all logs to `stream`; return the writer.

    Args:
        level: debug, info, warning or error.
        form: console, json or logfmt; None takes console where people read it, on a
            terminal and in the journal, else json.
        stream: Where to; under systemd each line begins with its priority.
        redactor: Removes secrets; may learn further ones later.
    """
    live, journal = stream.isatty(), _is_journal(stream)
    form = form or ("console" if live or journal else "json")
    writer = LogWriter(stream)
    threshold = getattr(logging, level.upper())
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
    ]
    if form != "console" or not journal:  # The journal tells people the time.
        clock = "%H:%M:%S" if live and form == "console" else "iso"
        shared.append(structlog.processors.TimeStamper(clock, utc=clock == "iso"))
    final: list[Processor] = [
        structlog.processors.format_exc_info
        if level == "debug"
        else _without_tracebacks,
        redactor,
        _renderer(form, colors=live),
    ]
    if journal:
        final.append(_with_priority)
    structlog.configure(
        processors=[*shared, _remember_level, *final],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=structlog.WriteLoggerFactory(writer),  # type: ignore[arg-type]  # it writes text
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(writer)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                _remember_level,
                *final,
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(max(threshold, logging.WARNING))
    return writer


def _renderer(form: str, *, colors: bool) -> Processor:
    if form == "json":
        return structlog.processors.JSONRenderer(serializer=json.dumps, default=str)
    if form == "logfmt":
        return _logfmt
    console = structlog.dev.ConsoleRenderer(
        colors=colors,
        pad_event_to=_EVENT_WIDTH,
        sort_keys=False,
        exception_formatter=structlog.dev.plain_traceback,
    )

    def render(logger: object, method: str, event: EventDict) -> str:
        known = {key: _plain(value) for key, value in event.items()}
        shown = {key: value for key, value in known.items() if value is not None}
        return str(console(logger, method, _one_line(shown)))

    return render


def _plain(value: object) -> object:
    """Return a value as people write it; what is unknown stays None."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(str(_plain(each)) for each in value if each is not None)
    return json.dumps(value, default=str) if isinstance(value, dict) else value


def _logfmt(_logger: object, _method: str, event: EventDict) -> str:
    parts = []
    for key, value in _one_line(event).items():
        text = value if isinstance(value, str) else json.dumps(value, default=str)
        plain = text and not set(text) & set(" =\"'")
        parts.append(f"{key}={text if plain else json.dumps(text, ensure_ascii=False)}")
    return " ".join(parts)


def _one_line(event: EventDict) -> EventDict:
    """Escape what could break the line or move the cursor."""
    return {
        key: _escaped(value, keep="\n" if key == "exception" else "")
        if isinstance(value, str)
        else value
        for key, value in event.items()
    }


def _escaped(text: str, *, keep: str) -> str:
    def escape(match: re.Match[str]) -> str:
        control = match.group()
        return control if control in keep else repr(control)[1:-1]

    return _CONTROL.sub(escape, text)


def _without_tracebacks(_logger: object, _method: str, event: EventDict) -> EventDict:
    """Replace an exception by its type and text."""
    failure = event.pop("exc_info", None)
    if isinstance(failure, tuple):
        failure = failure[1]
    elif failure and not isinstance(failure, BaseException):
        failure = sys.exception()
    if isinstance(failure, BaseException):
        event.setdefault("error", _described(failure))
    event.pop("exception", None)
    event.pop("stack_info", None)
    return event


def _described(failure: BaseException) -> str:
    return f"{type(failure).__name__}: {failure}".removesuffix(": ")


def _remember_level(_logger: object, method: str, event: EventDict) -> EventDict:
    """Make sure that each event has its level, also those of other libraries."""
    event.setdefault("level", method)
    return event


def _with_priority(_logger: object, method: str, line: Any) -> Any:  # noqa: ANN401 -- structlog passes text here
    """Put the syslog priority before each line (sd-daemon(3))."""
    mark = f"<{_PRIORITIES.get(method, 6)}>"
    return "\n".join(mark + part for part in str(line).splitlines())


def _own_file(stream: TextIO) -> TextIO:
    """Return the same file with a buffer of its own, so that no lock is shared."""
    try:
        return os.fdopen(os.dup(stream.fileno()), "w", errors="backslashreplace")
    except (OSError, ValueError):
        return stream


def _is_journal(stream: TextIO) -> bool:
    """Tell whether `stream` goes to the journal (JOURNAL_STREAM in systemd.exec(5))."""
    try:
        status = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"
