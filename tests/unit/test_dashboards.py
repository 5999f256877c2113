"""The dashboards as they are drawn: each panel has its place, each figure a panel."""

from __future__ import annotations

import itertools
import json

import pytest

from tests.prometheus import DEPLOY

BOARDS = {
    path.stem: json.loads(path.read_text("utf-8"))
    for path in sorted(DEPLOY.glob("grafana/dashboards/*.json"))
}


@pytest.mark.parametrize("name", BOARDS)
def test_no_panel_lies_on_another(name):
    """Nor beside the grid, nor under a number that another has."""
    panels = BOARDS[name]["panels"]
    numbers = [panel["id"] for panel in panels]
    cells = [
        cell
        for panel in panels
        for place in [panel["gridPos"]]
        for cell in itertools.product(
            range(place["x"], place["x"] + place["w"]),
            range(place["y"], place["y"] + place["h"]),
        )
    ]

    assert len(set(numbers)) == len(numbers)
    assert len(set(cells)) == len(cells)
    assert max(x for x, _ in cells) == 23


def test_what_finds_no_room_is_drawn():
    """Beside the spool, whose alert asks for it."""
    drawn = {
        query["expr"]: panel["title"]
        for panel in BOARDS["depth"]["panels"]
        for query in panel.get("targets", ())
    }

    expr = 'archive_mirror_exports_without_room{instance=~"$instance"}'
    assert drawn[expr] == "Files without room"


@pytest.mark.parametrize("name", BOARDS)
def test_each_panel_says_what_it_shows(name):
    """In its own words: nobody on call knows them all."""
    bare = [
        panel["title"]
        for panel in BOARDS[name]["panels"]
        if panel["type"] != "row" and len(panel.get("description", "")) < 20
    ]

    assert bare == []
