"""Lists from a server that is down, lies, or answers with something else.

A walk that fails concludes nothing; a bad row stops only itself; every walk ends; and
what `status` says of the source names the remedy and never the token.
"""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from mirror.ledger import Ledger
from mirror.model import State, utc_now
from mirror.pipeline.discover import pages
from mirror.simulator import Behaviour, Fault, Kind, Stage, Vms
from mirror.simulator.faults import fault
from tests.site import IMPATIENT, Site

if TYPE_CHECKING:
    from mirror.ledger.queries import SourceStatus
    from mirror.simulator import Export as Served
    from mirror.simulator.faults import Step

TRIES = 3
"""So often `once` asks for a list."""


@pytest.fixture
async def vms():
    async with Vms(token="canary-5f0c2d7e91") as served:
        yield served


@pytest.fixture
def site(tmp_path, vms):
    return Site.make(tmp_path, vms)


def source(site: Site) -> SourceStatus:
    """Return what `status` shows of the source."""
    with closing(Ledger.read(site.settings().state_dir)) as ledger:
        (found,) = ledger.queries.sources()
    return found


def check_no_token(site: Site, vms: Vms, capfd: pytest.CaptureFixture[str]) -> None:
    """Check that the token is in no log line and no file but its own."""
    shown = capfd.readouterr()
    assert vms.token not in shown.out + shown.err
    for path in site.folder.rglob("*"):
        if path.is_file() and path.name != "token":
            assert vms.token.encode() not in path.read_bytes(), path


def check_saved(site: Site, vms: Vms, *wanted: Served) -> None:
    """Check that these are saved and right, and that nothing else is visible."""
    exports = site.exports()
    for served in wanted:
        found = exports[served.export_id]
        assert (found.state, found.sha256) == (State.SAVED, vms.truth(served).sha256)
    expected = sorted(vms.truth(s).sha256 or "" for s in wanted)
    assert sorted(site.media().values()) == expected


@dataclass(frozen=True, slots=True, kw_only=True)
class Failing:
    """A list that cannot be read.

    Attributes:
        step: What every request for the list meets.
        told: Parts of the source's problem, remedy included.
    """

    step: Step
    told: tuple[str, ...]


FAILING = {
    "status_401": Failing(
        step="status_401",
        told=("refuses the token (401)", "by `archive-mirror token set hq`"),
    ),
    "status_403": Failing(step="status_403", told=("(403)", "permission")),
    "status_404": Failing(step="status_404", told=("(404)", "check url", "list_path")),
    "status_409": Failing(step="status_409", told=("(409)", "too old")),
    "status_422": Failing(
        step="status_422",
        told=("(422)", "from: The from is not a valid date.", "date_format"),
    ),
    "status_204": Failing(step="status_204", told=("204",)),
    "status_400": Failing(step="status_400", told=("400",)),
    "status_410": Failing(step="status_410", told=("410",)),
    "status_500": Failing(step="status_500", told=("500",)),
    "status_502": Failing(step="status_502", told=("502",)),
    "status_504": Failing(step="status_504", told=("504",)),
    "busy_429": Failing(step="busy_429", told=("slow down (429)",)),
    "busy_503": Failing(step="busy_503", told=("(503)", "busy")),
    "busy_429_date": Failing(step="busy_429_date", told=("slow down (429)",)),
    "busy_503_date": Failing(step="busy_503_date", told=("(503)", "busy")),
    "html": Failing(step="html", told=("HTML page", "check url and list_path")),
    "json_page": Failing(step="json_page", told=("not the list",)),
    "empty": Failing(step="empty", told=("empty",)),
    "truncated_json": Failing(step="truncated_json", told=("not the list",)),
    "no_data": Failing(step="no_data", told=("not the list", "data")),
    "data_not_list": Failing(step="data_not_list", told=("not the list",)),
    "data_null": Failing(
        step=fault("data_not_list", text="null"), told=("not the list",)
    ),
    "data_text": Failing(
        step=fault("data_not_list", text='"[]"'), told=("not the list",)
    ),
    "top_level_list": Failing(
        step=Fault(kind=Kind.JSON_PAGE, text="[]"), told=("not the list",)
    ),
    "row_that_ends_the_list": Failing(
        step=Fault(kind=Kind.BAD_ROW, text='{"id": 1}]}]]'), told=("not the list",)
    ),
    "deep_json": Failing(step="deep_json", told=("nested too deeply",)),
    "deep_row": Failing(
        step=Fault(kind=Kind.BAD_ROW, text="[" * 100_000 + "]" * 100_000),
        told=("nested too deeply",),
    ),
    "huge_body": Failing(step="huge_body", told=("larger than 64 MiB",)),
    "huge_gzip": Failing(step=("huge_body", "gzip"), told=("larger than 64 MiB",)),
    "hang": Failing(step="hang", told=("for too long",)),
    "stall": Failing(step="stall", told=("for too long",)),
    "cut": Failing(step="cut", told=("closed too early",)),
    "cut_at_once": Failing(
        step=Fault(kind=Kind.CUT, after=0), told=("closed too early",)
    ),
    "reset": Failing(step="reset", told=("could not be read",)),
    "chunked_cut": Failing(step="chunked_cut", told=("closed too early",)),
    "no_length_cut": Failing(step="no_length_cut", told=("not the list",)),
    "many_headers": Failing(step="many_headers", told=("not valid HTTP",)),
    "huge_header": Failing(step="huge_header", told=("not valid HTTP",)),
    "redirect": Failing(step="redirect", told=("redirects (302)", "set url")),
    "redirect_other": Failing(
        step="redirect_other", told=("redirects (302)", "set url")
    ),
    "redirect_loop": Failing(step="redirect_loop", told=("redirects (302)", "set url")),
}


