"""The states of an export: each change that may happen is decided, and no other.

`TABLE` is the table of states. All functions of `mirror/lifecycle` that anything
outside calls are walked through all states and facts; what they change must be the
table. A look at the sources shows that nothing else changes a state.
"""

from __future__ import annotations

import ast
import dataclasses
import itertools
import re
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from mirror.backoff import Pace
from mirror.errors import FetchError, FileGoneError, OriginRefusedError, SpoolError
from mirror.lifecycle import (
    attempt,
    copy,
    held_body,
    inventory,
    list_row,
    loss,
    retry,
    second_look,
    version,
)
from mirror.lifecycle.attempt_end import AttemptFacts, after_attempt
from mirror.lifecycle.second_look import Shown
from mirror.model import (
    KEPT_STATES,
    Attempt,
    Copy,
    CopyState,
    Export,
    Reason,
    Receipt,
    State,
    Verdict,
)
from mirror.ports import Validators
from tests import builders
from tests.builders import FOLDER, HOUR, NOW, URL

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SOURCES = Path(__file__).parents[2] / "mirror"
W, R, F, P = State.WAITING, State.READY, State.FETCHING, State.PARKED
SPOOLED, SAVED, DOUBTFUL = State.SPOOLED, State.SAVED, State.DOUBTFUL
EXCLUDED, UNAVAILABLE, LOST = State.EXCLUDED, State.UNAVAILABLE, State.LOST
DAMAGED, ERASED = State.DAMAGED, State.ERASED
NEW = None
"""An export, or a version of it, that the ledger does not know yet."""
SAME = "as before"
"""The reason is kept."""
RULE = "rule:a"
LONG_AGO = NOW - 100 * HOUR
PACE = Pace(initial=timedelta(seconds=5), maximum=timedelta(minutes=10))
NEVER = Reason.NEVER_HAD_A_FILE
BEFORE = Reason.BEFORE_FIRST_RUN

