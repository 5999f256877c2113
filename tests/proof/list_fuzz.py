"""Feed made-up list answers to a real walk over a real ledger, guided by coverage.

A program of its own, for atheris takes over the process:
`python -m tests.proof.list_fuzz -runs=20000 -seed=1 [folder of inputs that mattered]`.
It ends with 0 after so many inputs, and with a traceback at the first that breaks what
must hold:

- nothing but `ListError` comes out of a walk;
- good rows are met, whatever stands beside them on the page;
- what the ledger took can be listed, named and described.
"""

from __future__ import annotations

import contextlib
import json
import sys
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import atheris
import structlog

with atheris.instrument_imports(include=["mirror.vms.schema", "mirror.pipeline"]):
    from mirror.pipeline.discover import walker
    from mirror.pipeline.discover.walker import Walker, WalkRules
    from mirror.vms import schema

from mirror import sidecar
from mirror.app.status import public_json
from mirror.errors import ListError
from mirror.layout import Values, parse_layout, path_key
from mirror.ledger import Filter, Ledger
from mirror.simulator.exports import seed_rows
from tests.proof.planted_bugs.plant import plant
from tests.temp_folders import memory

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from mirror.model import Export
    from mirror.ports import Page

_LEDGER_LASTS = 500
_LOOKED_EVERY = 50
_MAX_DEPTH = 100
_MAX_NESTED = 3
_NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
_DAY = timedelta(days=1)
_LAYOUT = parse_layout(
    "{source}/{camera_name}/{from:%Y/%m/%d}/{stream_type}/{id}-{name}"
)
_SEED = seed_rows()
_FIELDS = sorted(_SEED[0])
_PLACES = ("", "/", "//", "http://127.0.0.1:8080/storage/", "file:", "https:")
_FIRST_GOOD = 1_000_000
_MAX_SEGMENT_BYTES = 230
walker.PACE_S = 0  # nobody is to be spared here


class _Said:
    """A source that answers with one made-up body, and then with an empty page."""

    name = "hq"
    oldest_us = None
    lifetime_us = 3 * 3_600_000_000
    second_look = True

    def __init__(self, body: bytes) -> None:
        self._body = body

    async def page(self, number: int, *, since_us: int, until_us: int) -> Page:
        body = self._body if number == 1 else b'{"data": []}'
        return schema.decode_page(body, footage_zone=UTC, clock_offset_us=None)


class Fuzz:
    """One ledger after another, walked into with each input."""

    def __init__(self) -> None:
        self._done = 0
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._known: set[int] = set()
        self._ledger: Ledger
        self._renew()

    def one(self, data: bytes) -> None:
        """Try one input."""
        self._done += 1
        if self._done % _LEDGER_LASTS == 0:
            self._renew()
        made = atheris.FuzzedDataProvider(data)
        body, must = _answer(made, self._done)
        self._walk(body)
        self._known |= must
        for export_id in must:
            assert self._ledger.queries.find(export_id), "a good row was not met"
        if self._done % _LOOKED_EVERY == 0:
            for export, copies in self._ledger.queries.exports(Filter()):
                if export.export_id not in self._known:
                    self._known.add(export.export_id)
                    self._describe(export, copies)

    def _walk(self, body: bytes) -> None:
        walker = Walker(
            _Said(body),  # type: ignore[arg-type]
            ledger=self._ask,  # type: ignore[arg-type]
            rules=self._rules,
            now=lambda: _NOW,
        )
        with contextlib.suppress(ListError):
            _drive(walker.walk(sweep=self._done % 7 == 0))

    def _describe(self, export: Export, copies: list[Any]) -> None:
        json.dumps(public_json.export(export, copies)).encode()
        path = _LAYOUT.render(_values(export))
        assert ".." not in path.split("/"), path
        assert all(
            0 < len(part.encode()) <= _MAX_SEGMENT_BYTES for part in path.split("/")
        ), path
        path_key(path)
        written = sidecar.record(
            export,
            item=b"{}",
            source_url="https://vms.example",
            node_id="n",
            target="nas",
            path=path,
        )
        json.loads(written)

    async def _ask(self, call: Callable[..., Any], *given: Any) -> Any:
        return call(self._ledger, *given)

    def _renew(self) -> None:
        if self._folder is not None:
            self._ledger.close()
            self._folder.cleanup()
        self._known.clear()
        self._folder = tempfile.TemporaryDirectory(prefix="list-fuzz-", dir=memory())
        self._ledger = Ledger.open(Path(self._folder.name))
        self._ledger._db.connection.execute("PRAGMA synchronous = OFF")
        self._rules = _rules()