@pytest.mark.parametrize("name", FAILING)
async def test_a_failed_walk_concludes_nothing(tmp_path, site, vms, name, capfd):
    """What was known stays as it was; the problem is told, and ends with the fault."""
    failing = FAILING[name]
    kept = vms.add(size=100_000)
    asked = vms.add(stage=Stage.ASKED)
    owed = vms.add(size=100_000, then="status_404")
    await site.once()
    before, files = site.exports(), site.kept()

    if name in {"hang", "stall"}:
        site.tables["transfer"] |= IMPATIENT
    vms.remove_row(kept)
    vms.script_list(then=failing.step)
    began = len(vms.requests)
    report = await site.once()

    assert report.unread == ("hq",) and report.exit_code == 1
    asked_for = [request for request in vms.requests[began:] if request.kind == "list"]
    assert len(asked_for) == TRIES
    assert all(request.status or name == "hang" for request in asked_for)
    assert {request.host for request in asked_for} == {vms.url.removeprefix("http://")}
    assert site.exports() == before
    assert site.kept() == files
    problem = source(site).problem or ""
    assert [text for text in failing.told if text not in problem] == []
    assert "\n" not in problem

    vms.script_list()
    vms.make_file(asked)
    vms.script(owed)
    await site.once()
    assert source(site).problem is None
    assert site.export(asked).state is State.SAVED
    assert site.export(owed).state is State.SAVED
    assert site.export(kept).state is State.SAVED
    check_no_token(site, vms, capfd)


@pytest.mark.parametrize("name", ["status_500", "html", "truncated_json", "cut"])
async def test_what_came_before_a_page_that_failed_counts(tmp_path, vms, name):
    """Rows of earlier pages are fetched, though the walk concludes nothing."""
    site = Site.make(tmp_path, vms, per_page=2)
    served = [vms.add(size=50_000) for _ in range(5)]
    bad = fault(name, page=2)
    vms.script_list(bad, bad, bad)

    report = await site.once()

    assert report.unread == ("hq",)
    check_saved(site, vms, *served[-2:])
    assert set(site.exports()) == {one.export_id for one in served[-2:]}
    assert source(site).first_sweep_us is None

    vms.script_list()
    await site.once()
    check_saved(site, vms, *served)


FATAL_FOR_ABSENT = {
    "empty_data": fault("data_not_list", text="[]"),
    "status_500": "status_500",
    "html": "html",
    "no_data": "no_data",
    "json_page": "json_page",
    "empty": "empty",
    "truncated_json": "truncated_json",
}