TABLE: dict[str, set[tuple[State | None, State, str | None]]] = {
    "a walk meets its row": {
        # Listed without a file, or with a folder url that is not tried.
        (NEW, W, Reason.NO_FILE_YET),
        (NEW, W, Reason.URL_WITHOUT_FILE),
        (NEW, UNAVAILABLE, BEFORE),
        (NEW, EXCLUDED, RULE),
        # Flag true and a url.
        (NEW, R, None),
        (W, R, None),
        # As new, once no rule excludes it; or another rule does.
        (EXCLUDED, EXCLUDED, RULE),
        (EXCLUDED, W, Reason.NO_FILE_YET),
        (EXCLUDED, W, Reason.URL_WITHOUT_FILE),
        (EXCLUDED, UNAVAILABLE, BEFORE),
        (EXCLUDED, R, None),
        # The flag not true, or no url: it had a file, or never had.
        (R, W, Reason.FILE_GONE),
        (P, W, Reason.FILE_GONE),
        (W, W, Reason.FILE_GONE),
        (W, W, Reason.NO_FILE_YET),
        (W, W, Reason.URL_WITHOUT_FILE),
        (W, UNAVAILABLE, NEVER),
        (W, UNAVAILABLE, BEFORE),
        (R, UNAVAILABLE, NEVER),
        (R, UNAVAILABLE, BEFORE),
        (P, UNAVAILABLE, NEVER),
        (P, UNAVAILABLE, BEFORE),
        # Past its deadline, in the third walk without it.
        (W, LOST, Reason.EXPIRED),
        (R, LOST, Reason.EXPIRED),
        (P, LOST, Reason.EXPIRED),
        # A held body goes before waiting, parked and lost; it is spooled next.
        (W, R, None),
        (P, R, None),
        (R, R, None),
        (F, F, None),
        # Made again, or other footage: a further version where a file is kept.
        (LOST, R, Reason.MADE_AGAIN),
        (UNAVAILABLE, R, Reason.MADE_AGAIN),
        (DAMAGED, R, Reason.MADE_AGAIN),
        (NEW, R, Reason.MADE_AGAIN),
    },
    "a complete sweep does not show it": {
        (W, LOST, Reason.ROW_GONE),
        (R, LOST, Reason.ROW_GONE),
        (P, LOST, Reason.ROW_GONE),
        (W, R, None),
        (P, R, None),
        (R, R, None),
    },
    "a walk did not meet it, and it is too old": {
        (W, UNAVAILABLE, NEVER),
        (W, UNAVAILABLE, BEFORE),
    },
    "its wait is over, and sweeps do not look so far back": {(W, R, SAME)},
    "retry_max is over": {(P, R, SAME)},
    "retry": {
        (P, R, SAME),
        (LOST, R, Reason.MADE_AGAIN),
        (UNAVAILABLE, R, Reason.MADE_AGAIN),
        (DAMAGED, R, Reason.MADE_AGAIN),
        (ERASED, R, Reason.MADE_AGAIN),
        (W, R, None),
        (EXCLUDED, R, None),
        (W, W, Reason.FILE_GONE),
        (W, W, Reason.NO_FILE_YET),
        (EXCLUDED, W, Reason.FILE_GONE),
        (EXCLUDED, W, Reason.NO_FILE_YET),
        (NEW, R, Reason.MADE_AGAIN),
    },
    "claimed": {(R, F, SAME), (P, F, SAME)},
    "whole and proven in the spool": {(F, SPOOLED, None)},
    "cut, stall, busy, refused for now": {
        (F, R, SAME),
        (F, P, Reason.NO_PROGRESS),
        (F, R, None),
    },
    "an origin that is not allowed": {(F, P, Reason.ORIGIN_REFUSED), (F, R, None)},
    "403, 404, 410, a folder url that gives nothing": {
        (F, W, Reason.FILE_GONE),
        (F, W, Reason.URL_WITHOUT_FILE),
        (F, LOST, Reason.EXPIRED),
        (F, R, None),
    },
    "stopped, or no room in the spool": {(F, R, SAME)},
    "its structure is not proven": {(F, R, SAME), (F, R, None)},
    "its held body waits no longer": {(F, R, None)},
    "its held body is spooled": {
        (R, SPOOLED, Reason.DOUBTFUL),
        (P, SPOOLED, Reason.DOUBTFUL),
        (W, SPOOLED, Reason.DOUBTFUL),
    },
    "a good copy of other bytes is found beside its held body": {
        # Claimed, as a kill leaves it for `rebuild`.
        (F, R, None),
        (W, R, None),
        (P, R, None),
        (R, R, None),
    },
    "a second look shows a change": {(NEW, R, Reason.CHANGED)},
    "every required target holds a proven copy": {
        (SPOOLED, SAVED, None),
        (SPOOLED, DOUBTFUL, Reason.DOUBTFUL),
    },
    "the spool file is gone or damaged": {(SPOOLED, R, Reason.SPOOL_LOST)},
    "no good copy left on any target": {
        (SAVED, DAMAGED, None),
        (DOUBTFUL, DAMAGED, None),
        # The spool has it still.
        (SAVED, SPOOLED, None),
        (SAVED, SPOOLED, Reason.DOUBTFUL),
        (DOUBTFUL, SPOOLED, None),
        (DOUBTFUL, SPOOLED, Reason.DOUBTFUL),
    },
    "a copy is proven good again": {
        (before, *after)
        for before in (DAMAGED, R, P, W, LOST)
        for after in ((SAVED, None), (DOUBTFUL, Reason.DOUBTFUL))
    },
    "rebuild finds a copy": {
        (before, *after)
        for before in (NEW, *(set(State) - {SPOOLED}))
        for after in ((SAVED, None), (DOUBTFUL, Reason.DOUBTFUL))
    },
    "rebuild finds a sidecar without its file": {(NEW, DAMAGED, None)},
}
"""What happens, and the changes it may make: from, to, reason."""
ENDS_OF_ATTEMPTS = (
    "whole and proven in the spool",
    "cut, stall, busy, refused for now",
    "an origin that is not allowed",
    "403, 404, 410, a folder url that gives nothing",
    "stopped, or no room in the spool",
    "its structure is not proven",
)
TABLE["an attempt ends"] = set().union(*(TABLE[end] for end in ENDS_OF_ATTEMPTS))


