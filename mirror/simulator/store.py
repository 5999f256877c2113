"""What the simulated VMS holds, and how that is changed; no network in it."""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from types import EllipsisType  # noqa: TC003 -- part of signatures
from typing import TYPE_CHECKING
from urllib.parse import unquote

from mirror.model import to_us
from mirror.simulator.exports import (
    ARCHIVE,
    FOLDER,
    Export,
    Stage,
    Truth,
    Version,
    archive_path,
    seed_rows,
)
from mirror.simulator.faults import Script, Step
from mirror.simulator.life import Clockwork, Draft, Life

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mirror.simulator.behaviour import Behaviour

_FOOTAGE = timedelta(minutes=9, seconds=7)
_BEFORE_FIRST_ID = 6412
_ARCHIVED = re.compile(rf"{ARCHIVE}[^/]+/[^/]+/([0-9]{{1,18}})/")


class Store:
    """All exports of a simulated VMS.

    Attributes:
        behaviour: How the VMS behaves; may be replaced at any time.
        token: What list requests must carry; may be changed at any time.
    """

    def __init__(
        self,
        *,
        behaviour: Behaviour,
        token: str,
        life: Life,
        clock: Callable[[], datetime],
        seed: int,
    ) -> None:
        self.behaviour = behaviour
        self.token = token
        self._clock = clock
        self._seed = seed
        self._exports: dict[int, Export] = {}
        self._newest_first: list[Export] | None = None
        self._highest_id = 0
        self._clockwork = Clockwork(life, started_at=self.now(), arrive=self._arrive)

    @property
    def exports(self) -> list[Export]:
        """All exports, in the order they were added."""
        return list(self._exports.values())

    def now(self) -> datetime:
        """Return the time by the clock of the VMS."""
        return self._clock() + self.behaviour.clock_skew

    def select(self, since: datetime, until: datetime) -> list[Export]:
        """Return those created in a span, newest first, equals by id."""
        if self._newest_first is None:
            self._newest_first = sorted(
                self._exports.values(),
                key=lambda export: (-to_us(export.created_at), export.export_id),
            )
        return [
            export
            for export in self._newest_first
            if since <= export.created_at <= until
        ]

    def at_path(self, raw_path: str) -> Export | None:
        """Return the export whose file a path means, whether or not it is there."""
        path = unquote(raw_path, errors="surrogatepass")
        if self.behaviour.folder_urls and self.behaviour.folder_files:
            is_below = path.startswith(FOLDER)
            return self._named(path.removeprefix(FOLDER)) if is_below else None
        match = _ARCHIVED.match(path)
        export = self._exports.get(int(match[1])) if match else None
        if export is None or path != archive_path(export, quoted=False):
            return None
        return export

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

        By default its id is above all there ever were, its name as in the API's sample,
        its file as long as the clip, in bytes; it is created now and made at once, of
        nine minutes of footage that began ten minutes before. `url` is listed instead
        of the true one. Requests for its file meet `faults`, one each, and all further
        ones `then`.

        Raises:
            ValueError: The id is taken.
        """
        number = export_id
        if number is None:
            number = (self._highest_id or _BEFORE_FIRST_ID) + 1
        if number in self._exports:
            raise ValueError(f"there is an export {number} already")
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
        self._exports[number] = export
        self._highest_id = max(self._highest_id, number)
        self._newest_first = None
        if stage is not Stage.ASKED:
            export.make(made_at or created_at)
        if stage is Stage.DELETED:
            export.delete()
        self._clockwork.plan(export, export.updated_at)
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

        Arguments as for `Export.make`.
        """
        export = self._get(export)
        version = export.make(self.now(), size_bytes=size, body=body, hidden=hidden)
        self._clockwork.plan(export, version.made_at)
        return version

    def delete_file(self, export: Export | int) -> None:
        """Remove the file; the row stays and says so."""
        export = self._get(export)
        export.delete()
        export.due_at = None

    def remove_row(self, export: Export | int) -> None:
        """Remove row and file."""
        export = self._exports.pop(self._get(export).export_id)
        export.due_at = None
        self._newest_first = None

    def script(self, export: Export | int, *steps: Step, then: Step = None) -> None:
        """Say what the next requests for a file meet, and then all others.

        A step is a `Fault`, its name in `FAULTS`, a tuple of them that happen
        together, or None for good behaviour.
        """
        self._get(export).script.write(steps, then=then)

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
        path = archive_path(self._get(export), quoted=True)
        if self.behaviour.folder_urls:
            return FOLDER + path.rpartition("/")[2]
        return path

    def advance(self) -> None:
        """Do what the clock says is due; each request does so too."""
        self._clockwork.advance(self.now())

    def draft(self) -> Draft:
        """Return random choices for a new export, as for one that arrives."""
        return self._clockwork.draft()

    def _arrive(self, at: datetime, draft: Draft) -> None:
        self.add(
            created_at=at,
            stage=Stage.ASKED,
            size=draft.size_bytes,
            clip=draft.clip,
            camera_id=draft.camera_id,
            footage_from=at - draft.length,
            footage_to=at,
        )

    def _get(self, export: Export | int) -> Export:
        return self._exports[export] if isinstance(export, int) else export

    def _served(self, export: Export | int) -> Export:
        export = self._get(export)
        if self.behaviour.folder_urls and self.behaviour.folder_files:
            return self._named(export.name) or export
        return export

    def _named(self, name: str) -> Export | None:
        """Return the export of the lowest id with a file of this name.

        If none has its file, the lowest id of that name.
        """
        return min(
            (each for each in self.exports if name in {each.name, each.file_name}),
            key=lambda export: (export.stage is not Stage.MADE, export.export_id),
            default=None,
        )


def _sample_name(camera_id: int, begin: datetime, end: datetime) -> str:
    """Return a name as in the API's sample."""
    times = f"{begin:%Y%m%d-%H%M%S}-{end:%H%M%S}"
    return f"City , st. Street {camera_id}, file.{times}.mp4"
