"""Decide when a file is looked at again, and what a look shows: pure, no I/O.

A file may still be growing when it is listed. A second look is a request for one byte
whose headers are compared with those of the file that is ours.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from mirror.lifecycle import version
from mirror.model import KEPT_STATES, Reason
from mirror.mp4 import END_NOT_PROVABLE

if TYPE_CHECKING:
    from mirror.model import Export
    from mirror.ports import Validators

MOST_LOOKS: Final = 12
_APART_SHARE: Final = 20
_LAST_SHARE: Final = 4
_YIELD_SHARE: Final = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Empty:
    """Validators of a source that differ though the bytes are the same."""

    etag: bool = False
    modified: bool = False


class Shown(StrEnum):
    """What a look shows of the file that is ours."""

    CHANGED = "changed"
    UNCHANGED = "unchanged"
    NOTHING = "nothing"
    FAILED = "failed"


def compare(
    seen: Validators | None,
    *,
    size_bytes: int | None,
    etag: str | None,
    modified: str | None,
    empty: Empty,
) -> Shown:
    """Return what a look shows.

    `seen` is what the answer said; None if it said nothing of the file. The size and
    the validators, of which those that are `empty` do not count, are of our file.
    """
    if seen is None:
        return Shown.NOTHING
    if seen.total_bytes not in {None, size_bytes}:
        return Shown.CHANGED
    same_modified = _same(seen.last_modified, None if empty.modified else modified)
    same_etag = _same(_strong(seen.etag), None if empty.etag else _strong(etag))
    if same_modified is False or same_etag is False:
        return Shown.CHANGED
    if same_modified is None and same_etag is None:
        return Shown.NOTHING
    return Shown.UNCHANGED


def first_due(export: Export, now_us: int, lifetime_us: int) -> int | None:
    """Return when a file that has just become ours is first looked at."""
    if export.deadline_us is None:
        return None
    half_us = now_us + (export.deadline_us - now_us) // 2
    return _allowed(export, half_us, now_us=now_us, lifetime_us=lifetime_us)


def after_look(
    export: Export,
    newest: Export,
    shown: Shown,
    seen: Validators | None,
    *,
    now_us: int,
    lifetime_us: int,
) -> tuple[Export, Export]:
    """Return an export whose file was looked at, and its newest version.

    Args:
        export: The newest version that is ours.
        newest: The newest of all: `export` itself, one that is still to be fetched, or
            a kept one that was set apart from `export`.
        shown: What the look showed.
        seen: What the answer said.
        now_us: Now.
        lifetime_us: How long the VMS keeps a file.

    Returns:
        Both as they are now; the second has no key if it is a further version.
    """
    change = seen if shown is Shown.CHANGED else None
    agreed = change is not None and agrees(export, change)
    after = dataclasses.replace(export, looks=export.looks + 1, looked_us=now_us)
    if shown is not Shown.FAILED:
        after = dataclasses.replace(
            after,
            look_total=change.total_bytes if change else None,
            look_etag=change.etag if change else None,
            look_modified=change.last_modified if change else None,
        )
    soon = shown in {Shown.CHANGED, Shown.FAILED}
    due_us = next_due(after, now_us=now_us, lifetime_us=lifetime_us, soon=soon)
    after = dataclasses.replace(after, look_due_us=due_us)
    newer = newest.version > export.version
    if newer and newest.state not in KEPT_STATES:
        # Looks are counted by export.
        newest = dataclasses.replace(newest, looks=after.looks, looked_us=now_us)
        if change is None:
            return after, newest
        if agreed and newest.version < version.MOST_VERSIONS:
            newest = dataclasses.replace(newest, due_us=0, not_before_us=0)
        return after, newest
    if change is None:
        return after, after
    # What is kept may have been set apart from the body that was looked at.
    base = after
    if newer:
        base = dataclasses.replace(newest, looks=after.looks, looked_us=now_us)
    if not version.may_follow(base):
        refused = dataclasses.replace(
            after, look_due_us=None, last_error=version.NOT_FETCHED
        )
        return refused, refused
    return after, version.further(
        base,
        reason=Reason.CHANGED,
        now_us=now_us,
        not_before_us=last_chance(export.deadline_us or now_us, lifetime_us),
    )


def next_due(
    export: Export, *, now_us: int, lifetime_us: int, soon: bool
) -> int | None:
    """Return when the next look is due; None if none is.

    It is due `soon` if the row has changed, or the last look showed a change.
    """
    if export.deadline_us is None:
        return None
    due_us = now_us
    if not soon:
        if not (export.doubtful or END_NOT_PROVABLE in (export.proof_notes or "")):
            return None
        due_us += (export.deadline_us - now_us) // 2
    return _allowed(export, due_us, now_us=now_us, lifetime_us=lifetime_us)


def _allowed(
    export: Export, due_us: int, *, now_us: int, lifetime_us: int
) -> int | None:
    """Return when a look may be taken that is due then; None if not any more."""
    deadline_us = export.deadline_us or 0
    if deadline_us <= now_us or export.looks >= MOST_LOOKS:
        return None
    if export.looks:
        due_us = max(due_us, export.looked_us + lifetime_us // _APART_SHARE)
    if export.looks == MOST_LOOKS - 1:
        due_us = max(due_us, last_chance(deadline_us, lifetime_us))
    return due_us if due_us < deadline_us else None


def agrees(export: Export, seen: Validators) -> bool:
    """Tell whether the look before showed the same change."""
    before = (export.look_total, export.look_etag, export.look_modified)
    return before == (seen.total_bytes, seen.etag, seen.last_modified)


def last_chance(deadline_us: int, lifetime_us: int) -> int:
    """Return when a changed file is fetched at the latest."""
    return deadline_us - lifetime_us // _LAST_SHARE


def yields_until(due_us: int, lifetime_us: int) -> int:
    """Return until when a look lets fetches of its origin go first."""
    return due_us + lifetime_us // _YIELD_SHARE


def same_place(url: str | None, other: str | None) -> bool:
    """Tell whether two urls differ in their query at most: that may be a signature."""
    return _bare(url) == _bare(other)


def _bare(url: str | None) -> str | None:
    return None if url is None else url.split("#", 1)[0].split("?", 1)[0]


def _same(one: str | None, other: str | None) -> bool | None:
    """Compare two validators; None if either is missing."""
    return None if one is None or other is None else one == other


def _strong(etag: str | None) -> str | None:
    """Return an ETag without the mark of a weak one."""
    return None if etag is None else etag.strip().removeprefix("W/")