def cases(**facts: tuple[Any, ...]) -> Iterator[dict[str, Any]]:
    """Yield all ways in which these facts go together."""
    for values in itertools.product(*facts.values()):
        yield dict(zip(facts, values, strict=True))


def exports() -> list[Export]:
    """Return exports of all states and of all that a decision looks at."""
    made = []
    for facts in cases(
        state=tuple(State),
        had_file=(False, True),
        has_file=(False, True),
        url=(URL, FOLDER),
        deadline_us=(LONG_AGO, NOW + HOUR),
        counted=(0, 2),
        proof=(None, Verdict.WHOLE, Verdict.DOUBTFUL),
        held=(False, True),
    ):
        counted, held = facts.pop("counted"), facts.pop("held")
        if held and not (facts["had_file"] and facts["state"] in {W, R, F, P}):
            continue
        body: dict[str, Any] = {}
        if held:
            body = {
                "held_sha256": "a" * 64,
                "held_bytes": 100_000,
                "held_us": NOW,
                "held_until_us": NOW + HOUR,
                "held_dir": "/s",
            }
        made.append(
            builders.export(
                **facts,
                **body,
                reason="x",
                created_us=None,
                without_walks=counted,
                absent_sweeps=counted,
                attempts_without_gain=9 * (counted > 0),
                bodies=counted,
                size_bytes=100,
                sha256="b" * 64,
                spool_dir="/s",
                part_bytes=100,
                part_sha256="b" * 64,
                best_bytes=100,
                camera_id=1,
            )
        )
    return made


EXPORTS = exports()
RECEIPT = Receipt(size_bytes=100_000, sha256="a" * 64, etag=None, last_modified=None)
ATTEMPT = Attempt(
    number=1,
    times=1,
    started_us=NOW,
    ended_us=NOW,
    outcome="x",
    offset_bytes=0,
    held_bytes=0,
    error=None,
)
Step = tuple[Export | None, Export]


def plan() -> Iterator[Step]:
    shown: tuple[dict[str, Any], ...] = (
        {"url": URL},
        {"url": URL, "camera_id": 2},
        {"url": f"{URL}x", "updated_at": "u2"},
        {"url": FOLDER},
        {"url": None},
        {"has_file": False},
    )
    ages = ((NOW, NOW), (LONG_AGO, LONG_AGO), (NOW, LONG_AGO), (LONG_AGO, None))
    for listed, rule, (seen_us, created_us) in itertools.product(
        shown, (None, "a"), ages
    ):
        walk = builders.walk(
            rule_for=lambda *_, rule=rule: rule,
            try_folders=rule is None and created_us is not None,
            waiting_limit_us=HOUR,
        )
        met = builders.row(**listed, created_us=created_us)
        yield None, list_row.plan(None, met, walk)
        for prior in EXPORTS:
            if rule is None or prior.state is EXCLUDED:
                aged = dataclasses.replace(
                    prior, created_us=created_us, first_seen_us=seen_us
                )
                yield aged, list_row.plan(aged, met, walk)


def absent() -> Iterator[Step]:
    for export in EXPORTS:
        yield export, loss.absent(export, NOW, NOW, looked_for=True)


def overdue() -> Iterator[Step]:
    walk = builders.walk(waiting_limit_us=HOUR)
    for export in EXPORTS:
        for seen_us, made_us in ((NOW, NOW), (LONG_AGO, None), (NOW, LONG_AGO)):
            aged = dataclasses.replace(
                export, first_seen_us=seen_us, created_us=made_us
            )
            yield aged, loss.overdue(aged, walk)


