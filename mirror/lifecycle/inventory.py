"""Decide what a sidecar found on a target means, for `rebuild`: pure, no I/O."""

from __future__ import annotations

import dataclasses
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from mirror.lifecycle import copy as copies
from mirror.model import CopyState, State

if TYPE_CHECKING:
    from mirror.model import Copy, Export

NOT_FOUND_YET: Final = "saved before, not found by rebuild yet"
GONE: Final = "rebuild found no file of the right length at its path"
_FACTS = (
    "size_bytes",
    "sha256",
    "proof",
    "doubt",
    "started_us",
    "spooled_us",
    "saved_us",
    "part_etag",
    "part_modified",
)
"""What an export takes over from the sidecar of the file that is kept."""


class SidecarVerdict(StrEnum):
    """What a sidecar came to."""

    KEPT = "kept"
    DAMAGED = "damaged"
    KNOWN_DAMAGED = "known_damaged"
    SECOND = "second"
    PATH_TAKEN = "path_taken"


def judge(copy: Copy | None, path: str, *, whole: bool) -> SidecarVerdict:
    """Return what a sidecar means for the copy that the ledger has there, if any.

    The file beside it is at `path`, and `whole` if it has the right length.
    """
    fresh = SidecarVerdict.KEPT if whole else SidecarVerdict.DAMAGED
    if copy is None:
        return fresh
    same = copy.path == path
    if copy.state is CopyState.DAMAGED and whole:
        # That its length is right was known when its bytes were found wrong.
        return SidecarVerdict.KNOWN_DAMAGED if same else SidecarVerdict.KEPT
    if copy.state in copies.OPEN:
        if copy.last_error == NOT_FOUND_YET:
            return fresh if whole or same else SidecarVerdict.SECOND
        if whole and same and copy.saved_us is not None:
            # It was saved once, and is owed again for a reason.
            return SidecarVerdict.KNOWN_DAMAGED
        return SidecarVerdict.KEPT if whole else SidecarVerdict.SECOND
    if copy.state is CopyState.SAVED and same and whole:
        return SidecarVerdict.KEPT
    return SidecarVerdict.SECOND


def unconfirmed(copy: Copy) -> Copy:
    """Return a saved copy as pending until it is found."""
    if copy.state is not CopyState.SAVED:
        return copy
    waiting = copies.pending(copy)
    return dataclasses.replace(
        waiting, attempts=0, verified_us=None, last_error=NOT_FOUND_YET
    )


def without_sidecar(copy: Copy, *, lies_there: bool) -> Copy:
    """Return a copy that no sidecar confirmed, after a look at its path."""
    if copy.last_error != NOT_FOUND_YET:
        return copy
    if lies_there:
        return dataclasses.replace(copy, state=CopyState.SAVED, last_error=None)
    return dataclasses.replace(copy, state=CopyState.DAMAGED, last_error=GONE)


def found(copy: Copy, path: str, *, whole: bool, saved_us: int | None) -> Copy:
    """Return a copy whose sidecar lies beside `path`."""
    return dataclasses.replace(
        copy,
        state=CopyState.SAVED if whole else CopyState.DAMAGED,
        path=path,
        last_error=None if whole else GONE,
        saved_us=saved_us if copy.saved_us is None else copy.saved_us,
        due_us=0,
    )


def new(kept: Export, *, whole: bool) -> Export:
    """Return an export that is new to the ledger; `kept` as its sidecar says."""
    if whole:
        return kept
    return dataclasses.replace(kept, state=State.DAMAGED, reason=None, last_error=GONE)


def confirmed(export: Export, kept: Export) -> Export:
    """Return an export whose whole copy was found; `kept` is what its sidecar says."""
    other_bytes = export.sha256 != kept.sha256
    facts = {
        name: getattr(kept, name)
        for name in _FACTS
        if other_bytes or getattr(export, name) is None
    }
    after = dataclasses.replace(export, had_file=True, **facts)
    if export.state is State.SPOOLED:
        return dataclasses.replace(after, saved_us=export.saved_us)
    return dataclasses.replace(
        after.without_held(),
        state=kept.state,
        reason=kept.reason,
        last_error=None,
        due_us=0,
    )
