"""Files from a server that cuts, lies, changes its mind or sends something else.

The resume matrix: a first answer that ends at one of the points below, then one
misbehaviour, then a good server. Whatever happens, what is kept is one version of the
file, whole, or nothing is kept and the ledger says why.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

from mirror.model import State, utc_now
from mirror.simulator import Fault, Kind, Vms
from mirror.simulator.behaviour import Etag
from mirror.simulator.faults import fault, resolve
from tests.site import IMPATIENT, Site

if TYPE_CHECKING:
    from mirror.model import Export
    from mirror.simulator import Export as Served
    from mirror.simulator.faults import Step

SIZE = 300_000
KI64 = 65_536
POINTS = {
    "0": 0,
    "1": 1,
    "in_ftyp": 10,
    "64Ki-1": KI64 - 1,
    "64Ki": KI64,
    "64Ki+1": KI64 + 1,
    "half": SIZE // 2,
    "end-1": SIZE - 1,
    "end": SIZE,
}
UNTOLD = ("0", "in_ftyp", "64Ki", "end")
"""The points tried also where the first answer does not tell the length."""
SAVED = (State.SAVED, None, None)
GONE = (State.WAITING, "file_gone", "answers 4")
REFUSED = (State.PARKED, "origin_refused", "file_origins")
LATE = {"hang", "interim_drip", "blank_lines"}
"""The final status never comes."""
OLD_WILL_DO = {"chunked-end"}
"""All bytes of a version had come before the server made the next one."""
SECRET_HEADERS = {"authorization", "cookie", "x-uuid", "x-client", "x-api-key"}

Outcome = tuple[State, str | None, str | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Behaviour:
    """What the server does at the second request.

    Attributes:
        step: As in a script.
        outcome: State, reason and a part of the last error.
        error: A part of what some attempt ends with, if it is played on a request
            for the rest of a file of known length; None if none need fail.
        always: It does so at the first request and at all later ones too.
        guarded: What it sends is enough to ask for the rest.
        clip: What the file is made of.
    """

    step: Step
    outcome: Outcome = SAVED
    error: str | None = None
    always: bool = False
    guarded: bool = True
    clip: str = "moov-first"


def _status(number: int, error: str) -> Behaviour:
    return Behaviour(step=f"status_{number}", error=error)


MATRIX = {
    "good": Behaviour(step=None),
    "ignore_range": Behaviour(step="ignore_range"),
    "wrong_start": Behaviour(step="wrong_start", error="the 206 brings"),
    "earlier_start": Behaviour(step="earlier_start", error="the 206 brings"),
    "start_at_0": Behaviour(
        step=fault("wrong_start", shift=-SIZE), error="the 206 brings"
    ),
    "wrong_total": Behaviour(step="wrong_total", error="and now has"),
    "unknown_total": Behaviour(step="unknown_total", error="does not say which"),
    "no_content_range": Behaviour(step="no_content_range", error="does not say which"),
    "multipart": Behaviour(step="multipart", error="does not say which"),
    "range_refused": Behaviour(step="range_refused", error="(416)"),
    "range_refused_short": Behaviour(
        step=fault("range_refused", shift=-7), error="(416)"
    ),
    "if_range_full": Behaviour(step="if_range_full"),
    "ignore_if_range_change": Behaviour(
        step=("change", "ignore_if_range"), error="another ETag"
    ),
    "ignore_if_range_change_no_etag": Behaviour(
        step=("change", "ignore_if_range", "no_etag"), error="another Last-Modified"
    ),
    "ignore_if_range_shrink": Behaviour(
        step=("shrink", "ignore_if_range"), error="now has"
    ),
    "ignore_if_range_grow_no_validators": Behaviour(
        step=("grow", "ignore_if_range", "no_validators"), error="and now has"
    ),
    "ignore_if_range": Behaviour(step="ignore_if_range"),
    "weak_etag": Behaviour(step="weak_etag"),
    "other_etag": Behaviour(step="other_etag"),
    "new_etag": Behaviour(step="new_etag"),
    "modified_now": Behaviour(step="modified_now"),
    "modified_now_no_etag": Behaviour(step=("modified_now", "no_etag")),
    "hidden_change_other_etag": Behaviour(step=("change_hidden", "other_etag")),
    "hidden_change_each_etag": Behaviour(
        step=("change_hidden", "new_etag", "ignore_if_range"), error="another ETag"
    ),
    "no_etag": Behaviour(step="no_etag"),
    "no_validators": Behaviour(step="no_validators"),
    "change": Behaviour(step="change"),
    "shrink": Behaviour(step="shrink"),
    "grow": Behaviour(step="grow"),
    "change_cut": Behaviour(step=("change", "cut"), error="broke off"),
    "delete": Behaviour(step="delete", outcome=GONE),
    "gzip": Behaviour(step="gzip", error="compressed (gzip)"),
    "html": Behaviour(step="html", error="an HTML page"),
    "json_page": Behaviour(step="json_page", error="sends text instead"),
    "empty": Behaviour(step="empty", error="empty file"),
    "redirect": Behaviour(step="redirect"),
    "redirect_other": Behaviour(step="redirect_other", outcome=REFUSED),
    "redirect_http": Behaviour(step="redirect_http", outcome=REFUSED),
    "redirect_loop": Behaviour(step="redirect_loop", error="redirects in a row"),
    "redirect_nowhere": Behaviour(
        step=fault("redirect", to="http://[::bad/"),
        outcome=(State.PARKED, "origin_refused", "cannot be understood"),
    ),
    "cut": Behaviour(step="cut", error="broke off"),
    "cut_at_once": Behaviour(step=Fault(kind=Kind.CUT, after=0), error="broke off"),
    "reset": Behaviour(step="reset", error="broke off"),
    "stall": Behaviour(step="stall", error="for too long"),
    "hang": Behaviour(step="hang", error="for too long"),
    "delay": Behaviour(step=fault("delay", seconds=0.2)),
    "drip": Behaviour(step=fault("drip", size=30_000, seconds=0.02)),
    "slow": Behaviour(step=fault("slow", rate=1_000_000)),
    "chunked": Behaviour(step="chunked"),
    "chunked_cut": Behaviour(step="chunked_cut", error="broke off"),
    "no_length": Behaviour(step="no_length"),
    "no_length_cut": Behaviour(step="no_length_cut", error="ended before"),
    "no_length_cut_whole": Behaviour(step=("ignore_range", "no_length_cut")),
    "interim": Behaviour(step="interim"),
    "interim_flood": Behaviour(step="interim_flood", error="not final"),
    "interim_drip": Behaviour(step="interim_drip", error=""),
    "blank_lines": Behaviour(step="blank_lines", error="for too long"),
    "endless_extension": Behaviour(step="endless_extension", error=""),
    "endless_trailers": Behaviour(step="endless_trailers", error=""),
    "many_headers": Behaviour(step="many_headers", error="not valid HTTP"),
    "huge_header": Behaviour(step="huge_header", error="not valid HTTP"),
    "wrong_type": Behaviour(step="wrong_type"),
    "wrong_date": Behaviour(step="wrong_date"),
    "truncated_mp4": Behaviour(step=("truncated_mp4", "ignore_range")),
    "truncated_mp4_range": Behaviour(step="truncated_mp4", error=""),
    "no_moov": Behaviour(step=("no_moov", "ignore_range")),
    "no_moov_range": Behaviour(step="no_moov", error=""),
    # By its length and its validators it is the file: the rest is asked for again.
    "garbage": Behaviour(step=("garbage", "ignore_range")),
    "garbage_no_etag": Behaviour(
        step=("garbage", "ignore_range", "no_etag"), error="not proven whole: no moov"
    ),
    "endless": Behaviour(step=("endless", "ignore_range"), error="max_file_size"),
    "busy_429": Behaviour(step="busy_429", error="busy (429)"),
    "busy_503": Behaviour(step="busy_503", error="busy (503)"),
    "busy_429_date": Behaviour(step="busy_429_date", error="busy (429)"),
    "busy_503_date": Behaviour(step="busy_503_date", error="busy (503)"),
    "status_204": _status(204, "answers 204"),
    "status_400": _status(400, "answers 400"),
    "status_401": _status(401, "answers 401"),
    "status_403": Behaviour(step="status_403", outcome=GONE),
    "status_404": Behaviour(step="status_404", outcome=GONE),
    "status_409": _status(409, "answers 409"),
    "status_410": Behaviour(step="status_410", outcome=GONE),
    "status_422": _status(422, "answers 422"),
    "status_500": _status(500, "answers 500"),
    "status_502": _status(502, "answers 502"),
    "status_504": _status(504, "answers 504"),
    "always_ignore_range": Behaviour(step="ignore_range", always=True),
    "always_if_range_full": Behaviour(step="if_range_full", always=True),
    "always_weak_etag": Behaviour(step="weak_etag", always=True),
    "always_new_etag": Behaviour(step="new_etag", always=True),
    "always_new_etag_ignore_if_range": Behaviour(
        step=("new_etag", "ignore_if_range"), always=True
    ),
    "always_modified_now": Behaviour(step="modified_now", always=True),
    "always_modified_now_no_etag": Behaviour(
        step=("modified_now", "no_etag"), always=True, guarded=False
    ),
    "always_no_etag": Behaviour(step="no_etag", always=True),
    "always_no_validators": Behaviour(step="no_validators", always=True, guarded=False),
    "always_unknown_total": Behaviour(step="unknown_total", always=True),
    "always_wrong_start": Behaviour(step="wrong_start", always=True),
    "always_range_refused": Behaviour(step="range_refused", always=True),
    "always_chunked": Behaviour(step="chunked", always=True),
    "always_moved": Behaviour(step="redirect", always=True),
    "moov_last_cut": Behaviour(step="cut", error="broke off", clip="moov-last"),
    "moov_last_no_length_cut": Behaviour(
        step=("ignore_range", "no_length_cut"), clip="moov-last"
    ),
    "moov_last_truncated": Behaviour(
        step=("truncated_mp4", "ignore_range"), clip="moov-last"
    ),
    "fragmented_cut": Behaviour(step="cut", error="broke off", clip="fragmented"),
}


@pytest.fixture
async def vms():
    async with Vms() as served:
        yield served


@pytest.fixture
def site(tmp_path, vms):
    """A site that tries many files at once and soon again."""
    made = Site.make(tmp_path, vms, concurrency=16)
    made.tables["transfer"] |= {"max_file_size": "600KB"}
    return made


def first_answer(point: int, *, chunked: bool) -> Fault:
    """Return what ends the first answer after so many bytes."""
    return Fault(kind=Kind.CHUNKED if chunked else Kind.CUT, after=point)


def add(
    vms: Vms, behaviour: Behaviour, point: int, *, chunked: bool, name: str
) -> Served:
    """List an export whose first answer is cut and whose second misbehaves."""
    members = resolve(behaviour.step)
    # What waits for a Range cannot be met by the first request; a redirect would
    # hide how its target's answer ends.
    with_first = [
        one
        for one in members
        if behaviour.always and not one.range_only and one.kind is not Kind.REDIRECT
    ]
    start = (*with_first, first_answer(point, chunked=chunked))
    return vms.add(
        name=name,
        size=SIZE,
        clip=behaviour.clip,
        made_at=utc_now() - timedelta(minutes=20),
        faults=[start, behaviour.step],
        then=behaviour.step if behaviour.always else None,
    )


def sidecars(site: Site) -> dict[int, tuple[str, dict[str, object]]]:
    """Return each sidecar with the path of the file it stands beside, by id."""
    found: dict[int, tuple[str, dict[str, object]]] = {}
    for path in site.kept():
        if path.endswith(".json"):
            record = json.loads((site.archive / path).read_text("utf-8"))
            assert record["id"] not in found, "two sidecars for one export"
            found[record["id"]] = (path.removesuffix(".json"), record)
    return found


def check_kept(site: Site, vms: Vms, cells: dict[str, Served]) -> None:
    """Check that what is visible is right, and is that of the saved exports alone."""
    exports, media, beside = site.exports(), site.media(), sidecars(site)
    saved = {
        cell: served
        for cell, served in cells.items()
        if exports[served.export_id].state is State.SAVED
    }
    wrong = []
    for cell, served in saved.items():
        truth, export = vms.truth(served), exports[served.export_id]
        path, record = beside[served.export_id]
        seen = (media[path], export.sha256, record["sha256"])
        sizes = {
            (site.archive / path).stat().st_size,
            export.size_bytes,
            record["size_bytes"],
        }
        right = {(truth.size_bytes, truth.sha256)}
        if cell in OLD_WILL_DO:
            right = set(truth.versions)
        if len(sizes) > 1 or {(sizes.pop(), sha256) for sha256 in set(seen)} - right:
            wrong.append((cell, seen, truth))
    assert not wrong
    assert set(beside) == {served.export_id for served in saved.values()}
    assert set(media) == {path for path, _ in beside.values()}


def as_expected(export: Export, outcome: Outcome) -> bool:
    """Tell whether an export ended as a behaviour says."""
    state, reason, error = outcome
    return (
        export.state is state
        and export.reason == reason
        and (error or "") in (export.last_error or "")
    )


def check_requests(vms: Vms) -> None:
    """Check that no request for a file carried anything but what it needs."""
    asked = [request for request in vms.requests if request.kind == "file"]
    assert asked
    for request in asked:
        assert request.method == "GET"
        assert request.headers["Accept-Encoding"] == "identity"
        assert not {name.lower() for name in request.headers} & SECRET_HEADERS


@pytest.mark.parametrize("name", MATRIX)
async def test_resume_matrix(site, vms, name):
    """Each behaviour after a first answer of known and of unknown length."""
    behaviour = MATRIX[name]
    if name in {"stall", *LATE}:
        site.tables["transfer"] |= IMPATIENT
    cells = {
        f"{'chunked' if chunked else 'length'}-{label}": add(
            vms, behaviour, point, chunked=chunked, name=f"{label}.mp4"
        )
        for chunked in (False, True)
        for label, point in POINTS.items()
        if not chunked or label in UNTOLD
    }

    await site.once()

    exports = site.exports()
    played = {
        cell: len(vms.file_requests(served)) > 1 for cell, served in cells.items()
    }
    unlike = {}
    for cell, served in cells.items():
        export = exports[served.export_id]
        expected = behaviour.outcome if played[cell] else SAVED
        if not as_expected(export, expected):
            unlike[cell] = (export.state, export.reason, export.last_error)
    assert not unlike
    check_kept(site, vms, cells)
    check_requests(vms)
    # With its length met, a file is whole however the connection ends.
    at_once = [] if name == "always_chunked" else ["length-end"]
    assert [cell for cell, more in played.items() if not more] == at_once
    for cell in ("length-in_ftyp", "length-64Ki", "length-half"):
        check_played(site, vms, cells[cell], behaviour)


def check_played(site: Site, vms: Vms, served: Served, behaviour: Behaviour) -> None:
    """Check that the behaviour was met by a request for the rest, and told."""
    kinds = {one.kind.value for one in resolve(behaviour.step)}
    second = vms.file_requests(served)[1]
    assert kinds <= set(second.faults)
    assert (second.range is not None) == behaviour.guarded
    errors = " / ".join(one.error or "" for one in site.dossier(served).attempts)
    assert (behaviour.error or "") in errors


@pytest.mark.parametrize("kind", [Kind.CUT, Kind.RESET, Kind.STALL])
async def test_what_came_is_not_asked_for_again(site, vms, kind):
    """After any kind of break the rest is asked for, and that alone."""
    if kind is Kind.STALL:
        site.tables["transfer"] |= IMPATIENT
    cells = {
        label: vms.add(size=SIZE, faults=[Fault(kind=kind, after=point)])
        for label, point in POINTS.items()
        if point < SIZE
    }
    await site.once()

    check_kept(site, vms, cells)
    for label, served in cells.items():
        point = POINTS[label]
        first, second = vms.file_requests(served)
        # Fewer bytes than tell anything of the file are not kept.
        assert second.range == (f"bytes={point}-" if point >= 8 else None)
        assert (second.if_range is None) == (second.range is None)
        assert first.range is None and first.if_range is None
        assert site.export(served).attempts == 2


async def test_a_line_that_breaks_every_20_kb_brings_the_file(site, vms):
    """Each gain resets the count of attempts."""
    served = vms.add(size=SIZE, then=Fault(kind=Kind.CUT, after=20_000))
    await site.once()

    asked = vms.file_requests(served)
    assert len(asked) == site.export(served).attempts == 15
    assert [request.range for request in asked] == [
        None,
        *(f"bytes={done}-" for done in range(20_000, SIZE, 20_000)),
    ]
    assert sum(request.sent_bytes for request in asked) == SIZE
    check_kept(site, vms, {"file": served})
    assert site.export(served).state is State.SAVED


BARREN: dict[str, tuple[list[Step], Step, int]] = {
    "status_500": ([], "status_500", 10),
    "html": ([], "html", 10),
    "nothing": ([], Fault(kind=Kind.CUT, after=0), 10),
    "one_byte": ([], Fault(kind=Kind.CUT, after=1), 10),
    "hang": ([], "hang", 10),
    "truncated_json": ([], "json_page", 10),
    "gzip": ([], "gzip", 10),
    "redirect_loop": ([], "redirect_loop", 60),
    "then_500": ([Fault(kind=Kind.CUT, after=20_000)], "status_500", 11),
    "then_html": ([Fault(kind=Kind.CUT, after=20_000)], "html", 11),
    "same_place": ([], Fault(kind=Kind.CUT, at=20_000), 11),
    # One more request: what a 200 to an ETag in If-Range means is asked once.
    "from_0_each_time": (
        [],
        (Fault(kind=Kind.IGNORE_RANGE), Fault(kind=Kind.CUT, after=20_000)),
        12,
    ),
    "changes_each_time": ([], ("change", Fault(kind=Kind.CUT, after=20_000)), 11),
    "too_large": ([], "grow", 10),
}


@pytest.mark.parametrize("name", BARREN)
async def test_what_never_gains_is_parked_after_10_attempts(site, vms, name):
    """Nothing is visible, the reason is kept, and the server is left in peace."""
    steps, then, requests = BARREN[name]
    size = 900_000 if name == "too_large" else SIZE
    if name == "hang":
        # The wait doubles with each try.
        site.tables["transfer"]["first_byte_timeout"] = "2ms"
    made_at = utc_now() - timedelta(minutes=20)
    served = vms.add(size=size, faults=steps, then=then, made_at=made_at)
    other = vms.add(size=SIZE)

    report = await site.once()

    export = site.export(served)
    assert (export.state, export.reason) == (State.PARKED, "no_progress")
    assert export.last_error
    # The shortest waits may be over before the VMS has the request.
    least = 5 if name == "hang" else requests
    assert least <= len(vms.file_requests(served)) <= requests
    assert report.owed == 1 and report.exit_code == 3
    assert site.export(other).state is State.SAVED
    check_kept(site, vms, {"bad": served, "good": other})


@pytest.mark.parametrize("step", ["garbage", "no_moov", "truncated_mp4"])
async def test_what_is_never_proven_is_kept_as_doubtful(site, vms, step):
    """The same body twice is enough; nothing of it has the name of a whole file."""
    served, other = vms.add(size=SIZE, then=step), vms.add(size=SIZE)
    report = await site.once()
    export = site.export(served)

    assert (export.state, export.reason) == (State.DOUBTFUL, "doubtful")
    assert export.doubt
    assert len(vms.file_requests(served)) <= 3
    assert (report.owed, report.doubtful, report.exit_code) == (0, 1, 3)
    assert site.export(other).state is State.SAVED
    [path] = [p for p, s in site.media().items() if s == export.sha256]
    assert path.endswith(".doubtful.mp4")


async def test_a_parked_file_is_had_when_the_server_recovers(site, vms):
    """Another run tries again, and goes on from the bytes it has."""
    served = vms.add(
        size=SIZE, faults=[Fault(kind=Kind.CUT, after=100_000)], then="status_502"
    )
    await site.once()
    vms.script(served)
    await site.once()

    assert vms.file_requests(served)[-1].range == "bytes=100000-"
    assert site.export(served).state is State.SAVED
    check_kept(site, vms, {"file": served})


@pytest.mark.parametrize("step", ["html", "json_page"])
async def test_a_page_does_not_cost_the_bytes_that_came_before(site, vms, step):
    """A proxy that answers with a page once must not make us begin at 0."""
    served = vms.add(
        size=SIZE,
        faults=[Fault(kind=Kind.CUT, after=200_000), step],
    )
    await site.once()

    check_kept(site, vms, {"file": served})
    assert vms.file_requests(served)[-1].range == "bytes=200000-"


async def test_a_file_cut_at_a_box_is_not_whole_if_its_length_was_told(site, vms):
    """The boxes tile what came, but the length says that it is not all."""
    probe = vms.add(size=SIZE)
    boundary = last_box(vms.read(probe))
    cells = {
        how: vms.add(size=SIZE, faults=[Fault(kind=kind, after=boundary)])
        for how, kind in (("length", Kind.CUT), ("chunked", Kind.CHUNKED))
    }
    await site.once()

    check_kept(site, vms, {**cells, "probe": probe})
    assert all(site.export(served).attempts == 2 for served in cells.values())


def last_box(data: bytes) -> int:
    """Return where the last top-level box of an mp4 begins."""
    offset = 0
    while offset + int.from_bytes(data[offset : offset + 4]) < len(data):
        offset += int.from_bytes(data[offset : offset + 4])
    return offset


async def test_no_file_is_called_saved_on_a_416_that_lies(site, vms):
    """`bytes */N`, with N what we hold, is believed only if the boxes agree."""
    point = KI64
    cells = {
        f"{chunked}": vms.add(
            size=SIZE,
            faults=[
                first_answer(point, chunked=chunked),
                fault("range_refused", shift=point - SIZE),
            ],
        )
        for chunked in (False, True)
    }
    await site.once()

    check_kept(site, vms, cells)
    assert all(site.export(s).state is State.SAVED for s in cells.values())


def places(vms: Vms) -> dict[str, str]:
    """Return urls that no request may follow."""
    other, own = vms.other_url, urlsplit(vms.url).netloc
    elsewhere = urlsplit(other).netloc
    return {
        "other_port": f"{other}/storage/archive/1/1/1/a.mp4",
        "no_scheme": f"//{elsewhere}/storage/a.mp4",
        "localhost": f"http://localhost:{vms.port}/storage/a.mp4",
        "https": f"https://{own}/storage/a.mp4",
        "ipv6": f"http://[::1]:{vms.port}/storage/a.mp4",
        "decimal": f"http://2130706433:{urlsplit(other).port}/storage/a.mp4",
        "loopback": f"http://127.0.0.2:{urlsplit(other).port}/storage/a.mp4",
        "user": f"http://user:pass@{own}/storage/a.mp4",
        "user_trick": f"http://{own}@{elsewhere}/storage/a.mp4",
        "backslash": f"http://{elsewhere}\\@{own}/storage/a.mp4",
        "backslashes": f"\\\\{elsewhere}\\storage\\a.mp4",
        "slash_backslash": f"/\\{elsewhere}/storage/a.mp4",
        "tab": f"ht\ttp://{elsewhere}/storage/a.mp4",
        "newline": f"http://{elsewhere}\r\nX-Evil: 1/storage/a.mp4",
        "file": "file:///etc/passwd",
        "ftp": f"ftp://{own}/storage/a.mp4",
        "data": "data:video/mp4;base64,AAAA",
        "javascript": "javascript:alert(1)//a.mp4",
        "no_host": "http:///storage/a.mp4",
        "bad_port": "http://127.0.0.1:99999/a.mp4",
        "bad_ipv6": "http://[::1/a.mp4",
        "own_as_prefix": f"{vms.url}.evil.example/a.mp4",
    }


async def test_refused_without_a_request(site, vms):
    """A url that leads elsewhere is parked, told, and never asked for."""
    listed = {
        what: vms.add(url=url, size=SIZE, name=f"{what}.mp4")
        for what, url in places(vms).items()
    }
    good = vms.add(size=SIZE)

    await site.once()

    elsewhere = urlsplit(vms.other_url).netloc
    own = urlsplit(vms.url).netloc
    assert [r.target for r in vms.requests if r.host == elsewhere] == []
    assert {r.host for r in vms.requests} == {own}
    asked = [r.target for r in vms.requests if r.kind != "list"]
    strays = [target for target in asked if target != vms.file_path(good)]
    outcomes = {
        what: (site.export(served).state, site.export(served).reason)
        for what, served in listed.items()
    }
    # Read as relative, these lead to paths of the source itself that do not exist.
    relative = {"backslashes", "slash_backslash", "tab", "no_host"}
    unlike = {
        what: seen
        for what, seen in outcomes.items()
        if seen != (State.PARKED, "origin_refused") and what not in relative
    }
    assert unlike == {}
    assert len(strays) <= 10 * len(relative)
    assert site.export(good).state is State.SAVED
    check_kept(site, vms, {**listed, "good": good})
    error = site.export(listed["other_port"]).last_error or ""
    assert "file_origins" in error and "rewrite_origins" in error


@pytest.mark.parametrize("to", ["other", "http"])
async def test_a_redirect_elsewhere_is_not_followed(site, vms, to):
    """Nor with a part in hand, nor after a redirect that was allowed."""
    cells = {
        "at_once": vms.add(size=SIZE, then=fault("redirect", to=to)),
        "later": vms.add(
            size=SIZE,
            faults=[Fault(kind=Kind.CUT, after=KI64)],
            then=fault("redirect", to=to),
        ),
    }
    await site.once()

    elsewhere = urlsplit(vms.other_url).netloc
    assert not [request for request in vms.requests if request.host == elsewhere]
    assert all(as_expected(site.export(s), REFUSED) for s in cells.values())
    assert site.kept() == {}
    check_requests(vms)


async def test_an_allowed_origin_gets_no_credentials(tmp_path, vms):
    """Even where files of the source itself may have the token."""
    site = Site.make(
        tmp_path, vms, file_origins=[vms.other_url], send_token_to_files=True
    )
    redirected = vms.add(size=SIZE, then="redirect_other")
    same = vms.add(size=SIZE, then="redirect")
    listed = vms.add(size=SIZE, name="listed.mp4")
    listed.url = vms.other_url + vms.file_path(listed)

    await site.once()

    elsewhere = urlsplit(vms.other_url).netloc
    there = [request for request in vms.requests if request.host == elsewhere]
    assert len(there) == 2
    assert not any(request.authorized for request in there)
    assert not any(
        {name.lower() for name in request.headers} & SECRET_HEADERS for request in there
    )
    first, *_ = vms.file_requests(redirected)
    assert first.authorized
    assert not vms.file_requests(same)[1].authorized, "sent over a redirect"
    check_kept(site, vms, {"a": redirected, "b": same, "c": listed})


@pytest.mark.parametrize("etag", list(Etag))
@pytest.mark.parametrize("dated", [True, False])
async def test_no_two_versions_meet_whatever_guards_them(site, vms, etag, dated):
    """The file is made anew between the two requests, of the same length."""
    vms.behaviour = replace(vms.behaviour, etag=etag, last_modified=dated)
    cells = {
        label: vms.add(
            size=SIZE,
            made_at=utc_now() - timedelta(minutes=20),
            faults=[Fault(kind=Kind.CUT, after=point), "change"],
        )
        for label, point in POINTS.items()
        if point < SIZE
    }
    await site.once()

    check_kept(site, vms, cells)
    assert all(site.export(s).state is State.SAVED for s in cells.values())
    assert all(len(vms.truth(s).versions) == 2 for s in cells.values())


async def test_a_file_that_never_stops_changing_is_not_mixed(site, vms):
    """Each answer is of another version, cut; then the last one holds still."""
    cells = {
        how: vms.add(
            size=SIZE,
            made_at=utc_now() - timedelta(minutes=20),
            faults=[
                (*more, "change", Fault(kind=Kind.CUT, after=40_000 + 9_000 * n))
                for n in range(9)
            ],
        )
        for how, more in (("obeys", ()), ("ignores", ("ignore_if_range",)))
    }
    await site.once()

    check_kept(site, vms, cells)
    assert all(site.export(s).state is State.SAVED for s in cells.values())


async def test_nothing_is_visible_while_a_file_is_incomplete(site, vms):
    """Neither under the final name nor beside it."""
    served = vms.add(size=SIZE, faults=[Fault(kind=Kind.RATE, rate=200_000)])
    seen = []
    async with site.service():
        await vms.until(lambda: any(r.sent_bytes > 60_000 for r in vms.requests))
        while site.export(served).state is State.FETCHING:
            seen.append(site.kept())
            await vms.until(lambda: True)
            break
        await site.until_state(served, State.SAVED)

    assert seen == [{}]
    check_kept(site, vms, {"file": served})


async def test_a_body_without_end_is_ended_at_max_file_size(site, vms):
    """It costs no more than the largest file would, and what is in buffers."""
    served = vms.add(size=SIZE, faults=["endless"])
    await site.once()

    first, *_ = vms.file_requests(served)
    assert first.ended == "left"
    assert first.sent_bytes < 10_000_000
    check_kept(site, vms, {"file": served})
