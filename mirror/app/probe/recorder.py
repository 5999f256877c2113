"""Keep what a `probe` was answered, without anything that names people or places."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import msgspec
from yarl import URL

from mirror.errors import MirrorError, OriginRefusedError
from mirror.model import is_folder, iso, to_us, utc_now
from mirror.vms.origins import origin_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from mirror.vms import RawAnswer, VmsClient

VERSION: Final = 1
_FIRST_ID: Final = 1_000_000
_OWN: Final = "{origin}"
_INSIDE: Final = "http://127.0.0.1:8080"
_TIME = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d{1,6})?(Z|[+-]\d\d:\d\d)?")
_WORD = re.compile(r"[a-z][a-z0-9/+.\- ]{0,19}")
_NUMBERS = ("current_page", "last_page", "per_page", "total", "from", "to")
_PLAIN = ("Content-Type", "Content-Encoding", "Accept-Ranges")
_DIGITS = (
    "Content-Length",
    "Retry-After",
    "X-RateLimit-Limit",
    "X-RateLimit-Remaining",
    "X-RateLimit-Reset",
)
_RANGE = re.compile(r"bytes (\d{1,19}-\d{1,19}|\*)/(\d{1,19}|\*)")


@dataclass(slots=True)
class Recorder:
    """Takes each answer as it comes; all that is not known to be harmless is left out.

    A name, host or id is replaced by another one, the same for the same.
    """

    client: VmsClient
    exchanges: list[dict[str, Any]] = field(default_factory=list)
    offset_us: int = 0
    _first_id: int | None = None
    _known: dict[str, dict[str, int]] = field(default_factory=dict)

    def list(self, path: str, query: Mapping[str, str], answered: RawAnswer) -> None:
        """Keep a page of the list."""
        self.offset_us = answered.clock_offset_us or self.offset_us
        self.exchanges.append(
            {
                "list": path,
                "per_page": int(query["per_page"]),
                "shape": re.sub(r"\d", "9", query["from"]),
                "future": query["from"][:10] > f"{utc_now():%Y-%m-%d}",
                "status": answered.status,
                "headers": self._headers(answered.headers),
                "body": self._page(answered.body),
            }
        )

    def file(
        self, export_id: int | None, headers: Mapping[str, str], answered: RawAnswer
    ) -> None:
        """Keep how the beginning of a file was answered; None is the missing one."""
        number = None if export_id is None else self._id(export_id)
        self.exchanges.append(
            {
                "file": number,
                "range": headers.get("Range"),
                "if_range": "If-Range" in headers
                and "archive-mirror-probe" not in headers["If-Range"],
                "gzip": "Accept-Encoding" in headers,
                "status": answered.status,
                "headers": self._headers(answered.headers),
                "mp4": answered.body[4:8] == b"ftyp",
            }
        )

    def write(self, path: Path) -> None:
        """Write all to a new file, mode 0600.

        Raises:
            MirrorError: It cannot be written, or is there already.
        """
        content = {
            "version": VERSION,
            "recorded_at": iso(to_us(utc_now())),
            "clock_offset_s": self.offset_us / 1e6,
            "exchanges": self.exchanges,
        }
        try:
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(fd, "w") as file:
                json.dump(content, file, indent=1)
        except OSError as exc:
            raise MirrorError(
                f"the record cannot be written to {path} ({exc.strerror}); name a new "
                "file in a folder that you may write to"
            ) from exc

    def _number(self, kind: str, value: object) -> int:
        """Return the number that stands for a value, counted from 1."""
        known = self._known.setdefault(kind, {})
        return known.setdefault(str(value), len(known) + 1)

    def _id(self, value: object) -> int | None:
        """Return another id; which of two is the larger one stays as it is."""
        if isinstance(value, bool) or not str(value).isdecimal():
            return None
        number = int(str(value))
        if self._first_id is None:
            self._first_id = number
        return max(1, number - self._first_id + _FIRST_ID)

    def _headers(self, headers: Mapping[str, str]) -> dict[str, str]:
        kept = {}
        for name in _PLAIN:
            value = headers.get(name, "").split(";")[0].strip().lower()
            if _WORD.fullmatch(value):
                kept[name] = value
        for name in _DIGITS:
            value = headers.get(name, "").strip()
            if value.isascii() and value.isdigit():
                kept[name] = value[:19]
        if _RANGE.fullmatch(headers.get("Content-Range", "")):
            kept["Content-Range"] = headers["Content-Range"]
        if "Last-Modified" in headers:
            kept["Last-Modified"] = "Mon, 01 Jan 2024 00:00:00 GMT"
        if "ETag" in headers:
            weak = "W/" if headers["ETag"].startswith("W/") else ""
            kept["ETag"] = f'{weak}"{self._number("etag", headers["ETag"])}"'
        return kept

    def _page(self, body: bytes) -> dict[str, Any] | None:
        """Return a page that can be shown; None if it is none."""
        try:
            found = msgspec.json.decode(body)
        except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
            return None
        if not isinstance(found, dict):
            return None
        page: dict[str, Any] = {}
        if isinstance(found.get("errors"), dict):
            known = [key for key in found["errors"] if key in {"from", "to", "page"}]
            page["errors"] = {key: ["It is not valid."] for key in known}
        rows, meta = found.get("data"), found.get("meta")
        if isinstance(rows, list):
            page["data"] = [self._row(one) for one in rows]
        if isinstance(meta, dict):
            page["meta"] = _picked(meta, _NUMBERS)
        return page

    def _row(self, row: object) -> dict[str, Any] | None:
        if not isinstance(row, dict):
            return None
        number = self._id(row.get("id"))
        stream, user = row.get("stream"), row.get("user")
        kept: dict[str, Any] = {
            "id": number,
            "name": f"export-{number}.mp4"
            if isinstance(row.get("name"), str)
            else None,
            "url": self._url(row.get("url"), number),
            "is_file_exists": row.get("is_file_exists") is True,
        }
        for key in ("from", "to", "created_at", "updated_at"):
            value = row.get(key)
            whole = isinstance(value, str) and _TIME.fullmatch(value)
            kept[key] = value if whole else None
        if isinstance(row.get("status"), str):
            word = row["status"]
            plain = _WORD.fullmatch(word) is not None
            kept["status"] = word if plain else f"word {self._number('word', word)}"
        if isinstance(stream, dict):
            camera = self._number("camera", stream.get("camera_id"))
            high = stream.get("type") == "high"
            kept["stream"] = {"type": "high" if high else "low", "camera_id": camera}
        if row.get("user_id") is not None:
            kept["user_id"] = self._number("user", row["user_id"])
        elif isinstance(user, dict):
            kept["user_id"] = self._number("user", user.get("id"))
        return kept

    def _url(self, url: object, number: int | None) -> str | None:
        """Return a url of the same form that leads nowhere else."""
        if not isinstance(url, str) or not url.strip():
            return "" if isinstance(url, str) else None
        path = "/storage/" if is_folder(url) else f"/storage/{number}.mp4"
        if "://" not in url:
            return path
        listed = ""
        try:
            listed = origin_of(URL(url.strip()))
            self.client.resolve(url, None)
        except OriginRefusedError:
            return f"http://host-{self._number('host', listed)}.example{path}"
        except ValueError:
            return f"http://:{path}"
        return (_OWN if listed == self.client.origin else _INSIDE) + path


def _picked(meta: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """Return those that are whole numbers, given as such or as digits."""
    return {
        name: meta[name]
        for name in names
        if meta.get(name) is None
        or isinstance(meta[name], int)
        or str(meta[name]).isdigit()
        if name in meta
    }