def each(decide: Callable[..., Export], **facts: tuple[Any, ...]) -> Iterator[Step]:
    """Yield what a decision makes of each export, with each of these facts."""
    for given in cases(**facts):
        for export in EXPORTS:
            try:
                yield export, decide(export, **given)
            except ValueError:
                continue


def gone(export: Export, reason: Reason) -> Export:
    return attempt.gone(
        export,
        reason=reason,
        error="404",
        now_us=NOW,
        oldest_us=NOW,
        looked_for=True,
        pace=PACE,
    )


def doubted(export: Export, patient: bool, receipt: Receipt) -> Export:
    return held_body.doubted(
        export,
        receipt,
        folder="/s",
        started_us=NOW,
        now_us=NOW,
        lifetime_us=3 * HOUR,
        pace=PACE,
        jitter=0.5,
        patient=patient,
    )


def attempt_ended() -> Iterator[Step]:
    ends: tuple[dict[str, Any], ...] = (
        {},
        {"shown": Shown.UNCHANGED},
        {"failure": FetchError("cut", "cut")},
        {"failure": FileGoneError(Reason.FILE_GONE, "404")},
        {"failure": FileGoneError(Reason.URL_WITHOUT_FILE, "a page")},
        {"failure": OriginRefusedError("not allowed")},
        {"failure": SpoolError("spool_full", "full")},
        {"receipt": RECEIPT},
        {"receipt": dataclasses.replace(RECEIPT, doubt="x")},
        {"receipt": dataclasses.replace(RECEIPT, doubt="x", size_bytes=9, sha256="c")},
    )
    for end in ends:
        facts = AttemptFacts(
            started_us=NOW,
            oldest_us=NOW,
            lifetime_us=3 * HOUR,
            second_look=True,
            offset_bytes=0,
            held_bytes=0,
            folder="/s",
            ended_us=NOW,
            looked_for=True,
            **end,
        )
        yield from each(
            partial(after_attempt, facts=facts, pace=PACE, jitter=0.5),
            patient=(False, True),
        )


def looked() -> Iterator[Step]:
    seen = Validators(total_bytes=7, last_modified=None, etag=None)
    for export in EXPORTS:
        if export.state not in KEPT_STATES:
            continue
        for shown in Shown:
            for newest in (
                export,
                version.further(export, reason=Reason.CHANGED, now_us=1),
            ):
                both = second_look.after_look(
                    export, newest, shown, seen, now_us=NOW, lifetime_us=3 * HOUR
                )
                yield export, both[0]
                yield (export if newest is export else newest), both[1]


def kept_by(export: Export, holder: str, required: tuple[str, ...]) -> Export:
    copies = [dataclasses.replace(copy.owed(1, holder), state=CopyState.SAVED)]
    copies.append(copy.owed(1, "usb"))
    return copy.export_saved(export, copies, required=required, now_us=NOW)


def as_told(state: State) -> Export:
    reason = Reason.DOUBTFUL if state is DOUBTFUL else None
    return builders.export(key=None, state=state, reason=reason)


def rebuilt() -> Iterator[Step]:
    for state in (SAVED, DOUBTFUL):
        yield None, inventory.new(as_told(state), whole=True)
        yield from each(inventory.confirmed, kept=(as_told(state),))


