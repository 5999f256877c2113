"""What `probe` learns of a VMS, and what it never does."""

from __future__ import annotations

import tomllib
from datetime import timedelta

import pytest

from mirror import config
from mirror.app import probe
from mirror.app.probe import asker
from mirror.simulator import Behaviour, Etag, Fault, Kind, Vms, lists
from mirror.simulator.responder import LIST_PATHS
from tests.command import run_beside
from tests.site import Site


async def asked(site: Site) -> tuple[probe.Report, dict[str, str], dict[str, object]]:
    """Return the report, its words by topic, and its keys."""
    report = await probe.probe(
        site.settings(),
        "hq",
        secret=lambda _: None,
    )
    words = {one.topic: one.text for one in report.facts}
    return report, words, {one.key: one.value for one in report.suggestions}


async def test_a_vms_of_good_manners_leaves_nothing_open_but_the_token(tmp_path):
    """Each question of the fact sheet has its answer."""
    async with Vms(behaviour=Behaviour(max_per_page=40)) as vms:
        for _ in range(60):
            vms.add(size=300_000)
        vms.advance()
        report, words, keys = await asked(Site.make(tmp_path, vms))
        methods = {request.method for request in vms.requests}
        sent = vms.journal.counters["file"]

    assert report.answers and report.complete and report.requests < 25
    assert [one.topic for one in report.facts if not one.known] == ["token"]
    assert keys == {
        "list_path": "/api/v1/downloads",
        "date_format": "%Y-%m-%dT%H:%M:%SZ",
        "per_page": 40,
    }
    assert words["date format"].startswith("heeds %Y-%m-%dT%H:%M:%SZ, ")
    assert words["date format"].endswith("refuses %Y-%m-%d")
    assert "1000 is cut to 40" in words["per_page"]
    assert "by 1 user; of the last 40 rows 0 never" in words["whose"]
    assert "strong" in words["validators"] and "begins as an mp4" in words["file"]
    assert "resumes rightly" in words["Range"]
    assert "sends the whole" in words["Range"]
    assert words["missing file"].startswith("404")
    assert methods == {"GET"} and sent <= 6


@pytest.mark.parametrize(
    ("behaviour", "topic", "told"),
    [
        (Behaviour(etag=Etag.WEAK), "validators", "weak"),
        (Behaviour(etag=Etag.NONE, last_modified=False), "validators", "starts over"),
        (Behaviour(gone_status=410), "missing file", "410"),
        (Behaviour(gone_status=500), "missing file", "not understood as gone"),
        (Behaviour(bare_dates=True), "date format", "%S+00:00, %Y-%m-%d"),
        (Behaviour(clock_skew=timedelta(minutes=3)), "clock", "+1"),
        (Behaviour(relative_urls=True), "url", "file relative, with file"),
        (Behaviour(folder_urls=True), "file", "under folder + name"),
        (Behaviour(gzip_lists=True), "compression of lists", "gzip"),
        (Behaviour(serve_files=False), "file", "404"),
        (Behaviour(files_need_token=True), "file", "no token"),
    ],
)
async def test_each_habit_is_seen(tmp_path, behaviour, topic, told):
    async with Vms(behaviour=behaviour) as vms:
        vms.add(size=300_000)
        _, words, keys = await asked(Site.make(tmp_path, vms))

    assert told in words[topic]
    assert ("folder_url" in keys) == behaviour.folder_urls
    assert ("send_token_to_files" in keys) == behaviour.files_need_token


async def test_the_other_path_and_the_other_dates_are_found(tmp_path, monkeypatch):
    """Though the configured ones are refused."""
    async with Vms() as vms:
        monkeypatch.setattr(
            "mirror.simulator.responder.LIST_PATHS", LIST_PATHS - {"/api/v1/downloads"}
        )
        vms.add(size=300_000)
        site = Site.make(tmp_path, vms, date_format="%Y/%m/%d %H:%M:%S")
        report, words, keys = await asked(site)

    assert report.answers
    assert keys["list_path"] == "/api/v1/users/downloads"
    assert keys["date_format"] == "%Y-%m-%dT%H:%M:%SZ"
    assert (
        "404" in words["list path"]
        and "refuses %Y/%m/%d %H:%M:%S" in words["date format"]
    )


async def test_dates_that_are_taken_and_not_heeded_are_told(tmp_path, monkeypatch):
    async with Vms() as vms:
        vms.add(size=300_000)
        monkeypatch.setattr(vms, "select", lambda *_: vms.exports)
        _, words, _ = await asked(Site.make(tmp_path, vms))

    assert words["date format"].startswith("takes and ignores %Y-%m-%dT%H:%M:%SZ")


async def test_dates_without_a_time_are_no_suggestion(tmp_path, monkeypatch):
    """No key can hold them."""
    async with Vms(behaviour=Behaviour(bare_dates=True)) as vms:
        monkeypatch.setattr(lists, "MOMENT", lists.BARE_DATE)
        vms.add(size=300_000)
        report, words, keys = await asked(Site.make(tmp_path, vms))

    assert report.answers and "date_format" not in keys
    assert "report it" in words["date_format"]


