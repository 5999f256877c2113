"""Answer as a real VMS did when `probe --record` asked it."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qsl

from multidict import CIMultiDict
from typing_extensions import override

from mirror.simulator.answer import Answer, Body
from mirror.simulator.common_faults import JSON, error_body, gzip, http_date
from mirror.simulator.responder import Responder

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from mirror.simulator.answer import Scene
    from mirror.simulator.journal import Request
    from mirror.simulator.server import Vms

MISSING: Final = "archive-mirror-probe.mp4"
_VERSION = 1
_OWN = "{origin}"
_TIME = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d")
_HEAD = b"\0\0\0\x20ftypisom"
_CHUNK = 65536


class Record:
    """What a `probe` kept.

    Raises:
        ValueError: The file holds no such record.
    """

    def __init__(self, path: Path) -> None:
        try:
            found = json.loads(path.read_bytes())
            version = found["version"]
            self.at = datetime.fromisoformat(found["recorded_at"])
            self.clock_offset = timedelta(seconds=float(found["clock_offset_s"]))
            self.exchanges: list[dict[str, Any]] = list(found["exchanges"])
        except (OSError, ValueError, KeyError, TypeError) as exc:
            raise ValueError(
                f"{path} is no record; `archive-mirror probe SOURCE --record FILE` "
                "makes one"
            ) from exc
        if version != _VERSION:
            raise ValueError(f"{path} is of version {version}, not {_VERSION}")


class ReplayResponder(Responder):
    """Answers out of a record; times are moved on to now."""

    def __init__(self, vms: Vms, record: Record) -> None:
        super().__init__(vms)
        self._vms = vms
        self._record = record

    @override
    def answer(self, request: Request, scene: Scene) -> Answer:
        """Return what was answered to the question most like this one."""
        now = scene.now
        path, _, text = request.target.partition("?")
        query = dict(parse_qsl(text))
        listed = [one for one in self._record.exchanges if one.get("list") == path]
        if listed:
            answer = self._replayed_list(query, listed, now)
        else:
            answer = self._replayed_file(request, path)
        answer.headers.setdefault("Date", http_date(now))
        return answer

    def _replayed_list(
        self, query: Mapping[str, str], listed: list[dict[str, Any]], now: datetime
    ) -> Answer:
        since = query.get("from", "")
        shape = re.sub(r"\d", "9", since)
        alike = [one for one in listed if one["shape"] == shape]
        if not alike:
            refused = [one for one in listed if one["status"] != HTTPStatus.OK]
            return self._of(refused[0], now) if refused else _refusal(422)
        future = since[:10] > now.strftime("%Y-%m-%d")
        of_span = [one for one in alike if one["future"] == future] or alike
        asked = int(query.get("per_page", "25"))
        best = min(of_span, key=lambda one: abs(one["per_page"] - asked))
        answer = self._of(best, now, page=int(query.get("page", "1")))
        if best["headers"].get("Content-Encoding") == "gzip":
            gzip(answer)
        return answer

    def _of(self, kept: dict[str, Any], now: datetime, page: int = 1) -> Answer:
        answer = Answer(status=kept["status"], headers=CIMultiDict(kept["headers"]))
        for name in ("Content-Length", "Content-Encoding"):
            answer.headers.pop(name, None)
        if kept["body"] is None:
            answer.body = Body.of(b"<!DOCTYPE html>\n<html></html>\n")
            return answer
        body = dict(kept["body"])
        if page > 1 and "data" in body:
            body["data"] = []
        moved = now - self._record.clock_offset - self._record.at

        def later(found: re.Match[str]) -> str:
            text = found.group()
            moment = datetime.fromisoformat(text).replace(tzinfo=UTC) + moved
            return f"{moment:%Y-%m-%d}{text[10]}{moment:%H:%M:%S}"

        text = json.dumps(body).replace(_OWN, self._vms.url)
        answer.body = Body.of(_TIME.sub(later, text).encode())
        return answer

    def _replayed_file(self, request: Request, path: str) -> Answer:
        number = None if path.endswith(f"/{MISSING}") else self._number_at(path)
        kept = [
            one
            for one in self._record.exchanges
            if "file" in one and one["file"] == number
        ]
        if not kept:
            return _refusal(404)
        gzips = "gzip" in request.headers.get("Accept-Encoding", "")
        if_range = request.headers.get("If-Range")
        known = {
            one["headers"].get(name)
            for one in kept
            for name in ("ETag", "Last-Modified")
        }
        same = if_range is not None and if_range in known

        def unlike(one: dict[str, Any]) -> int:
            differs = (
                *(4 * [(one["range"] is None) != (request.range is None)]),
                *(2 * [one["range"] != request.range]),
                *(2 * [one["if_range"] != same]),
                one["gzip"] != gzips,
            )
            return sum(differs)

        best = min(kept, key=unlike)
        answer = Answer(status=best["status"], headers=CIMultiDict(best["headers"]))
        length = int(answer.headers.pop("Content-Length", "0"))
        head = _HEAD if best["mp4"] else b"\0" * len(_HEAD)
        answer.body = Body(length, lambda: _content(head, length))
        return answer

    def _number_at(self, path: str) -> int | None:
        name = path.rpartition("/")[2].removeprefix("export-").removesuffix(".mp4")
        return int(name) if name.isascii() and name.isdigit() else -1


def _content(head: bytes, length: int) -> Iterator[bytes]:
    yield head[:length]
    left = length - len(head)
    while left > 0:
        yield b"\0" * min(left, _CHUNK)
        left -= _CHUNK


def _refusal(status: int) -> Answer:
    answer = Answer()
    errors = {"from": ["It is not valid."]} if status == 422 else None  # noqa: PLR2004 -- HTTP
    answer.replace_body(status, JSON, error_body(status, errors))
    return answer