DECISIONS: dict[str, Callable[[], Iterator[Step]]] = {
    "a walk meets its row": plan,
    "a complete sweep does not show it": absent,
    "a walk did not meet it, and it is too old": overdue,
    "its wait is over, and sweeps do not look so far back": lambda: each(
        retry.waited, walk_us=(NOW,)
    ),
    "retry_max is over": lambda: each(retry.unparked),
    "retry": lambda: each(retry.due_now, now_us=(NOW,)),
    "claimed": lambda: each(attempt.claimed),
    "whole and proven in the spool": lambda: each(
        attempt.whole, receipt=(RECEIPT,), attempt=(ATTEMPT,)
    ),
    "cut, stall, busy, refused for now": lambda: each(
        attempt.failed, error=("cut",), now_us=(NOW,), pace=(PACE,), jitter=(0.5,)
    ),
    "an origin that is not allowed": lambda: each(
        attempt.refused, error=("no",), now_us=(NOW,), pace=(PACE,)
    ),
    "403, 404, 410, a folder url that gives nothing": lambda: each(
        gone, reason=(Reason.FILE_GONE, Reason.URL_WITHOUT_FILE)
    ),
    "stopped, or no room in the spool": lambda: itertools.chain(
        each(attempt.interrupted),
        each(attempt.postponed, error=("full",), now_us=(NOW,), pace=(PACE,)),
        each(attempt.gave_bytes, size_bytes=(0, 9)),
    ),
    "its structure is not proven": lambda: each(
        doubted,
        patient=(False, True),
        receipt=(
            dataclasses.replace(RECEIPT, doubt="x"),
            dataclasses.replace(RECEIPT, doubt="x", size_bytes=9, sha256="c"),
        ),
    ),
    "its held body waits no longer": lambda: each(held_body.ending),
    "its held body is spooled": lambda: each(held_body.spooled_doubtful),
    "a good copy of other bytes is found beside its held body": lambda: itertools.chain(
        each(held_body.alone), each(held_body.set_apart, version=(2,))
    ),
    "an attempt ends": attempt_ended,
    "a second look shows a change": looked,
    "every required target holds a proven copy": lambda: each(
        kept_by, holder=("nas", "usb"), required=((), ("nas",), ("nas", "usb"))
    ),
    "the spool file is gone or damaged": lambda: each(copy.spool_lost, error=("x",)),
    "no good copy left on any target": lambda: each(
        copy.after_bad, spooled=(False, True), others=(False, True), error=("x",)
    ),
    "a copy is proven good again": lambda: each(copy.after_good),
    "rebuild finds a copy": rebuilt,
    "rebuild finds a sidecar without its file": lambda: iter(
        [
            (None, inventory.new(as_told(state), whole=False))
            for state in (SAVED, DOUBTFUL)
        ]
    ),
}


def changes(steps: Iterator[Step]) -> set[tuple[State | None, State, str | None]]:
    """Return what steps change: from, to, and the reason, `SAME` if it is kept."""
    seen: set[tuple[State | None, State, str | None]] = set()
    for prior, after in steps:
        if prior is None or after.key is None:
            seen.add((NEW, after.state, after.reason))
        elif (prior.state, prior.reason) != (after.state, after.reason):
            reason = SAME if after.reason == prior.reason else after.reason
            seen.add((prior.state, after.state, reason))
    return seen


@pytest.mark.parametrize("event", TABLE)
def test_each_change_of_an_export_is_in_the_table(event):
    """All that may happen does, and nothing else."""
    assert changes(DECISIONS[event]()) == TABLE[event]


# --- copies -----------------------------------------------------------------------

