"""All exports of the simulated VMS, in the order its list has them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING
from urllib.parse import unquote

from mirror.simulator.exports import Stage
from mirror.simulator.rows import ARCHIVE, FOLDER

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mirror.simulator.exports import Export

_PLACE_PARTS = 3
_BEFORE_FIRST_ID = 6412


class Catalogue:
    """Exports by id, and newest first."""

    def __init__(self) -> None:
        self._exports: dict[int, Export] = {}
        self._ordered: list[Export] | None = []
        self._highest_id = 0

    def __len__(self) -> int:
        return len(self._exports)

    def __iter__(self) -> Iterator[Export]:
        return iter(self._exports.values())

    def __getitem__(self, export_id: int) -> Export:
        return self._exports[export_id]

    def get(self, export_id: int) -> Export | None:
        """Return one export, if there is one."""
        return self._exports.get(export_id)

    @property
    def next_id(self) -> int:
        """An id above all there ever were."""
        return (self._highest_id or _BEFORE_FIRST_ID) + 1

    def add(self, export: Export) -> None:
        """Take an export in.

        Raises:
            ValueError: Its id is taken.
        """
        if export.export_id in self._exports:
            raise ValueError(f"there is an export {export.export_id} already")
        self._exports[export.export_id] = export
        self._highest_id = max(self._highest_id, export.export_id)
        self._ordered = None

    def remove(self, export_id: int) -> Export:
        """Take a row and its file away."""
        self._ordered = None
        return self._exports.pop(export_id)

    def select(self, since: datetime, until: datetime) -> list[Export]:
        """Return those created in a span, newest first, equals by id."""
        if self._ordered is None:
            epoch = datetime(1970, 1, 1, tzinfo=UTC)
            self._ordered = sorted(
                self._exports.values(),
                key=lambda each: (epoch - each.created_at, each.export_id),
            )
        return [each for each in self._ordered if since <= each.created_at <= until]

    def at_path(self, raw_path: str) -> Export | None:
        """Return the export whose file a path means, whether or not it is there."""
        if not raw_path.startswith(ARCHIVE):
            return None
        parts = raw_path.removeprefix(ARCHIVE).split("/", _PLACE_PARTS)
        if len(parts) <= _PLACE_PARTS or not parts[2].isdecimal():
            return None
        export = self._exports.get(int(parts[2]))
        if export is None:
            return None
        camera, bucket, _, name = parts
        place = (str(export.camera_id), f"{export.export_id % 100:02d}")
        found = unquote(name, errors="surrogatepass") == export.file_name
        return export if found and (camera, bucket) == place else None

    def in_folder(self, raw_path: str) -> Export | None:
        """Return the export whose file lies in the folder under that name."""
        if not raw_path.startswith(FOLDER):
            return None
        name = unquote(raw_path.removeprefix(FOLDER), errors="surrogatepass")
        return self.named(name)

    def named(self, name: str) -> Export | None:
        """Return the export of the lowest id with a file of this name.

        If none has its file, the lowest id of that name.
        """
        same = [
            each
            for each in self._exports.values()
            if name in {each.name, each.file_name}
        ]
        return min(
            same,
            key=lambda each: (each.stage is not Stage.MADE, each.export_id),
            default=None,
        )