@pytest.mark.parametrize("name", FATAL_FOR_ABSENT)
async def test_no_row_is_gone_because_a_list_was_bad(tmp_path, vms, name):
    """Past its deadline, an export ends only after sweeps that read every page."""
    site = Site.make(tmp_path, vms, file_lifetime="1s")
    served = vms.add(size=50_000, then="status_500", made_at=utc_now())
    await site.once()
    assert site.export(served).state is State.PARKED
    vms.script_list(then=FATAL_FOR_ABSENT[name])
    await site.until(lambda: site.export(served).past_deadline(_now_us()))
    for _ in range(3):
        await site.once()

    assert site.export(served).state is State.PARKED
    vms.script_list()
    vms.script(served)
    await site.once()
    check_saved(site, vms, served)


def _now_us() -> int:
    return round(utc_now().timestamp() * 1e6)


ODD = {
    "no_meta": "no_meta",
    "string_meta": "string_meta",
    "chunked": "chunked",
    "no_length": "no_length",
    "gzip": "gzip",
    "wrong_type": "wrong_type",
    "wrong_date": "wrong_date",
    "wrong_date_back": fault("wrong_date", seconds=-3600.0),
    "drip": fault("drip", size=400, seconds=0.01),
    "slow": fault("slow", rate=100_000),
    "delay": fault("delay", seconds=0.2),
    "duplicate_rows": "duplicate_rows",
    "duplicate_all": fault("duplicate_rows", size=3),
    "endless_pages": "endless_pages",
    "two_at_once": ("no_meta", "duplicate_rows"),
}


@pytest.mark.parametrize("name", ODD)
async def test_an_odd_list_is_read_all_the_same(tmp_path, vms, name):
    """All rows are met once, whatever the paging says, and the walk ends."""
    site = Site.make(tmp_path, vms, per_page=3)
    served = [vms.add(size=50_000) for _ in range(7)]
    vms.script_list(then=ODD[name])

    await site.once()
    await site.once()

    check_saved(site, vms, *served)
    assert all(len(vms.file_requests(one)) == 1 for one in served)
    assert vms.journal.counters["list"] <= 2 * 8 * pages.MAX_STARTS
    assert source(site).problem is None


async def test_gzipped_lists_are_read(tmp_path, vms):
    """A list may be compressed; a file may not."""
    vms.behaviour = Behaviour(gzip_lists=True)
    site = Site.make(tmp_path, vms, per_page=2)
    served = [vms.add(size=50_000) for _ in range(3)]
    await site.once()
    check_saved(site, vms, *served)


async def test_rows_without_end_do_not_hold_a_walk_for_ever(tmp_path, vms, monkeypatch):
    """Every page has new rows: the walk ends at its bound and concludes nothing."""
    monkeypatch.setattr(pages, "MAX_PAGES", 12)
    site = Site.make(tmp_path, vms, per_page=2)
    served = [vms.add(size=50_000) for _ in range(2)]
    await site.once()
    before = site.kept()
    vms.script_list(then="endless_rows")
    report = await site.once()

    assert vms.journal.counters["list"] <= 12 * pages.MAX_STARTS
    assert report.unread == ()
    assert before.items() <= site.kept().items()
    assert all(site.export(one).state is State.SAVED for one in served)
    assert not [e for e in site.exports().values() if e.state is State.LOST]


@pytest.mark.parametrize("name", ["insert_row", "delete_row"])
async def test_a_list_that_moves_between_pages_is_walked_anew(tmp_path, vms, name):
    """Rows pushed over a page's edge are not missed."""
    site = Site.make(tmp_path, vms, per_page=2)
    served = [vms.add(size=50_000) for _ in range(7)]
    vms.script_list(fault(name, page=2))
    await site.once()

    left = [one for one in served if one in vms.exports]
    assert len(left) == (7 if name == "insert_row" else 6)
    exports = site.exports()
    assert all(exports[one.export_id].state is State.SAVED for one in left)
    assert not [e for e in exports.values() if e.state is State.LOST]
    targets = [r.target for r in vms.requests if r.kind == "list"]
    assert sum("page=1&" in page for page in targets) == 2


@pytest.mark.parametrize("name", ["insert_row", "delete_row"])
async def test_a_list_that_always_moves_is_read_whole(tmp_path, vms, name):
    """Each time it is read on below the last row met; hardly a page comes twice."""
    site = Site.make(tmp_path, vms, per_page=5)
    for number in range(30):
        born = vms.now() - timedelta(minutes=number)
        vms.add(stage=Stage.ASKED, created_at=born)
    vms.script_list(then=fault(name, page=2))
    await site.once()

    left = {entry.export_id for entry in vms.exports}
    assert name == "delete_row" or len(left) > 30
    assert left & set(range(6413, 6443)) <= site.exports().keys()
    assert len([r for r in vms.requests if r.kind == "list"]) <= 2 * 8
    assert source(site).first_sweep_us is not None


