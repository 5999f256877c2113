"""The rules that exclude exports: pure, no I/O."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mirror.model import Row


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One rule; it matches a row where all its conditions do. None is no condition.

    Attributes:
        cameras: Ids, any of them.
        stream_types: Globs, any of them; likewise the following.
        users: Over the id of who asked for the export.
        min_age_us: Only exports created at least so long ago.
        max_age_us: Only exports created at most so long ago.
    """

    name: str
    cameras: tuple[int, ...] | None = None
    stream_types: tuple[str, ...] | None = None
    users: tuple[str, ...] | None = None
    names: tuple[str, ...] | None = None
    min_age_us: int | None = None
    max_age_us: int | None = None

    def matches(self, row: Row, at_us: int) -> bool:
        """Tell whether a row matches, at a time by the VMS's clock."""
        user = None if row.user_id is None else str(row.user_id)
        return (
            (self.cameras is None or row.camera_id in self.cameras)
            and _any(self.stream_types, row.stream_type)
            and _any(self.users, user)
            and _any(self.names, row.name)
            and self._age_fits(row, at_us)
        )

    def _age_fits(self, row: Row, at_us: int) -> bool:
        if self.min_age_us is None and self.max_age_us is None:
            return True
        if row.created_us is None:
            return False
        age_us = at_us - row.created_us
        return (self.min_age_us is None or age_us >= self.min_age_us) and (
            self.max_age_us is None or age_us <= self.max_age_us
        )


def first_match(rules: Sequence[Rule], row: Row, at_us: int) -> str | None:
    """Return the name of the first rule that a row matches."""
    return next((rule.name for rule in rules if rule.matches(row, at_us)), None)


def _any(globs: tuple[str, ...] | None, value: str | None) -> bool:
    if globs is None:
        return True
    return value is not None and any(fnmatchcase(value, glob) for glob in globs)