def _rules() -> WalkRules:
    return WalkRules(
        lookback=_DAY,
        sweep_depth=90 * _DAY,
        history_start_us=0,
        waiting_limit=_DAY,
        try_folders=True,
        retry_max=timedelta(minutes=10),
    )


def _drive(work: Coroutine[Any, Any, object]) -> None:
    """Run what only ever gives way, without a loop."""
    try:
        while True:
            work.send(None)
    except StopIteration:
        return


def _answer(made: atheris.FuzzedDataProvider, number: int) -> tuple[bytes, set[int]]:
    """Return a body, and the ids, new with each number, that a walk must meet."""
    first = _FIRST_GOOD + 10 * number
    all_good = set(range(first, first + 3))
    rows = [
        json.dumps(_SEED[export_id - first] | {"id": export_id}).encode()
        for export_id in sorted(all_good)
    ]
    match made.ConsumeIntInRange(0, 3):
        case 0:
            return made.ConsumeBytes(made.remaining_bytes()), set()
        case 1:
            junk = made.ConsumeBytes(made.remaining_bytes())
            must = all_good if _is_one_value(junk) else set()
            return _page([rows[0], junk, *rows[1:]]), must
        case 2:
            count = made.ConsumeIntInRange(1, 4)
            twisted = [_twisted(made, first + 3 + n) for n in range(count)]
            return _page([*twisted, *rows]), all_good
        case _:
            meta = json.dumps(_value(made, 0)).encode()
            return b'{"data": [' + b",".join(
                rows
            ) + b'], "meta": ' + meta + b"}", all_good


def _page(rows: list[bytes]) -> bytes:
    return b'{"data": [' + b", ".join(rows) + b'], "meta": {"total": 9}}'


def _is_one_value(text: bytes) -> bool:
    """Tell whether a text is one JSON value, not nested beyond all reason."""
    if text.count(b"[") + text.count(b"{") > _MAX_DEPTH:
        return False
    try:
        json.loads(text.decode("utf-8"), parse_constant=_refuse)
    except (ValueError, RecursionError):
        return False
    return True


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")


def _twisted(made: atheris.FuzzedDataProvider, export_id: int) -> bytes:
    """Return a row of the sample with some fields replaced, added or gone."""
    row = dict(_SEED[made.ConsumeIntInRange(0, len(_SEED) - 1)])
    row["id"] = export_id
    for _ in range(made.ConsumeIntInRange(1, 4)):
        name = _FIELDS[made.ConsumeIntInRange(0, len(_FIELDS) - 1)]
        if made.ConsumeBool():
            row[name] = _value(made, 0)
        else:
            row.pop(name, None)
    return json.dumps(row, ensure_ascii=made.ConsumeBool()).encode(
        "utf-8", "surrogatepass"
    )


def _value(made: atheris.FuzzedDataProvider, depth: int) -> Any:
    match made.ConsumeIntInRange(0, 9 if depth < _MAX_NESTED else 6):
        case 0:
            return None
        case 1:
            return made.ConsumeBool()
        case 2:
            return made.ConsumeInt(20)
        case 3:
            return made.ConsumeRegularFloat()
        case 4:
            return made.ConsumeUnicode(80)
        case 5:
            stamp = made.ConsumeUnicodeNoSurrogates(12)
            return f"20{made.ConsumeIntInRange(0, 99):02}-11-23T08:00:00{stamp}"
        case 6:
            at = made.ConsumeIntInRange(0, len(_PLACES) - 1)
            return _PLACES[at] + made.ConsumeUnicode(30)
        case 7:
            count = made.ConsumeIntInRange(0, 3)
            return [_value(made, depth + 1) for _ in range(count)]
        case _:
            return {
                made.ConsumeUnicode(8): _value(made, depth + 1)
                for _ in range(made.ConsumeIntInRange(0, 3))
            }


def _values(export: Export) -> Values:
    return Values(
        source=export.source,
        export_id=export.export_id,
        name=export.name,
        camera_id=export.camera_id,
        camera_name=export.name,
        stream_type=export.stream_type,
        footage_from=_moment(export.footage_from),
        footage_to=_moment(export.footage_to),
        created_at=None,
    )


def _moment(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)


def main(arguments: list[str]) -> None:
    """Fuzz; `--plant=NAME` plants a bug first."""
    given = [one for one in arguments if not one.startswith("--plant=")]
    for name in {*arguments} - {*given}:
        plant(name.removeprefix("--plant="))
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    atheris.Setup(given, Fuzz().one)
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv)
