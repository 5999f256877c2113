"""`show` and `retry`, and how they name exports."""

from __future__ import annotations

import re

import pytest

from mirror.simulator import Vms
from tests.afternoon import HOUR, MINUTE, HandmadeSite
from tests.command import KEYS, on, run, run_beside
from tests.site import Site


def test_show_one_export(filled_site):
    """All that is known; the url, a capability, is not."""
    ran = run(*on(filled_site), "show", "hq/9", "--json")

    (one,) = ran.lines
    assert ran.code == 0
    assert set(KEYS) < set(one)
    assert (one["state"], one["reason"]) == ("parked", "origin_refused")
    assert one["history"] and one["history"][0]["error"]
    assert one["item"]["name"] == "Roof.mp4" and "url" not in one["item"]
    plain = run(*on(filled_site), "show", "hq/9")
    assert plain.code == 0 and "file_origins" in plain.out
    assert "/storage/" not in plain.out + ran.out


def test_show_begins_with_a_verdict_and_fits_the_terminal(filled_site):
    """In words, with what to do; the whole SHA-256 has room."""
    parked, saved = (
        run(*on(filled_site), "show", name, COLUMNS="80").out.splitlines()
        for name in ("hq/9", "annex/7")
    )

    assert parked[0].startswith(
        "parked: its file could not be fetched so far; deadline "
    )
    assert saved[0] == "saved: its file is kept, on nas."
    assert max(map(len, parked + saved)) <= 80
    assert any(re.fullmatch("sha256 +[0-9a-f]{64}", line) for line in saved)
    assert any(re.search(r"^created_at .*Z \(\d+ d .*ago\)$", one) for one in saved)


def test_a_text_that_only_looks_like_a_moment_is_shown_as_it_is(tmp_path):
    """A name from the VMS can be anything."""
    with HandmadeSite.open(tmp_path) as site:
        name = "2026-99-99T00:00:00Z"
        number = site.keep("hq", made_us=HOUR, took_us=MINUTE, name=name)
    config = tmp_path / "archive-mirror.toml"

    shown = run("show", f"hq/{number}", "-c", config)

    assert re.search(rf"^name +{name}$", shown.out, re.MULTILINE), shown


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("hq/999", "hq/999"),
        ("nosuch/7", "nosuch/7 is known; its source is none of those known: annex, hq"),
        ("hq/7@2001-01-01T00:00:00Z", "@2001"),
    ],
)
def test_an_export_that_is_not_known_is_1(filled_site, name, told):
    """The text is on stderr."""
    ran = run(*on(filled_site), "show", name)

    assert (ran.code, ran.out) == (1, "")
    assert told in ran.err


@pytest.mark.parametrize("command", ["show", "retry"])
@pytest.mark.parametrize("name", ["hq/seven", "hq/", "hq/-7", "hq/\u0667", ""])
def test_a_name_that_is_none_is_2(filled_site, command, name):
    """It is wrong usage; the text says the form."""
    ran = run(*on(filled_site), command, name)

    assert (ran.code, ran.out) == (2, "")
    assert "SOURCE/ID" in ran.err


def test_a_bare_id_will_do_if_one_source_has_it(filled_site):
    """Else the choices are named, and it is 1."""
    assert run(*on(filled_site), "show", "21", "--json").lines[0]["source"] == "annex"
    for command in ("show", "retry"):
        ran = run(*on(filled_site), command, "7")
        assert (ran.code, ran.out) == (1, "")
        assert "annex/7" in ran.err and "hq/7" in ran.err


def test_an_id_counted_anew(filled_site):
    """SOURCE/ID is the newest; with @CREATED_AT it is the one created then."""
    newest = run(*on(filled_site), "show", "hq/10", "--json").lines[0]
    assert newest["name"] == "New.mp4"
    listed = run(*on(filled_site), "list", "--json", "--name", "Old.mp4").lines[0]
    named = f"hq/10@{listed['created_at']}"

    assert run(*on(filled_site), "show", named, "--json").lines[0]["name"] == "Old.mp4"
    bare_id = f"10@{listed['created_at']}"
    assert (
        run(*on(filled_site), "show", bare_id, "--json").lines[0]["name"] == "Old.mp4"
    )


async def test_retry_makes_exports_due(tmp_path):
    """By name, or all in a state; what is saved needs nothing."""
    async with Vms() as vms:
        site = Site.make(tmp_path, vms)
        parked = [vms.add(then="redirect_other") for _ in range(3)]
        saved = vms.add()
        await site.once()
        assert {site.export(one).state for one in parked} == {"parked"}
        one = await run_beside(*on(site), "retry", f"hq/{parked[0].export_id}")
        assert (one.code, one.err) == (0, "") and "1 of 1" in one.out
        assert "others" not in one.out
        known = await run_beside(*on(site), "show", f"hq/{saved.export_id}")
        assert "acknowledged_at" not in known.out
        assert site.export(parked[0]).state == "ready"
        rest = await run_beside(*on(site), "retry", "--state", "parked")
        assert rest.code == 0 and "2 of 2" in rest.out
        assert {site.export(each).state for each in parked} == {"ready"}
        kept = await run_beside(*on(site), "retry", str(saved.export_id))
        assert kept.code == 0 and "0 of 1" in kept.out and "are kept" in kept.out
        unknown = await run_beside(
            *on(site), "retry", f"hq/{saved.export_id}", "hq/99999"
        )
        assert (unknown.code, unknown.out) == (1, "") and "99999" in unknown.err
        for each in parked:
            vms.script(each)
        assert (await run_beside(*on(site), "once")).code == 0
        assert {site.export(each).state for each in parked} == {"saved"}