PENDING, PUBLISHING, FAILED = CopyState.PENDING, CopyState.PUBLISHING, CopyState.FAILED
ON_TARGET, BROKEN, REMOVED = CopyState.SAVED, CopyState.DAMAGED, CopyState.ERASED
ANY = frozenset(CopyState)
COPIES: dict[str, tuple[Callable[[Copy], Copy], set[tuple[CopyState, CopyState]]]] = {
    "its file came into the spool": (
        copy.owed_again,
        {(one, PENDING) for one in ANY - {ON_TARGET, PENDING}},
    ),
    "its export has other bytes": (
        copy.of_other_bytes,
        {(one, PENDING) for one in ANY - {PENDING}},
    ),
    "claimed": (copy.claimed, {(PENDING, PUBLISHING), (FAILED, PUBLISHING)}),
    "published": (
        lambda one: copy.saved(one, verified=True, now_us=NOW),
        {(one, ON_TARGET) for one in ANY - {ON_TARGET}},
    ),
    "failed": (
        lambda one: copy.failed(one, error="x", due_us=NOW),
        {(one, FAILED) for one in ANY - {FAILED}},
    ),
    "released": (copy.released, {(one, PENDING) for one in ANY - {PENDING}}),
    "retry": (copy.due_now, {(FAILED, PENDING)}),
    "the service was stopped": (copy.interrupted, {(PUBLISHING, PENDING)}),
    "the spool file is gone": (
        copy.without_spool_file,
        {(PUBLISHING, PENDING), (FAILED, PENDING)},
    ),
    "it lies nowhere, the spool has it": (
        copy.pending,
        {(one, PENDING) for one in ANY - {PENDING}},
    ),
    "read, and good": (
        lambda one: copy.good(one, builders.export(), note=None, now_us=NOW),
        {(one, ON_TARGET) for one in ANY - {ON_TARGET}},
    ),
    "read, and good, during a fetch": (
        lambda one: copy.good(one, builders.export(state=F), note=None, now_us=NOW),
        set(),
    ),
    "read, and bad": (
        lambda one: copy.bad(one, spooled=False, error="x", now_us=NOW),
        {(one, BROKEN) for one in ANY - {BROKEN}},
    ),
    "read, and bad, the spool has it": (
        lambda one: copy.bad(one, spooled=True, error="x", now_us=NOW),
        {(one, PENDING) for one in ANY - {PENDING}},
    ),
    "rebuild has not found it yet": (inventory.unconfirmed, {(ON_TARGET, PENDING)}),
    "rebuild finds it": (
        lambda one: inventory.found(one, "a", whole=True, saved_us=NOW),
        {(one, ON_TARGET) for one in ANY - {ON_TARGET}},
    ),
    "rebuild finds its sidecar alone": (
        lambda one: inventory.found(one, "a", whole=False, saved_us=NOW),
        {(one, BROKEN) for one in ANY - {BROKEN}},
    ),
    "rebuild finds it without a sidecar": (
        lambda one: inventory.without_sidecar(_sought(one), lies_there=True),
        {(one, ON_TARGET) for one in ANY - {ON_TARGET}},
    ),
    "rebuild finds neither": (
        lambda one: inventory.without_sidecar(_sought(one), lies_there=False),
        {(one, BROKEN) for one in ANY - {BROKEN}},
    ),
}
"""What happens to a copy, what decides, and the changes: from, to."""


def _sought(one: Copy) -> Copy:
    return dataclasses.replace(one, last_error=inventory.NOT_FOUND_YET)


@pytest.mark.parametrize("event", COPIES)
def test_each_change_of_a_copy_is_in_the_table(event):
    """Of the states a copy may have then; the ledger asks for no others."""
    decide, wanted = COPIES[event]
    priors = [dataclasses.replace(copy.owed(1, "nas"), state=state) for state in ANY]
    seen = {(prior.state, decide(prior).state) for prior in priors}

    assert {pair for pair in seen if pair[0] is not pair[1]} == wanted
    assert copy.owed(1, "nas").state is PENDING


# --- nothing else changes a state ----------------------------------------------------

WALKED = {
    *("plan", "absent", "overdue", "waited", "unparked", "due_now", "claimed"),
    *("whole", "failed", "refused", "gone", "interrupted", "postponed", "gave_bytes"),
    *("doubted", "ending", "spooled_doubtful", "after_look", "export_saved"),
    *("spool_lost", "after_bad", "after_good", "confirmed", "new"),
    *("after_attempt", "alone", "set_apart"),
    # Of copies.
    *("owed", "owed_again", "of_other_bytes", "saved", "released", "pending"),
    *("without_spool_file", "good", "bad", "unconfirmed", "found", "without_sidecar"),
}
QUESTIONS = {
    *("judge", "kept_as", "has_spool_file", "first_due", "compare", "can_look"),
    *("not_proven", "yields_until", "new_digest", "same_bytes"),
}
"""They change no state: they answer, or add what was learnt."""
SETS_STATE = re.compile(
    r"INTO\s+(exports|copies)\b|UPDATE\s+(exports|copies)\b.*\bSET\b"
    r"((?!\bWHERE\b).)*\bstate\s*=",
    re.DOTALL,
)


