"""The status page: what it tells, to whom, at what cost, and in a real browser."""

from __future__ import annotations

import asyncio
import json
import re
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from html.parser import HTMLParser
from typing import Any
from zoneinfo import ZoneInfo

import aiohttp
import pytest
from prometheus_client import CollectorRegistry
from typing_extensions import override

from mirror.app.status import metrics_snapshot, overview
from mirror.errors import LedgerError
from mirror.model import Attempt, State, to_us
from mirror.simulator import Fault, Kind, Vms
from mirror.web import HttpServer, status_page
from mirror.web import server as http
from tests.afternoon import HOUR, MINUTE, SECOND, HandmadeSite, afternoon
from tests.browser import Browser
from tests.command import on, run_beside
from tests.prometheus import free_port
from tests.site import Site

HOSTILE = (
    "<script>alert(1)</script><img src=x onerror=alert(2)>",
    "\"><style>*{display:none}</style>'",
    "gate \u202egpj.4pm\u202c \u2067x\u2069 \u05d0\u05d1",
    "bell\x07 esc\x1b[2J null\x00 line\nfeed\u2028",
    "half \ud83d of a pair",
    "&lt;b&gt; &amp;",
    "z\u0351\u0352\u0353" * 40,
    "long" * 5000,
    "</td></tr></table>",
    "`archive-mirror erase`",
)
UNSEEN = re.compile(r"[\x00-\x09\x0b-\x1f\x7f\u2028\u202a-\u202e\u2066-\u2069]")

SHORT = (
    "copies_open|copies_damaged|exports_spool|exports_created|exports_unacknowledged"
    "|exports_timeouts"
)
"""Indexes over few rows, and the one that is left as soon as enough were read."""