async def test_rows_of_one_instant_that_always_move_are_left(tmp_path, vms):
    """No date tells them apart: after three more tries it is no whole walk."""
    site = Site.make(tmp_path, vms, per_page=2)
    born = vms.now()
    for _ in range(30):
        vms.add(stage=Stage.ASKED, created_at=born)
    vms.script_list(then=fault("delete_row", page=2))
    await site.once()

    targets = [r.target for r in vms.requests if r.kind == "list"]
    assert sum("page=1&" in page for page in targets) == pages.MAX_STARTS + 1
    assert source(site).first_sweep_us is None


BAD_ROWS = {
    "null": "null",
    "text": '"text"',
    "number": "5",
    "true": "true",
    "list": "[]",
    "empty": "{}",
    "id_null": '{"id": null}',
    "id_text": '{"id": "not a number", "name": 7}',
    "id_true": '{"id": true}',
    "id_fraction": '{"id": 1.5}',
    "id_negative": '{"id": -1}',
    "id_huge": '{"id": 9223372036854775808}',
    "id_longer": '{"id": ' + "9" * 4000 + "}",
    "id_float": '{"id": 1e400}',
    "id_list": '{"id": [1]}',
    "id_wide_digits": '{"id": "\uff17"}',
    "id_blank": '{"id": " 7"}',
}


@pytest.mark.parametrize("name", BAD_ROWS)
async def test_a_bad_row_stops_only_itself(site, vms, name):
    """The rows beside it on its page are fetched; it is told and counted."""
    served = [vms.add(size=50_000) for _ in range(3)]
    vms.script_list(then=Fault(kind=Kind.BAD_ROW, text=BAD_ROWS[name]))
    report = await site.once()

    assert report.exit_code == 0
    check_saved(site, vms, *served)
    assert source(site).bad_rows == 1
    assert source(site).problem is None
    await site.once()
    assert source(site).bad_rows == 1, "counted again at each walk"


GOOD_ROWS: dict[str, dict[str, Any]] = {
    "id_as_digits": {"id": "7001"},
    "only_what_is_needed": {},
    "unknown_fields": {"future": {"a": [1, 2, {"b": None}]}, "": 1},
    "null_everywhere": dict.fromkeys(
        ["name", "stream", "user", "created_at", "updated_at", "from", "to", "status"]
    ),
    "wrong_types": {
        "name": 7,
        "stream": "high",
        "user": [],
        "created_at": 5,
        "updated_at": {},
        "from": False,
        "to": [],
        "attributes": "x",
    },
    "wild_dates": {
        "created_at": "0001-01-01T00:00:00.000000-23:59",
        "updated_at": "9999-12-31T23:59:59.999999-23:59",
        "from": "2030-02-30 25:61:61",
        "to": "20300101",
    },
    "far_future": {"created_at": "9999-12-31T23:59:59.999999Z"},
    "far_past": {"created_at": "0001-01-01T00:00:00.000000Z"},
    "name_traversal": {"name": "../../../../../../tmp/evil.mp4"},
    "name_absolute": {"name": "/etc/cron.d/evil.mp4"},
    "name_nul": {"name": "a\0b.mp4"},
    "name_controls": {"name": "\x1b[31mred\r\n\x07.mp4"},
    "name_bidi": {"name": "\u202egpj.mp4"},
    "name_surrogate": {"name": "\ud800\udfff\ud800.mp4"},
    "name_long": {"name": "\u0416" * 5000 + ".mp4"},
    "name_dots": {"name": ".."},
    "name_reserved": {"name": "CON.mp4"},
    "name_blank": {"name": "   "},
    "name_sidecar": {"name": "a.mp4.json"},
    "name_hidden": {"name": ".archive-mirror"},
    "name_template": {"name": "{id} {0} %s {from:%Y}"},
    "camera_huge": {"stream": {"camera_id": 10**30, "type": "../.."}},
    "camera_text": {"stream": {"camera_id": "../../x", "type": "\0"}},
    "stream_deep": {"stream": {"camera_id": [[[[[]]]]]}},
}


