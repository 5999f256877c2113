"""What the VMS leaves open about its files."""

from __future__ import annotations

import re
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from yarl import URL

from mirror.app.probe.list_questions import newest_first
from mirror.errors import MirrorError
from mirror.model import is_folder, utc_now
from mirror.ports import ResumePoint
from mirror.vms import file_answer

if TYPE_CHECKING:
    from mirror.app.probe.asker import Asker
    from mirror.model import Row
    from mirror.ports import Page
    from mirror.vms import RawAnswer

MISSING: Final = "archive-mirror-probe.mp4"
_PART: Final = 1024
_MOST_TRIES = 3
_GONE = frozenset({HTTPStatus.FORBIDDEN, HTTPStatus.NOT_FOUND, HTTPStatus.GONE})
_WORD = re.compile(r"[a-z0-9/+.\-]{1,40}")
_OTHER_TAG = '"archive-mirror-probe"'


@dataclass(slots=True, kw_only=True)
class FileQuestions:
    """Asks about files.

    Attributes:
        url: Of the source.
        max_bytes: As `max_file_size`.
    """

    asker: Asker
    url: str
    max_bytes: int

    async def ask(self, page: Page | None) -> None:
        """Ask all; `page` is of the list, None if none could be had.

        Raises:
            ProbeLimitError: No more requests may be made.
        """
        newest = newest_first(page.rows if page else [])
        address = await self._first_part(newest) if page else None
        await self._ask_expired(newest)
        await self._ask_missing(address)

    async def _first_part(self, newest: list[Row]) -> URL | None:
        """Ask for the beginning of the newest file; return where it is."""
        with_file = [row for row in newest if row.has_file and row.url is not None]
        if not with_file:
            why = "no row has a file now: ask for an export on the VMS with this "
            why += "account, and probe again within 3 hours"
            self.asker.unknown("file", why)
            return None
        why = ""
        for row in with_file[:_MOST_TRIES]:
            try:
                address = self.asker.client.resolve(row.url or "", row.name)
                part = {"Range": f"bytes=0-{_PART - 1}"}
                answered = await self.asker.file(address, part)
            except MirrorError as exc:
                why = f"export {row.export_id}: {exc}"
                continue
            if answered.status in {HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT}:
                await self._tell_file(row, address, answered)
                return address
            why = f"export {row.export_id}: the VMS answers {answered.status}"
            if answered.status == HTTPStatus.UNAUTHORIZED:
                why += " to who sends no token"
                refused = "files are refused without the token (401)"
                self.asker.suggest("send_token_to_files", True, refused, sure=False)
                break
        self.asker.unknown("file", f"{why}; open it on the VMS's own page, to compare")
        return None

    async def _tell_file(self, row: Row, address: URL, answered: RawAnswer) -> None:
        kind = answered.headers.get("Content-Type", "no type").split(";")[0].lower()
        what = kind if _WORD.fullmatch(kind) else "a strange type"
        mp4 = answered.body[4:8] == b"ftyp"
        where = " under folder + name" if is_folder(row.url or "") else ""
        self.asker.say(
            "file",
            f"export {row.export_id}{where}: {what}, "
            f"{'begins as an mp4' if mp4 else 'does not begin as an mp4'}",
        )
        if where and mp4:
            why = "urls end at the folder, and the file lies there under its name"
            self.asker.suggest("folder_url", "append_name", why)
        etag = answered.headers.get("ETag")
        strong = etag is not None and not etag.startswith("W/")
        dated = answered.headers.get("Last-Modified") is not None
        self.asker.say(
            "validators",
            f"ETag: {'none' if etag is None else 'strong' if strong else 'weak'}; "
            f"Last-Modified: {'yes' if dated else 'none'}"
            + ("" if strong or dated else "; a broken transfer starts over"),
        )
        await self._ask_range(address, answered)
        await self._ask_compression(address)

    async def _ask_range(self, address: URL, first: RawAnswer) -> None:
        """Ask for the rest as the service does, of this version and of another."""
        if first.status == HTTPStatus.OK:
            self.asker.say("Range", "ignored: a broken transfer starts over")
            return
        total = first.headers.get("Content-Range", "").rpartition("/")[2]
        point = ResumePoint(
            size_bytes=_PART,
            total_bytes=int(total) if total.isascii() and total.isdigit() else None,
            etag=first.headers.get("ETag"),
            last_modified=first.headers.get("Last-Modified"),
            firm=True,
        )
        asked = file_answer.range_headers(point)
        if not asked or point.total_bytes is None or point.total_bytes <= _PART:
            self.asker.say(
                "Range", "taken (206); whether If-Range is heeded cannot be told"
            )
            return
        with self.asker.question("Range"):
            same = await self.asker.file(address, asked)
            offer = file_answer.judge(
                same.status,
                same.headers,
                point=point,
                folder=False,
                max_bytes=self.max_bytes,
                now=utc_now(),
            )
            other = await self.asker.file(address, asked | {"If-Range": _OTHER_TAG})
            resumes = "resumes rightly" if offer.start_bytes else "starts over"
            heeds = other.status == HTTPStatus.OK
            self.asker.say(
                "Range",
                f"taken (206); with If-Range it {resumes}; of another version it "
                + (
                    "sends the whole, as it must"
                    if heeds
                    else f"answers {other.status}: it ignores If-Range; each part is "
                    "compared with what is held, so nothing is mixed"
                ),
            )

    async def _ask_compression(self, address: URL) -> None:
        with self.asker.question("compression of files"):
            answered = await self.asker.file(address, {"Accept-Encoding": "gzip"})
            coding = answered.headers.get("Content-Encoding", "identity").lower()
            shown = coding if _WORD.fullmatch(coding) else "a strange one"
            self.asker.say(
                "compression of files",
                "none, also for who takes gzip"
                if coding == "identity"
                else f"{shown} for who takes it; we ask for none",
            )

    async def _ask_expired(self, newest: list[Row]) -> None:
        """Ask for the newest file that the list says is gone."""
        for row in newest:
            if not row.has_file and row.url is not None and not is_folder(row.url):
                with self.asker.question("deleted file"):
                    address = self.asker.client.resolve(row.url, row.name)
                    await self._ask_code("deleted file", address)
                return

    async def _ask_missing(self, address: URL | None) -> None:
        base = address or URL(f"{self.url}/storage/{MISSING}")
        folder = base.raw_path.rpartition("/")[0]
        missing = base.with_path(f"{folder}/{MISSING}", encoded=True)
        with self.asker.question("missing file"):
            await self._ask_code("missing file", missing)

    async def _ask_code(self, topic: str, address: URL) -> None:
        answered = await self.asker.file(address, {"Range": "bytes=0-0"})
        status = answered.status
        kind = answered.headers.get("Content-Type", "").split(";")[0].strip().lower()
        if status in _GONE:
            text = f"{status}, understood as gone"
        elif status in {HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT}:
            shown = kind if _WORD.fullmatch(kind) else "something"
            text = f"{status} with {shown}: seen to be no mp4, and tried again later"
        else:
            text = f"{status}: not understood as gone; it is tried again and parked"
        self.asker.say(topic, text)