class Seen(HTMLParser):
    """The words of a page, and the elements that may never come from a name."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.words: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self._hidden = False
        self.feed(html)

    @override
    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self._hidden = tag in {"style", "title"}

    @override
    def handle_endtag(self, tag):
        self._hidden = False

    @override
    def handle_data(self, text):
        if not self._hidden:
            self.words.append(text)

    @property
    def text(self) -> str:
        """All that is read, with single spaces."""
        return re.sub(r"\s+", " ", " ".join(self.words))


async def page_of(site):
    """Return what a person reads on the page of a site."""
    async with site.served() as url, aiohttp.ClientSession() as client:
        async with client.get(url) as answer:
            assert answer.status == 200
            return Seen(await answer.text())


@pytest.fixture
def site(tmp_path):
    with HandmadeSite.open(tmp_path) as site:
        yield site


@asynccontextmanager
async def serving(status, *, pages=("metrics", "health", "status")):
    """Serve what a test says; yield a client."""

    async def nothing():
        return []

    async def unchanged():
        return None

    server = HttpServer(
        CollectorRegistry(),
        healthy=nothing,
        ready=nothing,
        refresh=unchanged,
        status=status,
        pages=pages,
        zone=UTC,
    )
    port = await server.start("127.0.0.1", 0)
    try:
        async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as client:
            yield client
    finally:
        await server.stop()


async def test_all_is_well(site):
    """One calm sentence; nothing that looks like work to do."""
    site.keep("hq", made_us=HOUR, took_us=5 * MINUTE, name="North gate.mp4")
    seen = await page_of(site)

    assert "All is well" in seen.text
    assert "1 export is kept; nothing is owed" in seen.text
    assert "2 h 55 min" in seen.text.replace("\u00a0", " ")
    assert site.status()["concerns"] == []


async def test_a_bad_afternoon_tells_what_by_when_and_how(site):
    """The worst first: the export at risk, the source gone dark, the loss."""
    afternoon(site)
    status, seen = site.status(), await page_of(site)

    assert status["headline"] == {"level": "risk", "text": "Footage is at risk"}
    assert [(one["level"], one["by"]) for one in status["concerns"]] == [
        ("risk", "2026-11-23T14:38:00.000Z"),
        ("look", "2026-11-23T15:33:00.000Z"),
        ("look", None),
    ]
    text = seen.text.replace("\u00a0", " ")
    for words in (
        "Footage is at risk",
        "By 15:38 CET ( in 18 min )",
        "archive-mirror show harbour/6461",
        "no connection to harbour.example: Connection refused",
        "1 export was lost, and nobody has taken note of it",
        "after 7 tries : the transfer broke off",
        "the VMS had no file any more before one came whole",
        "46",
    ):
        assert re.sub(r" ?: ?", ": ", words) in re.sub(r" ?: ?", ": ", text), words
    plot = [attrs for tag, attrs in seen.elements if tag == "circle" and "cx" in attrs]
    assert sum("fill-opacity" in one for one in plot) == 46
    crosses = [a for t, a in seen.elements if t == "path" and a.get("class") == "cross"]
    assert len(crosses) == 2


def _without_room(site: HandmadeSite) -> None:
    """Let the last of two attempts for one file, and the first for another, end so."""
    for outcomes in (["cut", "spool_full"], ["spool_full", "cut"]):
        number = site.add("hq", State.READY, made_us=MINUTE, attempts=2)
        (export,) = site.ledger.queries.find(number)
        for outcome in outcomes:
            attempt = Attempt(
                number=0,
                times=1,
                started_us=1,
                ended_us=2,
                outcome=outcome,
                offset_bytes=0,
                held_bytes=0,
                error=outcome,
            )
            site.ledger.fetches.settle(export.stored_key, lambda one: one, attempt)


@pytest.mark.parametrize(
    ("happens", "level", "words"),
    [
        (
            lambda s: s.read("hq", ago_us=16 * MINUTE),
            "look",
            "Source hq cannot be read: no walk came to its end",
        ),
        (
            lambda s: s.read("hq", ago_us=10 * MINUTE, problem="it answers 503"),
            "look",
            "Source hq cannot be read: it answers 503",
        ),
        (
            lambda s: s.read("hq", ago_us=151 * MINUTE, problem="it answers 503"),
            "risk",
            "Source hq cannot be read: it answers 503",
        ),
        (
            lambda s: s.target("nas", problem="nothing is mounted at /srv."),
            "look",
            "Target nas cannot be used: nothing is mounted at /srv.",
        ),
        (
            lambda s: s.add("hq", State.READY, made_us=151 * MINUTE),
            "risk",
            "1 export is not fetched yet, with the deadline less than 30 min away.",
        ),
        (
            lambda s: s.add("hq", State.READY, made_us=181 * MINUTE),
            "risk",
            "1 export is not fetched yet, with the deadline already past.",
        ),
        (
            lambda s: s.add("hq", State.PARKED, made_us=MINUTE, reason="no_progress"),
            "look",
            "1 export is parked: attempts brought nothing new.",
        ),
        (
            lambda s: s.add("hq", State.READY, made_us=MINUTE, attempts=2, timeouts=2),
            "look",
            "1 file of source hq does not answer, or next to no bytes come.",
        ),
        (
            _without_room,
            "look",
            "1 file finds no room and waits: the spool is too small.",
        ),
        (
            lambda s: s.add("hq", State.DAMAGED, made_us=MINUTE),
            "look",
            "1 kept export is damaged, with no good copy left.",
        ),
        (
            lambda s: s.doubt("hq", kept_us=23 * HOUR),
            "look",
            "1 file of source hq was kept in the last 24 hours",
        ),
        (
            lambda s: (s.doubt("hq", kept_us=MINUTE), s.doubt("hq", kept_us=HOUR)),
            "look",
            "2 files of source hq were kept in the last 24 hours",
        ),
        (
            lambda s: s.add("hq", State.LOST, made_us=26 * HOUR, reason="expired"),
            "look",
            "1 export was lost, and nobody has taken note of it.",
        ),
        (
            lambda s: s.ledger.pauses.pause_source(
                "hq", from_us=s.now_us, until_us=s.now_us + HOUR
            ),
            "look",
            "Source hq is paused until 2026-11-23 15:20 UTC (in 1 h).",
        ),
        (
            lambda s: (
                s.read("hq", ago_us=151 * MINUTE),
                s.ledger.pauses.pause_source(
                    "hq", from_us=s.now_us, until_us=s.now_us + HOUR
                ),
            ),
            "risk",
            "Source hq is paused until 2026-11-23 15:20 UTC (in 1 h). Files of it",
        ),
        (
            lambda s: (
                s.target("nas", problem="nothing is mounted at /srv."),
                s.ledger.pauses.pause_target(
                    "nas", from_us=s.now_us, until_us=s.now_us + HOUR
                ),
            ),
            "look",
            "Target nas is paused until 2026-11-23 15:20 UTC (in 1 h).",
        ),
    ],
)
async def test_each_trouble_is_told(site, happens, level, words):
    """As its own concern, with what to do."""
    happens(site)
    status, seen = site.status(), await page_of(site)
    (concern,) = status["concerns"]

    assert (status["headline"]["level"], concern["level"]) == (level, level)
    assert concern["text"].startswith(words)
    assert words.replace("2026-11-23 15:20 UTC", "16:20 CET") in seen.text
    assert concern["remedy"]


@pytest.mark.parametrize(
    "happens",
    [
        lambda s: s.read("hq", ago_us=14 * MINUTE),
        lambda s: s.add("hq", State.READY, made_us=149 * MINUTE),
        lambda s: s.add("hq", State.READY, made_us=MINUTE, attempts=1, timeouts=1),
        lambda s: (
            s.add("hq", State.LOST, made_us=28 * HOUR, reason="expired"),
            s.ledger.acknowledge(s.ledger.queries.losses(1), "seen", s.now_us),
        ),
        lambda s: s.doubt("hq", kept_us=25 * HOUR),
        lambda s: s.doubt("hq", kept_us=HOUR, then=State.SAVED),
        lambda s: s.add(
            "hq", State.LOST, made_us=HOUR, counts_as_ours=False, reason="expired"
        ),
        lambda s: s.add("hq", State.UNAVAILABLE, made_us=HOUR),
        lambda s: s.target("gone_from_configuration", problem="away"),
        lambda s: s.read("gone_from_configuration", ago_us=HOUR, problem="away"),
    ],
)
async def test_what_needs_nobody_raises_no_alarm(site, happens):
    """A page that cries wolf is not looked at."""
    site.keep("hq", made_us=HOUR, took_us=MINUTE)
    happens(site)
    status, seen = site.status(), await page_of(site)

    assert (status["headline"]["level"], status["concerns"]) == ("well", [])
    assert "All is well" in seen.text


async def test_what_is_doubtful_is_kept_and_named_so(site):
    """Its doubt, what to do, and which version it is; it counts as kept."""
    site.keep("hq", made_us=HOUR, took_us=MINUTE)
    site.doubt("hq", kept_us=HOUR, then=State.DOUBTFUL)
    status, seen = site.status(), await page_of(site)
    (concern,) = status["concerns"]

    assert "`archive-mirror list --state doubtful --source hq`" in concern["remedy"]
    assert f"/{site.ids}~2," in seen.text
    for words in (
        "mdat ends at 900, the file at 700",
        "it is kept as NAME.doubtful.mp4",
        "Kept 3 2 of them doubtful, all on every required target",
        "3 kept (2 doubtful)",
    ):
        assert words in seen.text
    pills = [
        attributes["class"]
        for tag, attributes in seen.elements
        if tag == "span" and "pill" in (attributes.get("class") or "")
    ]
    assert "pill look" in pills
    assert "not proven whole: mdat" not in seen.text


async def test_one_source_does_not_tell_of_another(site):
    """One concern for each source, however many files."""
    for source, number in (("hq", 3), ("depot", 2)):
        for _ in range(number):
            site.doubt(source, kept_us=HOUR)

    assert sorted(
        one["text"].split(" in ")[0] for one in site.status()["concerns"]
    ) == [
        "2 files of source depot were kept",
        "3 files of source hq were kept",
    ]


async def test_token_clock_and_ledger_are_told(site):
    """What the ledger's rows do not know comes from the service."""
    with site.ledger._db.transaction() as connection:
        connection.execute(
            "UPDATE sources SET clock_offset_us = ? WHERE name = 'hq'", (-3 * MINUTE,)
        )
    status = overview.read(
        site.ledger,
        site.settings,
        now_us=site.now_us,
        token_expiry_s={"depot": site.now_us // SECOND + 2 * 86_400},
        ledger_problem="database or disk is full",
    )

    assert [(one["level"], one["text"]) for one in status["concerns"]] == [
        (
            "risk",
            (
                "The ledger cannot be written: database or disk is full. Nothing new "
                "is fetched meanwhile."
            ),
        ),
        ("look", "The token of source depot is near its end or past it."),
        ("look", "The clock of source hq is 3 min behind ours."),
    ]


async def test_an_empty_ledger_makes_a_page(site):
    """The first minute after the first start."""
    with site.ledger._db.transaction() as connection:
        connection.execute("DELETE FROM sources")
        connection.execute("DELETE FROM targets")
    seen = await page_of(site)

    assert "not read yet" in seen.text
    assert "not looked at yet" in seen.text
    assert "No file has been fetched yet" in seen.text


async def test_before_the_first_export_nothing_is_praised(site):
    """Neither green nor an alarm; what was read is told, and ends with an export."""
    seen = await page_of(site)
    assert "No export seen yet 3 of 3 lists read" in seen.text
    assert ("section", {"class": "banner rest"}) in seen.elements
    assert "All is well" not in seen.text

    site.read("hq", ago_us=MINUTE, problem="it answers 503")
    assert "No export seen yet" not in (await page_of(site)).text
    site.read("hq", ago_us=MINUTE)
    site.keep("hq", made_us=HOUR, took_us=MINUTE)
    assert "All is well" in (await page_of(site)).text


async def test_what_must_be_acted_on_comes_first(site):
    """Sources, targets and losses before any long list."""
    seen = await page_of(afternoon(site))
    titles = ["Sources", "Targets", "Losses", "To be fetched", "Time left when"]
    places = [seen.text.index(f" {title} ") for title in [*titles, "Latest exports"]]

    assert places == sorted(places)


async def test_one_cause_is_said_once(site):
    """However many files of however many sources it stops; a row does not repeat it."""
    for number, source in enumerate(["hq", "hq", "harbour", "depot"]):
        error = "it answers 500" if source != "depot" else "no byte for 30 s"
        given = {"attempts": 3, "last_error": error}
        site.add(source, State.READY, made_us=(9 + number) * MINUTE, **given)
    site.add("depot", State.READY, made_us=MINUTE, attempts=1, last_error="closed")
    seen = await page_of(site)

    assert "3 \u00d7 it answers 500 (harbour, hq" in re.sub(r" ?\( ?", " (", seen.text)
    assert seen.text.count("it answers 500") == 1
    assert seen.text.count("after 3 tries") == 4
    assert seen.text.count("no byte for 30 s") == seen.text.count("closed") == 1
    assert seen.text.count("its last attempt failed, and it is tried again") == 1


async def test_of_two_causes_of_a_source_a_row_names_its_own(site):
    """Else nobody could tell which one it met."""
    for error in ("it answers 500", "no byte for 30 s"):
        for _ in range(2):
            site.add("hq", State.READY, made_us=MINUTE, attempts=2, last_error=error)
    seen = await page_of(site)

    assert seen.text.count("it answers 500") == seen.text.count("no byte for 30 s") == 3


async def test_a_bar_is_how_much_of_a_file_is_here(site):
    """Not how much time it has left; none where its length is unknown."""
    for total in (400, None):
        site.add(
            "hq",
            State.FETCHING,
            made_us=170 * MINUTE,
            attempts=1,
            part_bytes=100,
            part_total=total,
        )
    seen = await page_of(site)
    bars = [one["width"] for tag, one in seen.elements if one.get("class") == "part"]

    assert bars == ["25.0%"]
    assert "100 B of 400 B" in seen.text.replace("\u00a0", " ")
    assert "100 B so far" in seen.text.replace("\u00a0", " ")


async def test_ten_rows_are_seen_and_the_others_by_a_link(site):
    """Without script; both pages go on reloading, which one at an anchor would not."""
    for number in range(14):
        site.keep("hq", made_us=HOUR + number * MINUTE, took_us=MINUTE)
    rows = "[...document.querySelectorAll('tbody tr')].filter(r => r.offsetHeight)"
    links = "[...document.querySelectorAll('a')].filter(a => a.offsetHeight)"
    hrefs = f"{links}.map(a => a.innerText + ' ' + a.getAttribute('href')).join()"
    async with site.served() as url, Browser.started() as browser:
        await browser.no_script()
        seen = []
        for page in (url, f"{url}?all"):
            await browser.open(page)
            seen.append(
                [await browser.evaluate(one) for one in (f"{rows}.length", hrefs)]
            )

    others = 3 + 3
    assert seen[0] == [10 + others, "4 more ?all,status.json status.json"]
    assert seen[1] == [14 + others, "the first 10 only ?,status.json status.json"]


def test_many_losses_are_taken_note_of_at_once(site):
    """One is named; nobody is to type twenty."""
    for command in ("ack hq/6415 --note", "ack --state lost --note"):
        site.add("hq", State.LOST, made_us=5 * HOUR, reason="expired")
        (concern,) = site.status()["concerns"]

        assert f"`archive-mirror {command} TEXT`" in concern["remedy"]


async def test_hostile_names_are_words_and_nothing_else(site):
    """No element, attribute, direction or control character comes from the VMS."""
    before = {tag for tag, _ in (await page_of(afternoon(site))).elements}
    for name in HOSTILE:
        words = name.encode("utf-8", "replace").decode()  # as SQLite can keep it
        given = {"name": words, "last_error": words}
        for state, more in (
            (State.READY, {}),
            (State.LOST, {"reason": "expired"}),
            (State.PARKED, {"reason": f"rule:{words}"}),
        ):
            site.add("hq", state, made_us=100 * MINUTE, attempts=2, **given, **more)
        site.keep("hq", made_us=HOUR, took_us=MINUTE, name=words)
        site.read("hq", ago_us=SECOND, problem=words)
        site.target("nas", problem=words)
        async with site.served() as url, aiohttp.ClientSession() as client:
            async with client.get(url) as answer:
                html = await answer.text()
        seen = Seen(html)

        assert {tag for tag, _ in seen.elements} <= before, name
        for _, attrs in seen.elements:
            assert not any(key.startswith("on") for key in attrs), name
        assert "alert(1)" in seen.text or "script" not in name
        assert not UNSEEN.search(html)
        assert len(html) < 400_000, "cut, however long"


@pytest.mark.parametrize(
    "created",
    ["0001-01-01T00:00:00.000Z", "9999-12-31T23:59:59.999Z", None],
)
async def test_any_date_of_a_vms_is_shown(site, created):
    """Also those that no time zone can shift."""
    moment = None if created is None else to_us(datetime.fromisoformat(created))
    given = {"created_at": created, "created_us": moment, "deadline_us": moment}
    site.keep("hq", made_us=HOUR, took_us=MINUTE, name="old or new", **given)
    site.add("hq", State.READY, made_us=HOUR, **given)
    site.add("hq", State.LOST, made_us=HOUR, reason="expired", **given)
    for zone in ("America/Lima", "Asia/Tokyo"):
        site.settings = site.settings.model_copy(update={"timezone": ZoneInfo(zone)})

        assert "old or new" in (await page_of(site)).text


async def test_no_address_of_a_file_is_told(site):
    """A url is a capability; the page and the JSON show none."""
    afternoon(site)
    async with site.served() as url, aiohttp.ClientSession() as client:
        for path in ("", "status.json"):
            async with client.get(url + path) as answer:
                text = await answer.text()

            assert "secret-capability" not in text
            assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", text)


async def test_headers_let_nothing_in_or_out(site):
    """No script, no asset, no frame, no guess at the type, no copy kept."""
    async with site.served() as url, aiohttp.ClientSession() as client:
        for path, kind in (("", "text/html"), ("status.json", "application/json")):
            async with client.get(url + path) as answer:
                assert answer.content_type == kind
                assert answer.charset == "utf-8"
                assert answer.headers["X-Content-Type-Options"] == "nosniff"
                assert answer.headers["Cache-Control"] == "no-store"
                assert answer.headers["Referrer-Policy"] == "no-referrer"
                policy = answer.headers["Content-Security-Policy"]
                assert policy.startswith("default-src 'none'; style-src 'sha256-")
                assert "frame-ancestors 'none'" in policy
                assert "unsafe" not in policy
                assert "script-src" not in policy


@pytest.mark.parametrize("path", ["/", "/status.json"])
async def test_methods(site, path):
    """HEAD is GET without the body; all else is refused."""
    async with serving(_told(site)) as client:
        async with client.get(path) as got, client.head(path) as head:
            assert (got.status, head.status) == (200, 200)
            assert head.content_type == got.content_type
            assert await head.read() == b""
        for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS"):
            async with client.request(method, path) as refused:
                assert refused.status == 405


@pytest.mark.parametrize(
    ("pages", "served"),
    [
        (("status",), {"/", "/status.json"}),
        (("health",), {"/healthz", "/readyz"}),
        (("metrics",), {"/metrics"}),
    ],
)
async def test_only_what_is_asked_for_is_served(site, pages, served):
    """404 for the rest, as if there were none."""
    paths = ("/", "/status.json", "/metrics", "/healthz", "/readyz", "/favicon.ico")
    async with serving(_told(site), pages=pages) as client:
        found = set()
        for path in paths:
            async with client.get(path) as answer:
                assert answer.status in {200, 404}
                if answer.status == 200:
                    found.add(path)

    assert found == served


async def test_many_readers_cost_one_look(site):
    """Both forms share one answer, of one moment."""
    looks = []

    async def status():
        looks.append(1)
        await asyncio.sleep(0.05)
        return site.status()

    async def get(client, path):
        async with client.get(path) as answer:
            return answer.status

    async with serving(status) as client:
        found = await asyncio.gather(
            *(get(client, path) for path in ("/", "/status.json") * 10)
        )

    assert found == [200] * 20
    assert len(looks) == 1


async def test_a_ledger_that_fails_or_hangs_is_told(monkeypatch):
    """503 with a page that says so and tries again; the loop goes on."""
    monkeypatch.setattr(http, "REFRESH_S", 0.2)

    async def fails():
        raise LedgerError("damaged")

    async def hangs():
        await asyncio.Event().wait()

    for status in (fails, hangs):
        async with serving(status) as client:
            async with client.get("/") as answer:
                assert answer.status == 503
                text = await answer.text()
                assert "The status cannot be told" in text
                assert 'http-equiv="refresh"' in text
            async with client.get("/status.json") as answer:
                assert answer.status == 503
            async with client.get("/healthz") as answer:
                assert answer.status == 200


def test_its_cost_does_not_grow_with_the_ledger(site):
    """Each question goes by an index and reads few rows."""
    seen: list[str] = []
    connection = site.ledger._db.connection
    connection.set_trace_callback(seen.append)
    overview.read(site.ledger, site.settings, now_us=site.now_us, token_expiry_s={})
    connection.set_trace_callback(None)

    questions = [one for one in seen if one.startswith("SELECT")]
    scans = [
        question
        for question in questions
        for row in connection.execute(f"EXPLAIN QUERY PLAN {question}")
        if re.match(r"SCAN (exports|copies)\b", row[3])
        and not re.search(rf"INDEX ({SHORT})\b", row[3])
    ]

    assert len(questions) > 8
    assert scans == []


def test_rows_that_are_left_out_are_told(site):
    """On the page, in the JSON, and to Prometheus."""
    assert site.status()["concerns"] == []
    with site.ledger._db.transaction() as connection:
        connection.execute("UPDATE sources SET left_out = 12345 WHERE name = 'hq'")
    status = site.status()
    (concern,) = status["concerns"]
    taken = metrics_snapshot.take(site.ledger, site.now_us)

    assert concern["text"].startswith("12345 rows of source hq without a file")
    assert {one["name"]: one["left_out"] for one in status["sources"]} == {
        "hq": 12345,
        "harbour": 0,
        "depot": 0,
    }
    assert taken.left_out["hq"] == 12345
    shown = status_page.render(status, site.settings.timezone)
    assert "12\N{NARROW NO-BREAK SPACE}345 rows without a file" in shown


def _told(site):
    async def status():
        return site.status()

    return status


@pytest.fixture
async def vms():
    async with Vms() as served:
        yield served


async def test_the_service_serves_what_status_says(tmp_path, vms):
    """`/status.json` has each key of `status --json` with the same value."""
    site = Site.make(tmp_path, vms, poll_interval="1h", sweep_interval="1h")
    site.tables["transfer"]["retry_max"] = "1h"
    site.tables["http"]["listen"] = f"127.0.0.1:{free_port()}"
    kept, parked = vms.add(size=300_000), vms.add(size=300_000)
    parked.url = "http://127.0.0.2:9/x.mp4"
    base = f"http://{site.tables['http']['listen']}/"
    async with site.service(), aiohttp.ClientSession(base) as client:
        await site.until_state(kept, State.SAVED)
        await site.until_state(parked, State.PARKED)
        before: dict[str, object] = {}
        served: dict[str, Any] = {}
        for _ in range(50):
            ran = await run_beside("status", "--json", *on(site))
            before = json.loads(ran.out)
            async with client.get("status.json") as answer:
                served = await answer.json()
            if before == {key: served[key] for key in before}:
                break
            await asyncio.sleep(0.3)
        async with client.get("") as answer:
            html = await answer.text()

    assert {key: served[key] for key in before} == before
    assert served["headline"]["level"] == "look"
    assert {one["id"]: one["state"] for one in served["recent"]} == {
        kept.export_id: "saved",
        parked.export_id: "parked",
    }
    seen = Seen(html)
    assert "origin_refused" in seen.text
    assert vms.token not in html + json.dumps(served)
    assert "127.0.0.2:9/x.mp4" not in html + json.dumps(served)


async def test_a_real_browser_shows_all_of_it(tmp_path, vms):
    """The running service's page: no complaint, no other request, no script needed."""
    site = Site.make(tmp_path, vms)
    site.tables["http"]["listen"] = f"127.0.0.1:{free_port()}"
    kept = vms.add(size=300_000, name="<script>alert(1)</script> \u05d0 North gate")
    cut = vms.add(size=300_000, faults=[Fault(kind=Kind.STATUS, status=500)] * 3)
    url = f"http://{site.tables['http']['listen']}/"
    async with site.service(), Browser.started() as browser:
        await site.until_state(kept, State.SAVED)
        await site.until_state(cut, State.SAVED)
        for scripted in (True, False):
            if not scripted:
                await browser.no_script()
            for width, phone in ((1280, False), (360, True)):
                for scheme in ("light", "dark"):
                    await browser.size(width, 800, phone=phone)
                    await browser.scheme(scheme)
                    await browser.open(url)

                    assert browser.complaints == []
                    assert [one for one in browser.requests if one[:5] != "data:"] == [
                        url
                    ]
                    assert (await browser.screenshot())[:4] == b"\x89PNG"
        shown = await browser.evaluate("document.body.innerText")

    assert "All is well" in shown
    assert "<script>alert(1)</script>" in shown
    assert "Time left when a file was safe here" in shown


async def test_the_browser_notices_what_it_should(site, monkeypatch):
    """The control of the test above: what is planted is complained of, not loaded."""
    plant = '<p style="color:red">x</p><img src="/x.png"><script>x()</script>'
    honest = status_page.render
    monkeypatch.setattr(status_page, "render", lambda *given: honest(*given) + plant)
    async with site.served() as url, Browser.started() as browser:
        await browser.open(url)

        told = " ".join(browser.complaints)
    for kind in ("style-src", "img-src", "script-src"):
        assert kind in told
