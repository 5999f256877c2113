"""`status`: counts, problems, what is no longer configured."""

from __future__ import annotations

import re

from mirror.simulator import Vms
from tests.command import on, run, run_beside
from tests.site import Site


def test_what_is_no_longer_configured_is_marked(filled_site):
    """It is still in the ledger, and nothing is wrong with it."""
    before = run("status", *on(filled_site)).out
    filled_site.tables["targets"]["other"] = filled_site.tables["targets"].pop("nas")
    filled_site.settings()
    try:
        out = run("status", *on(filled_site)).out
    finally:
        filled_site.tables["targets"]["nas"] = filled_site.tables["targets"].pop(
            "other"
        )
        filled_site.settings()

    assert "no longer configured" not in before
    (marked,) = (line for line in out.splitlines() if "no longer configured" in line)
    assert marked.split()[0] == "nas"


def test_status_counts_what_list_shows(filled_site):
    """As JSON on one line, and in words."""
    ran = run(*on(filled_site), "status", "--json")
    listed = run(*on(filled_site), "list", "--json").lines
    (shown,) = ran.lines

    assert (ran.code, ran.err) == (0, "")
    for state, number in shown["exports"].items():
        assert number == sum(line["state"] == state for line in listed)
    assert sum(shown["exports"].values()) == len(listed)
    assert {source["name"] for source in shown["sources"]} == {"annex", "hq"}
    assert [target["name"] for target in shown["targets"]] == ["nas"]
    assert shown["owed"] == 1
    words = run(*on(filled_site), "status")
    assert words.code == 0 and "parked 1" in words.out and "nas" in words.out


async def test_status_says_once_whose_problem_it_is_and_since_when_it_is_known(
    tmp_path,
):
    """Who mends a mount sees that the target was not looked at since."""
    async with Vms() as vms:
        site = Site.make(tmp_path, vms)
        path = tmp_path / "away" / "deeper"
        site.tables["targets"]["nas"]["path"] = str(path)
        vms.add()
        site.settings()
        assert (await run_beside(*on(site), "once")).code == 3
        shown = await run_beside(*on(site), "status")

    assert f" - Target nas cannot be used: {path} is missing: " in shown.out
    seen = re.compile(r"^nas +cannot be used .* (now|\d+ s ago)$", re.MULTILINE)
    assert seen.search(shown.out)