async def test_no_credentials_go_to_another_origin(tmp_path):
    """Neither for a url listed there, nor by a redirect; it is told instead."""
    async with Vms() as vms:
        path = vms.file_path(vms.add(size=300_000))
        other = vms.add(size=300_000)
        other.url = vms.other_url + path
        site = Site.make(tmp_path, vms, send_token_to_files=True)
        _, refused, keys = await asked(site)
        site.tables["sources"]["hq"]["file_origins"] = [vms.other_url]
        _, words, _ = await asked(site)
        vms.add(size=300_000, then="redirect_other")
        _, redirected, _ = await asked(site)
        at_home = [one for one in vms.requests if one.host in vms.url]
        strange = [one for one in vms.requests if one.host not in vms.url]

    assert keys["file_origins"] == [vms.other_url]
    assert keys["rewrite_origins"] == {vms.other_url: vms.url}
    assert "1 file elsewhere" in refused["url"]
    assert "begins as an mp4" in words["file"]
    assert "begins as an mp4" in redirected["file"]
    assert all(one.authorized for one in at_home) and strange
    for request in strange:
        assert not request.authorized
        assert "X-UUID" not in request.headers


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("status_401", "the token"),
        ("status_500", "500"),
        ("html", "HTML"),
        ("reset", "closed"),
    ],
)
async def test_without_a_list_it_says_what_to_do(tmp_path, fault, words):
    """And does not guess: no key is told."""
    async with Vms() as vms:
        vms.add(size=300_000)
        vms.script_list(then=fault)
        report, told, keys = await asked(Site.make(tmp_path, vms))

    assert not report.answers and keys == {}
    assert words in told["list"] and "probe again" in told["all else"]


async def test_an_empty_list_tells_what_it_can(tmp_path):
    async with Vms() as vms:
        report, words, keys = await asked(Site.make(tmp_path, vms))

    assert report.answers and set(keys) == {"list_path", "date_format", "per_page"}
    assert "cannot tell" in words["date format"]
    assert "ask for an export" in words["rows"]
    assert "ask for an export" in words["file"]
    assert words["missing file"].startswith("404")


@pytest.mark.parametrize(
    ("pause_s", "told", "requests"), [(3600, "pause of 1 h", 3), (0, "3 times", 5)]
)
async def test_a_busy_vms_is_left_in_peace(tmp_path, pause_s, told, requests):
    """After the pause it asks for, or at once for good; what was learnt is told."""
    async with Vms() as vms:
        vms.add(size=300_000)
        busy = Fault(kind=Kind.STATUS, status=429, retry_after_s=pause_s)
        vms.script_list(None, None, then=busy)
        report, words, _ = await asked(Site.make(tmp_path, vms))

    assert report.answers and not report.complete
    assert told in words["the rest"]
    assert report.requests == requests


async def test_a_short_pause_is_waited_for(tmp_path):
    async with Vms() as vms:
        vms.add(size=300_000)
        vms.script_list(Fault(kind=Kind.STATUS, status=503, retry_after_s=1))
        report, _, _ = await asked(Site.make(tmp_path, vms))
        first, second = vms.requests[:2]

    assert report.answers and report.complete
    assert (second.at - first.at).total_seconds() >= 1


async def test_there_is_an_end_of_requests(tmp_path, monkeypatch):
    async with Vms() as vms:
        monkeypatch.setattr(asker, "MOST_REQUESTS", 3)
        vms.add(size=300_000)
        report, words, _ = await asked(Site.make(tmp_path, vms))
        made = len(vms.requests)

    assert made == report.requests == 3
    assert not report.complete and "3 requests" in words["the rest"]


async def test_the_printed_keys_are_a_configuration(tmp_path):
    """Pasted, they load; the words are for people, secrets are not among them."""
    async with Vms(behaviour=Behaviour(max_per_page=40)) as vms:
        for _ in range(50):
            vms.add(size=300_000)
        site = Site.make(tmp_path, vms)
        site.settings()
        ran = await run_beside(
            "-c", str(tmp_path / "archive-mirror.toml"), "probe", "hq"
        )
        path = tmp_path / "token"
        path.write_text("another-token-0123456789")
        failed = await run_beside(
            "-c", str(tmp_path / "archive-mirror.toml"), "probe", "hq"
        )
        unknown = await run_beside(
            "-c", str(tmp_path / "archive-mirror.toml"), "probe", "hp"
        )

    pasted = tomllib.loads(ran.out[ran.out.index("# These keys") :])
    site.tables["sources"]["hq"] |= pasted["sources"]["hq"]
    assert ran.code == 0
    assert site.settings().sources["hq"].per_page == 40
    assert failed.code == 1 and "401" in failed.out and "[sources" not in failed.out
    assert unknown.code == 2 and "hq" in unknown.err
    assert vms.token not in ran.out + ran.err
    assert "another-token" not in failed.out + failed.err
    assert isinstance(config.load(tmp_path / "archive-mirror.toml", {}), object)
