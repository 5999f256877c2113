"""What the simulated VMS holds, and the hands that change it; no network in it."""

from __future__ import annotations

from datetime import datetime, timedelta
from types import EllipsisType  # noqa: TC003 -- part of signatures
from typing import TYPE_CHECKING

from mirror.simulator.catalogue import Catalogue
from mirror.simulator.exports import Export, Stage, Truth, Version
from mirror.simulator.faults import Script, Step
from mirror.simulator.life import Clockwork, Draft, Life
from mirror.simulator.rows import FOLDER, archive_path, seed_rows

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mirror.simulator.behaviour import Behaviour

_FOOTAGE = timedelta(minutes=9, seconds=7)


class Holdings:
    """All exports of a simulated VMS, and their life.

    Attributes:
        behaviour: How it behaves; may be replaced at any time.
        catalogue: All exports.
    """

    def __init__(
        self,
        *,
        behaviour: Behaviour,
        life: Life,
        clock: Callable[[], datetime],
        seed: int,
    ) -> None:
        self.behaviour = behaviour
        self.catalogue = Catalogue()
        self._clock = clock
        self._seed = seed
        self._clockwork = Clockwork(
            life, catalogue=self.catalogue, started_at=self.now(), ask=self._ask
        )

    def now(self) -> datetime:
        """Return the time by the clock of the VMS."""
        return self._clock() + self.behaviour.clock_skew

    def add(
        self,
        *,
        export_id: int | None = None,
        name: str | None = None,
        size: int | None = None,
        clip: str = "moov-first",
        camera_id: int = 1,
        stream_type: str = "high",
        user_id: int = 5,
        created_at: datetime | None = None,
        made_at: datetime | None = None,
        footage_from: datetime | None = None,
        footage_to: datetime | None = None,
        stage: Stage = Stage.MADE,
        url: str | EllipsisType | None = ...,
        faults: Sequence[Step] = (),
        then: Step = None,
    ) -> Export:
        """List a new export.

        Args:
            export_id: None is the next one.
            name: None makes one as in the API's sample.
            size: Bytes of its file; None is that of the clip.
            clip: `moov-first`, `moov-last` or `fragmented`.
            camera_id: The camera.
            stream_type: `high` or `low`.
            user_id: Who asked for it.
            created_at: None is now.
            made_at: When its file was made; None is when it was created.
            footage_from: None is ten minutes before it was created.
            footage_to: None is nine minutes after that.
            stage: `ASKED` has no file yet, `MADE` has one, `DELETED` had one.
            url: Listed instead of the true url.
            faults: What requests for its file meet, one each.
            then: What all further requests meet.
        """
        number = self.catalogue.next_id if export_id is None else export_id
        created_at = created_at or self.now()
        begin = footage_from or created_at - timedelta(minutes=10)
        end = footage_to or begin + _FOOTAGE
        export = Export(
            export_id=number,
            name=_sample_name(camera_id, begin, end) if name is None else name,
            camera_id=camera_id,
            stream_type=stream_type,
            footage_from=begin,
            footage_to=end,
            created_at=created_at,
            updated_at=created_at,
            clip=clip,
            size_bytes=size,
            seed=self._seed * 1_000_003 + number,
            script=Script(),
            user_id=user_id,
            url=url,
        )
        export.script.write(faults, then=then)
        self.catalogue.add(export)
        if stage is not Stage.ASKED:
            export.make(made_at or created_at)
        if stage is Stage.DELETED:
            export.delete()
        self._clockwork.watch(export, export.updated_at)
        return export

    def add_seed_rows(self, *, size: int | None = None) -> list[Export]:
        """List the rows of the API's sample, unchanged in every byte of them."""
        exports = []
        for row in seed_rows():
            export = self.add(
                export_id=row["id"],
                name=row["name"],
                camera_id=row["stream"]["camera_id"],
                stream_type=row["stream"]["type"],
                created_at=datetime.fromisoformat(row["created_at"]),
                made_at=datetime.fromisoformat(row["updated_at"]),
                size=size,
            )
            export.literal = row
            export.due_at = None
            exports.append(export)
        return exports

    def make_file(
        self,
        export: Export | int,
        *,
        size: int | None = None,
        body: bytes | None = None,
        hidden: bool = False,
    ) -> Version:
        """Put a file there: the first, or a new one with other bytes.

        Args:
            export: Which one.
            size: Its length; None is as planned for this export.
            body: Its very bytes, instead.
            hidden: Keep ETag and Last-Modified of the file before it.
        """
        found = self._found(export)
        version = found.make(self.now(), size_bytes=size, body=body, hidden=hidden)
        self._clockwork.watch(found, version.made_at)
        return version

    def delete_file(self, export: Export | int) -> None:
        """Remove the file; the row stays and says so."""
        found = self._found(export)
        found.delete()
        found.due_at = None

    def remove_row(self, export: Export | int) -> None:
        """Remove row and file."""
        self.catalogue.remove(self._found(export).export_id)

    def script(self, export: Export | int, *steps: Step, then: Step = None) -> None:
        """Say what the next requests for a file meet, and then all others.

        A step is a `Fault`, its name in `FAULTS`, a tuple of them that happen
        together, or None for good behaviour.
        """
        self._found(export).script.write(steps, then=then)

    def truth(self, export: Export | int) -> Truth:
        """Return what a whole copy must be; reads the file the first time.

        Where files lie in one folder under their names, exports of one name share
        the file of the lowest id.
        """
        return self._served(export).truth

    def read(
        self, export: Export | int, start: int = 0, stop: int | None = None
    ) -> bytes:
        """Return the bytes of the current file from `start` to `stop`.

        Raises:
            LookupError: It never had a file.
        """
        version = self._served(export).current
        if version is None:
            raise LookupError("this export never had a file")
        return version.content.read(start, stop)

    def file_path(self, export: Export | int) -> str:
        """Return the path of an export's file, with its query if it has one."""
        found = self._found(export)
        path = archive_path(found, quoted=True)
        if self.behaviour.folder_urls:
            return FOLDER + path.rpartition("/")[2]
        return path

    def advance(self) -> None:
        """Let happen what is due; each request does so too."""
        self._clockwork.advance(self.now())

    def draft(self) -> Draft:
        """Draw a new export, as the automatic life does."""
        return self._clockwork.draft()

    def _ask(self, at: datetime, draft: Draft) -> Export:
        return self.add(
            created_at=at,
            stage=Stage.ASKED,
            size=draft.size_bytes,
            clip=draft.clip,
            camera_id=draft.camera_id,
            footage_from=at - draft.length,
            footage_to=at,
        )

    def _found(self, export: Export | int) -> Export:
        return self.catalogue[export] if isinstance(export, int) else export

    def _served(self, export: Export | int) -> Export:
        found = self._found(export)
        if self.behaviour.folder_urls and self.behaviour.folder_files:
            return self.catalogue.named(found.name) or found
        return found


def _sample_name(camera_id: int, begin: datetime, end: datetime) -> str:
    """Return a name as in the API's sample."""
    times = f"{begin:%Y%m%d-%H%M%S}-{end:%H%M%S}"
    return f"City , st. Street {camera_id}, file.{times}.mp4"