@pytest.mark.parametrize("name", GOOD_ROWS)
async def test_a_row_that_names_a_file_is_kept_however_odd(site, vms, name):
    """Only id, flag and url are needed; nothing is written outside the target."""
    beside = [vms.add(size=50_000) for _ in range(2)]
    served = vms.add(export_id=7000, size=60_000)
    row = {
        "id": 7000,
        "is_file_exists": True,
        "url": vms.url + vms.file_path(served),
        **GOOD_ROWS[name],
    }
    served.literal = row
    before = set(site.folder.rglob("*"))
    report = await site.once()

    export = site.exports()[int(row["id"])]
    assert (export.state, export.sha256) == (State.SAVED, vms.truth(served).sha256)
    assert all(site.export(one).state is State.SAVED for one in beside)
    assert report.exit_code == 0
    assert len(site.media()) == 3
    new = set(site.folder.rglob("*")) - before
    allowed = {"archive", "state", "archive-mirror.toml"}
    assert {path.relative_to(site.folder).parts[0] for path in new} <= allowed
    for path in site.kept():
        if path.endswith(".json"):
            json.loads((site.archive / path).read_text("utf-8"))
    await site.once()
    assert len(vms.file_requests(7000)) == 1, "fetched again"


def _date(year: int) -> float:
    at = datetime(year, 12 if year > 2000 else 1, 31 if year > 2000 else 2, tzinfo=UTC)
    return (at - datetime.now(UTC)).total_seconds()


@pytest.mark.parametrize("year", [1, 1970, 2200, 9999])
async def test_a_wild_clock_of_the_vms_stops_nothing(site, vms, year):
    """One `Date` of another age must not keep later walks from being made."""
    first = vms.add(size=50_000)
    vms.script_list(Fault(kind=Kind.WRONG_DATE, seconds=_date(year)))
    await site.once()
    second = vms.add(size=50_000)
    for _ in range(2):
        await site.once()

    assert source(site).problem is None
    check_saved(site, vms, first, second)


@pytest.mark.parametrize(
    "text",
    [
        '{"errors": {"from": ["line one\\nline two \\u001b[31m"]}}',
        '{"errors": {"token": ["Bearer canary-5f0c2d7e91 is not valid"]}}',
        '{"errors": {"from": ["' + "x" * 100_000 + '"]}}',
        '{"errors": ' + "[" * 10_000 + "]" * 10_000 + "}",
        '{"errors": {"a": {"b": [1, null]}}}',
        "<html>no</html>",
    ],
    ids=["controls", "token", "long", "deep", "odd", "html"],
)
async def test_what_a_422_says_is_shown_in_safety(site, vms, text, capfd):
    """On one line, bounded, without what a terminal obeys, without the token."""
    vms.script_list(then=Fault(kind=Kind.STATUS, status=422, text=text))
    await site.once()

    problem = source(site).problem or ""
    assert "date_format" in problem and "422" in problem
    assert len(problem) < 2_000
    assert problem.isprintable()
    check_no_token(site, vms, capfd)


async def test_the_token_goes_to_the_list_alone(tmp_path, vms):
    """Not to where a list redirects, not to files, not to another origin."""
    site = Site.make(tmp_path, vms)
    vms.add(size=50_000, then="redirect_other")
    vms.script_list("redirect_other", "redirect", None)
    await site.once()

    assert {r.kind for r in vms.requests if r.authorized} == {"list"}
    own = vms.url.removeprefix("http://")
    assert {r.host for r in vms.requests} == {own}
    assert not [r for r in vms.requests if "moved" in r.target]


@pytest.mark.parametrize("seconds", [0, -5, 1, 3600, 10**9])
@pytest.mark.parametrize("dated", [False, True])
async def test_retry_after_is_bounded(site, vms, seconds, dated):
    """No value of the header stops a source for longer than its own pace."""
    seconds = min(seconds, 10**8) if dated else seconds
    served = vms.add(size=50_000)
    busy = fault("busy_503", retry_after_s=seconds, retry_as_date=dated)
    vms.script_list(busy, busy)
    began = utc_now()
    await site.once()

    assert utc_now() - began < timedelta(seconds=10)
    check_saved(site, vms, served)
    assert vms.journal.counters["list"] == TRIES
