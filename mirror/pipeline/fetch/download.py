"""Bring the bytes of one file into its part of the spool."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import structlog

from mirror.errors import FetchError, FileGoneError, NoRoomError, SpoolError
from mirror.ledger import Partial
from mirror.lifecycle.attempt_end import AttemptFacts
from mirror.model import Reason, Receipt, is_folder, to_us
from mirror.pipeline.fetch import resume
from mirror.pipeline.fetch.receive import ErrorPageError, Receiver, read_head
from mirror.pipeline.spool.part import Part
from mirror.ports import UNFIT_RANGE, Batch, Validators
from mirror.tasks import run_to_end

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from datetime import datetime
    from pathlib import Path

    from mirror.ledger import LedgerThread
    from mirror.metrics import Metrics
    from mirror.model import Export
    from mirror.pipeline.fetch.first_byte import FirstByteWait
    from mirror.pipeline.fetch.receive import ReceiveLimits
    from mirror.pipeline.progress import Progress
    from mirror.pipeline.spool.spool import Spool
    from mirror.ports import FileBody, ResumePoint, Source

_BEFORE_MARKUP = b" \t\r\n\0\xef\xbb\xbf\xff\xfe"
"""White space and byte order marks."""
WORTHWHILE_BYTES = 1024 * 1024
"""After a cut the rest is asked for at once if the answer brought so much.

