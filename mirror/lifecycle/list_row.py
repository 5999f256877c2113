"""Decide what a listed row means for an export: pure, no I/O."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from mirror.lifecycle import deadline, held_body, loss, retry, second_look, version
from mirror.model import KEPT_STATES, Export, Reason, State

if TYPE_CHECKING:
    from mirror.lifecycle.walk import Walk
    from mirror.model import Row

_LONG_WALK_US = 600_000_000
"""A walk that began so much earlier may still meet what a later one met first."""
_KEPT = KEPT_STATES | {State.DAMAGED, State.ERASED}
_ENDED = frozenset({State.LOST, State.UNAVAILABLE})


def plan(prior: Export | None, row: Row, walk: Walk) -> Export:
    """Return the export after a walk met its row; None was never listed before.

    It is `prior` itself where nothing changed, so that nothing need be written.
    """
    if prior is None:
        return _first(row, walk)
    if prior.state in _KEPT:
        return _kept(prior, row, walk)
    return held_body.rather_kept(_open(prior, row, walk))


def _open(prior: Export, row: Row, walk: Walk) -> Export:
    """Meet a row whose file is not ours."""
    if prior.held and prior.shows_other_footage(row):
        # What is held is kept under the facts it was fetched under; then come these.
        return held_body.wait_over(prior)
    if prior.state is State.EXCLUDED:
        return _still_excluded(prior, row, walk)
    listed = _relisted(prior, row, walk)
    if prior.state in _ENDED:
        return _ended(prior, listed, row, walk)
    if prior.state is State.FETCHING:
        return listed
    if not row.shows_file:
        return _without(listed, walk)
    if prior.state is State.WAITING:
        return _awaited(prior, listed, row, walk)
    return listed


def _kept(prior: Export, row: Row, walk: Walk) -> Export:
    """Meet a row whose file is ours: what we know of it does not change."""
    if row.shows_file and prior.shows_other_footage(row):
        return _further(prior, row, walk, version.OTHER_FOOTAGE)
    if prior.state is State.DAMAGED:
        return _ended(prior, _relisted(prior, row, walk), row, walk)
    if prior.state is State.ERASED:
        return prior
    if prior.doubtful and row.shows_file and not prior.has_file:
        return _further(prior, row, walk, version.NOT_FETCHED)
    if not walk.second_look or prior.past_deadline(walk.at_us):
        if prior.doubtful and prior.has_file != row.shows_file:
            return dataclasses.replace(prior, has_file=row.shows_file)
        return prior
    after = dataclasses.replace(
        prior,
        has_file=row.shows_file,
        url=row.url or prior.url,
        updated_at=row.updated_at,
    )
    # What is not known of a record that was made again from a sidecar is no change.
    moved = prior.url is not None and not second_look.same_place(after.url, prior.url)
    stamped = prior.updated_at not in {None, after.updated_at}
    if not (moved or stamped):
        return after
    due_us = second_look.next_due(
        prior, now_us=walk.at_us, lifetime_us=walk.lifetime_us, soon=True
    )
    due = [each for each in (prior.look_due_us, due_us) if each is not None]
    return dataclasses.replace(after, look_due_us=min(due, default=None))


def _further(prior: Export, row: Row, walk: Walk, refusal: str) -> Export:
    """Return a further version of a kept file; or the kept one, with the refusal."""
    if not version.may_follow(prior):
        return dataclasses.replace(prior, has_file=row.shows_file, last_error=refusal)
    return version.further(
        prior,
        reason=Reason.MADE_AGAIN,
        now_us=walk.at_us,
        row=row,
        deadline_us=deadline.deadline_of(prior, row, walk),
    )


def _first(row: Row, walk: Walk) -> Export:
    guess = deadline.deadline_of(None, row, walk)
    export = Export(
        source=walk.source,
        export_id=row.export_id,
        created_key=row.created_key,
        created_at=row.created_at,
        created_us=row.created_us,
        state=State.READY,
        first_seen_us=walk.at_us,
        counts_as_ours=walk.counts_as_ours,
        order_us=guess,
        deadline_us=guess if row.names_file else None,
        had_file=row.names_file,
        walk_us=walk.at_us,
        **version.listed(row),
    )
    rule = walk.rule_for(row, walk.at_us + walk.clock_offset_us)
    if rule is not None:
        return dataclasses.replace(
            export, state=State.EXCLUDED, reason=f"rule:{rule}", had_file=False
        )
    if not row.shows_file:
        waiting = dataclasses.replace(
            export, state=State.WAITING, reason=Reason.NO_FILE_YET
        )
        return loss.overdue(waiting, walk)
    if not row.names_file and not walk.try_folders:
        return dataclasses.replace(
            export, state=State.WAITING, reason=Reason.URL_WITHOUT_FILE
        )
    return export


def _still_excluded(prior: Export, row: Row, walk: Walk) -> Export:
    rule = walk.rule_for(row, walk.at_us + walk.clock_offset_us)
    if rule is None:
        fresh = _first(row, walk)
        return dataclasses.replace(
            fresh,
            key=prior.key,
            first_seen_us=prior.first_seen_us,
            counts_as_ours=prior.counts_as_ours,
        )
    reason = f"rule:{rule}"
    return (
        prior if prior.reason == reason else dataclasses.replace(prior, reason=reason)
    )


def _relisted(prior: Export, row: Row, walk: Walk) -> Export:
    """Take over what the row says now; fix the deadline when a file appears."""
    deadline_us, order_us = prior.deadline_us, prior.order_us
    had_file = prior.had_file
    # No file is kept for longer than this: the clock was put back meanwhile.
    latest = walk.at_us + walk.lifetime_us + _LONG_WALK_US
    fixed = prior.shows_file and deadline_us is not None and deadline_us <= latest
    if row.shows_file and not fixed:
        order_us = deadline.deadline_of(prior, row, walk)
        deadline_us = order_us if row.names_file or had_file else None
    if row.names_file:
        had_file = True
        if deadline_us is None:
            deadline_us = order_us
    return dataclasses.replace(
        prior,
        had_file=had_file,
        deadline_us=deadline_us,
        order_us=order_us,
        absent_sweeps=0,
        **version.listed(row),
    )


def _ended(prior: Export, listed: Export, row: Row, walk: Walk) -> Export:
    if not row.shows_file:
        return listed
    if (
        prior.state is State.DAMAGED
        or not prior.has_file
        or row.url != prior.url
        or row.updated_at != prior.updated_at
    ):
        return retry.renewed(listed, reason=Reason.MADE_AGAIN, walk_us=walk.at_us)
    return listed


def _without(listed: Export, walk: Walk) -> Export:
    """Meet a row without a file: waiting, counted, and in the end lost."""
    reason = listed.reason
    if listed.state is not State.WAITING or listed.had_file:
        reason = Reason.FILE_GONE
    elif reason != Reason.FILE_GONE:
        reason = Reason.NO_FILE_YET
    waiting = dataclasses.replace(
        listed, state=State.WAITING, reason=reason, due_us=0, tries_without_file=0
    )
    waiting = loss.seen_without(
        waiting,
        walk_us=walk.at_us,
        now_us=walk.at_us,
        oldest_us=walk.oldest_us,
        looked_for=walk.looked_for(waiting),
    )
    return loss.overdue(waiting, walk)


def _awaited(prior: Export, listed: Export, row: Row, walk: Walk) -> Export:
    """Meet a waiting row that shows a file now."""
    if not row.names_file and not walk.try_folders:
        return dataclasses.replace(listed, reason=Reason.URL_WITHOUT_FILE)
    if not prior.shows_file or row.url != prior.url:
        return retry.renewed(listed, reason=None, walk_us=walk.at_us)
    if _still_pausing(listed, walk):
        return listed
    return dataclasses.replace(
        listed,
        state=State.READY,
        reason=None,
        due_us=max(listed.due_us, listed.not_before_us),
        walk_us=walk.at_us,
    )


def _still_pausing(export: Export, walk: Walk) -> bool:
    """Tell whether a try is not due yet; a wait too long is of a clock put back."""
    left_us = export.due_us - walk.at_us
    longest_us = walk.retry_max_us if export.had_file else retry.RARELY_US
    return 0 < left_us <= max(longest_us, walk.retry_max_us)