def trees() -> Iterator[tuple[str, ast.AST]]:
    for path in sorted(SOURCES.rglob("*.py")):
        name = path.relative_to(SOURCES).as_posix()
        if not name.startswith(("lifecycle/", "simulator/")):
            yield name, ast.parse(path.read_text("utf-8"))


def decided_outside(tree: ast.AST) -> list[int]:
    """Return the lines on which a record gets a state that is decided there."""
    lines = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func).rpartition(".")[2]
        for given in node.keywords:
            literal = isinstance(given.value, ast.Attribute | ast.Constant | ast.IfExp)
            if given.arg == "state" and (
                name == "replace" or (name in {"Export", "Copy"} and literal)
            ):
                lines.append(node.lineno)
    return lines


def text_of(node: ast.AST) -> str:
    """Return the text of a string, what is put into it left out."""
    if isinstance(node, ast.JoinedStr):
        return "".join(text_of(part) for part in node.values)
    is_text = isinstance(node, ast.Constant) and isinstance(node.value, str)
    return str(node.value) if is_text else "{}"  # type: ignore[attr-defined]


def sets_state(tree: ast.AST) -> list[int]:
    """Return the lines whose SQL sets a state."""
    return [
        node.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.JoinedStr | ast.Constant)
        and SETS_STATE.search(text_of(node))
    ]


def test_no_state_is_decided_outside_lifecycle():
    """No record is made with another state but by a function of `lifecycle`."""
    assert {
        name: lines for name, tree in trees() if (lines := decided_outside(tree))
    } == {}


def test_no_sql_sets_a_state_past_the_one_writing_module():
    """`rows.update`, `rows.write_copy` and `rows.insert` write all there are."""
    found = {name for name, tree in trees() if sets_state(tree)}

    assert found == {"ledger/rows.py"}


def test_all_that_is_called_of_lifecycle_was_walked():
    """A function that decides a state is in the tables above."""
    called: set[str] = set()
    for _, tree in trees():
        names: dict[str, str] = {}
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module == "mirror.lifecycle":
                names |= {one.asname or one.name: one.name for one in node.names}
            elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith(
                "mirror.lifecycle."
            ):
                called |= {one.name for one in node.names}
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and ast.unparse(node.value) in names:
                called.add(node.attr)
    functions = {name for name in called if name[0].islower()}

    assert functions <= WALKED | QUESTIONS, functions - WALKED - QUESTIONS
    assert set(TABLE) == set(DECISIONS)


@pytest.mark.parametrize(
    "planted",
    [
        "dataclasses.replace(export, state=after)",
        "replace(export, state=State.LOST)",
        "Export(source='hq', state=State.READY)",
        "Copy(state='saved' if good else 'damaged')",
    ],
)
def test_a_state_decided_elsewhere_is_seen(planted):
    assert decided_outside(ast.parse(planted))


@pytest.mark.parametrize(
    "planted",
    [
        "execute('UPDATE exports SET state = ?, due_us = 0 WHERE key = ?')",
        "execute(f'UPDATE copies SET due_us = 0, state = {x} WHERE export = ?')",
        "execute('INSERT OR IGNORE INTO copies (export, state) VALUES (?, ?)')",
    ],
)
def test_sql_that_sets_a_state_is_seen(planted):
    assert sets_state(ast.parse(planted))
    assert not sets_state(
        ast.parse("execute('UPDATE copies SET a = 1 WHERE state = 2')")
    )