That is more work for the VMS than a request is. One that brings less, as a byte per
connection, waits as after any failure.
"""
_log = structlog.get_logger()


@dataclass(slots=True, kw_only=True)
class Download(AttemptFacts):
    """One file on its way into the spool, and what became of it.

    Attributes:
        key: Of the export in the ledger.
        paths: Of the part, once it is open.
        validators: Which version of the file the part belongs to.
    """

    source: Source
    export: Export
    key: int
    paths: set[Path] = field(default_factory=set)
    validators: Validators = field(default_factory=Validators)

    @property
    def total_bytes(self) -> int | None:
        """Length of the whole file, if known."""
        return self.validators.total_bytes


class Downloader:
    """Carries out downloads; what each received is durable when it ends."""

    def __init__(
        self,
        *,
        ledger: LedgerThread,
        spool: Spool,
        metrics: Metrics,
        progress: Progress,
        limits: ReceiveLimits,
        first_byte_wait: FirstByteWait,
        now: Callable[[], datetime],
    ) -> None:
        self._ledger = ledger
        self._spool = spool
        self._metrics = metrics
        self._progress = progress
        self._limits = limits
        self._first_byte_wait = first_byte_wait
        self._now = now

    async def run(self, download: Download) -> None:
        """Receive the file, or the rest of it, to its end; give it its receipt.

        Raises:
            FileGoneError: There is no file behind the url just now.
            OriginRefusedError: The url leads where we may not go.
            FetchError: The file did not come whole.
            SpoolError: The spool cannot take it.
        """
        part = await self._spool.open(download.export)
        download.folder, download.paths = str(part.path.parent), {part.path}
        try:
            receipt = await self._fill(download, part)
            download.complete = True
        finally:
            await run_to_end(self._close(download, part))
        download.receipt = receipt

    async def _fill(self, download: Download, part: Part) -> Receipt:
        export = download.export
        download.offset_bytes = download.held_bytes = part.size
        download.etag_use = export.etag_use
        if part.size:
            download.validators = Validators(
                total_bytes=export.part_total,
                etag=export.part_etag,
                last_modified=export.part_modified,
                firm=export.part_firm,
            )
            if part.size == download.total_bytes:
                return await self._prove(download, part, explicit_end=True)
        if export.url is None:
            raise FileGoneError(Reason.FILE_GONE, "the list shows no url any more")
        point = resume.point(
            0 if export.ask_without_range else part.size,
            download.validators,
            download.etag_use,
        )
        await self._ask_for_room(export, part)
        explicit_end: bool | None = None
        while explicit_end is None:
            size = part.size
            try:
                explicit_end = await self._ask_and_take(download, part, point)
            except FetchError as exc:
                if exc.reason != "cut" or part.size - size < WORTHWHILE_BYTES:
                    raise
            # It is the same file: ask for its rest, and do not give up its bytes.
            point = resume.point(part.size, download.validators, download.etag_use)
        return await self._prove(download, part, explicit_end=explicit_end)

    async def _ask_and_take(
        self, download: Download, part: Part, point: ResumePoint
    ) -> bool | None:
        """Receive one answer; see `_take`. None: ask again, it is the same file."""
        async with self._ask(download, point) as body:
            before = download.etag_use or download.export.etag_use
            download.etag_use = resume.learn(before, download.validators, point, body)
            learnt = download.etag_use is not before
            if learnt and download.validators.firm and point.size_bytes:
                return None
            return await self._take(download, body, part)

    @contextlib.asynccontextmanager
    async def _ask(
        self, download: Download, point: ResumePoint
    ) -> AsyncIterator[FileBody]:
        """Ask for the file or its rest, as long as it may take to come."""
        source, export, left_s = download.source, download.export, None
        if export.deadline_us is not None:
            left_s = (export.deadline_us - to_us(self._now())) / 1e6
        wait_s = self._first_byte_wait.wait_s(
            source.origin, late=export.late, left_s=left_s
        )
        began, url = time.monotonic(), export.url or ""
        async with source.open_file(
            url, export.name, point, first_byte_s=wait_s
        ) as body:
            self._first_byte_wait.answered(source.origin, time.monotonic() - began)
            yield body

    async def _take(self, download: Download, body: FileBody, part: Part) -> bool:
        """Receive a body; tell whether its end was announced."""
        first = Batch(self._limits.batch_bytes)
        if body.start_bytes == 0 < part.size:
            # A page instead of the file must not cost the bytes held.
            with _named_error_page(download.export):
                await read_head(body, first)
            await self._spool.use(part, Part.restart)
            download.offset_bytes = 0
        elif body.start_bytes < part.size:
            await self._compare(body, part, part.size - body.start_bytes, first)
        download.began = True
        download.validators = resume.validators_of(body)
        total_bytes = download.total_bytes
        await self._spool.make_room(
            part, None if total_bytes is None else total_bytes - part.size
        )
        await self._receive(download, body, part, first)
        return body.explicit_end or total_bytes is not None

    async def _compare(
        self, body: FileBody, part: Part, size: int, batch: Batch
    ) -> None:
        """Read again the last bytes of the part; leave what came behind them.

        Raises:
            FetchError: They are others, or the body broke off.
        """
        while batch.size < size and await body.fill(batch):
            pass
        if bytes(batch.held[:size]) != await self._spool.use(part, Part.tail, size):
            raise FetchError(
                UNFIT_RANGE, "the file has changed: other bytes came than are held"
            )
        batch.drop(size)

    async def _ask_for_room(self, export: Export, part: Part) -> None:
        """Make sure of room before anything is asked of the VMS.

        The length of a file of which nothing is held may have changed since: one that
        the spool can never hold is asked for all the same.
        """
        total = export.part_total
        rest = None if total is None else max(0, total - part.size)
        try:
            await self._spool.make_room(part, rest, begun=False)
        except NoRoomError as exc:
            if part.size or not exc.never:
                raise
            await self._spool.make_room(part, None, begun=False)

    async def _receive(
        self, download: Download, body: FileBody, part: Part, first: Batch
    ) -> None:
        transfer = self._progress.transfers[download.key]
        transfer.done_bytes, transfer.total_bytes = part.size, download.total_bytes
        transfer.began = True

        def received(number: int, size: int) -> None:
            self._metrics.bytes_fetched(number)
            self._progress.received_bytes += number
            transfer.done_bytes = size

        receiver = Receiver(
            self._spool,
            part,
            limits=self._limits,
            checkpoint=lambda: self._checkpoint(download, part),
            received=received,
        )
        with _named_error_page(download.export):
            await receiver.run(body, first)
        if download.total_bytes not in {None, part.size}:
            raise FetchError(
                "cut",
                f"the transfer ended at {part.size} of {download.total_bytes} bytes",
            )

    async def _prove(
        self, download: Download, part: Part, *, explicit_end: bool
    ) -> Receipt:
        """Find out whether the file is whole, and make it durable."""
        proof = await self._spool.use(part, Part.examine, explicit_end)
        sha256 = await self._spool.use(part, Part.finish)
        download.held_bytes = part.size
        return Receipt(
            size_bytes=part.size,
            sha256=sha256,
            etag=download.validators.etag,
            last_modified=download.validators.last_modified,
            doubt=proof.doubt,
            notes=proof.notes,
        )

    async def _close(self, download: Download, part: Part) -> None:
        """Make durable what an unfinished download received, and close the part."""
        try:
            if not download.complete:
                await self._checkpoint(download, part)
                if not part.size:
                    await self._spool.use(part, Part.discard)
        except SpoolError as exc:
            _log.warning("spool.failed", export=download.export.label, error=str(exc))
        finally:
            await self._spool.put_away(part)

    async def _checkpoint(self, download: Download, part: Part) -> None:
        size, sha256 = await self._spool.use(part, Part.flush)
        partial = Partial(
            spool_dir=download.folder,
            size_bytes=size,
            sha256=sha256,
            total_bytes=download.total_bytes,
            etag=download.validators.etag,
            last_modified=download.validators.last_modified,
            firm=download.validators.firm,
        )
        await self._ledger(
            lambda ledger: ledger.fetches.checkpoint(download.key, partial)
        )
        download.held_bytes = size


@contextlib.contextmanager
def _named_error_page(export: Export) -> Iterator[None]:
    """Say what came instead of a file.

    Raises:
        FileGoneError: An error page came for a folder: there is no file in it.
        FetchError: Another error page came.
    """
    try:
        yield
    except ErrorPageError as exc:
        what = "text" if exc.head else "nothing"
        # In UTF-16 each character has a zero beside it.
        if exc.head.lstrip(_BEFORE_MARKUP).startswith(b"<"):
            what = "an HTML page"
        text = f"the VMS sends {what} instead of the file"
        if export.url is not None and is_folder(export.url):
            raise FileGoneError(Reason.URL_WITHOUT_FILE, text) from exc
        raise FetchError("error_page", text) from exc
