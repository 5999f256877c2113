"""The provenance record: enough to rebuild the ledger, and nothing secret."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest

from mirror import sidecar
from mirror.model import State, iso
from mirror.ports import MAX_SIDECAR_BYTES
from tests import builders
from tests.builders import HOUR, NOW

SECRET_URL = "https://bob:pw@vms.example:8443/storage/SECRETPATH/1.mp4?token=SECRETQ#F"
USER = {"id": 5, "name": "SECRETNAME", "email": "SECRET@MAIL", "token": "SECRETTOK"}
ITEM = {"id": 7, "name": "Gate.mp4", "url": SECRET_URL, "user": USER, "custom": [1]}


def spooled(**given: Any):
    """Return an export whose file is whole in the spool."""
    values = {
        "state": State.SPOOLED,
        "url": SECRET_URL,
        "footage_from": "2026-09-21T12:00:00Z",
        "footage_to": "2026-09-21T12:30:00Z",
        "size_bytes": 1234,
        "sha256": "ab" * 32,
        "part_etag": '"e1"',
        "part_modified": "Mon, 21 Sep 2026 13:00:00 GMT",
        "started_us": NOW - 2000,
        "spooled_us": NOW - 1000,
        "attempts": 3,
    }
    return builders.export(**(values | given))


def raw_record(item: bytes, **given: Any) -> bytes:
    """Return the bytes of a record."""
    return sidecar.record(
        spooled(**given),
        item=item,
        source_url="https://vms.example:8443",
        node_id="n0de",
        target="nas",
        path="a/b.mp4",
    )


def record(item: bytes, **given: Any) -> dict[str, Any]:
    """Return a record as its reader sees it."""
    read: dict[str, Any] = json.loads(raw_record(item, **given))
    return read


def packed(item: object) -> bytes:
    """Return an item as the VMS sends it."""
    return json.dumps(item).encode()


def test_nothing_secret_of_the_item_is_in_the_record():
    """No path, query or user info of the url, nothing of the user but the id."""
    written = raw_record(packed(ITEM)).decode()

    for secret in ("SECRET", "storage", "bob", "pw@", "#F"):
        assert secret not in written


def test_the_url_is_cut_to_its_origin_and_told_by_its_digest():
    """The origin with its port is kept, and the SHA-256 of the whole url."""
    item = record(packed(ITEM))["item"]

    assert item["url"] == "https://vms.example:8443"
    assert item["url_sha256"] == hashlib.sha256(SECRET_URL.encode()).hexdigest()
    assert item["user"] == {"id": 5}


HIDING = {"key": "SECRET"}


@pytest.mark.parametrize(
    "planted",
    [
        {"attributes": [HIDING]},
        {"access_token": "SECRET"},
        {"status": "SECRET"},
        {"URL": "https://vms.example/SECRET"},
        {"stream": {"camera_id": 1, "url": "rtsp://u:SECRET@h/", "ip": "SECRET"}},
        {"stream": {"camera_id": HIDING, "type": ["SECRET"]}},
        {"stream": "SECRET"},
        {"user": USER, "user_id": HIDING},
        {"user": "SECRET", "user_id": "SECRET@MAIL"},
        *({name: HIDING} for name in ("name", "from", "to", "created_at", "id")),
        *({name: ["SECRET"]} for name in ("updated_at", "is_file_exists", "url")),
    ],
)
def test_what_we_do_not_know_of_an_item_is_left_out(planted):
    """Whatever a VMS puts into the list besides; the digest covers all it sent."""
    raw = packed({"id": 7, "name": "ä.mp4", "später": "SECRET"} | planted)
    written = raw_record(raw)

    assert b"SECRET" not in written
    assert b"SECRET" not in sidecar.moved(
        sidecar._dump(json.loads(written) | {"item": json.loads(raw)}),
        target="b",
        path="c.mp4",
    )
    assert json.loads(written)["item_sha256"] == hashlib.sha256(raw).hexdigest()


def test_what_we_know_of_an_item_is_kept():
    """With its stream cut to the camera and the type."""
    known = {
        "id": 7,
        "name": "ä.mp4",
        "from": "f",
        "to": "t",
        "user_id": 5,
        "created_at": "c",
        "updated_at": "u",
        "is_file_exists": True,
        "stream": {"camera_id": 1, "type": "high"},
    }

    assert record(packed(known))["item"] == known


@pytest.mark.parametrize("char", ["\x00", "\ud800", "ä", "\U0001f600"])
def test_no_record_is_longer_than_what_is_read(char):
    """Whatever texts a VMS sends; the item gives way, and the rest is there."""
    long = char * 8192
    texts = ("name", "from", "to", "created_at", "updated_at", "is_file_exists")
    item = dict.fromkeys(texts, long) | {"stream": {"type": long}, "user_id": long}
    written = raw_record(
        packed(item),
        name=long,
        stream_type=long,
        created_key=long,
        part_etag=long,
        part_modified=long,
    )

    assert len(written) <= MAX_SIDECAR_BYTES
    assert json.loads(written)["name"] == long


def test_the_record_is_enough_to_rebuild_the_ledger():
    """Identity, size, digest, times and where it lies are at the top level."""
    export = spooled()
    written = record(packed(ITEM))

    for name in (
        *("source", "created_at", "created_key", "size_bytes", "sha256", "name"),
        *("camera_id", "stream_type", "footage_from", "footage_to", "attempts"),
    ):
        assert written[name] == getattr(export, name), name
    assert written["format"] == 1
    assert written["id"] == export.export_id
    assert written["first_seen"] == iso(export.first_seen_us)
    assert written["deadline"] == iso(NOW + 3 * HOUR)
    assert written["fetch_started"] == iso(NOW - 2000)
    assert written["fetched"] == iso(NOW - 1000)
    assert written["etag"] == '"e1"'
    assert written["last_modified"] == "Mon, 21 Sep 2026 13:00:00 GMT"
    assert (written["target"], written["path"]) == ("nas", "a/b.mp4")
    assert (written["node"], written["source_url"]) == (
        "n0de",
        "https://vms.example:8443",
    )


@pytest.mark.parametrize(
    "raw",
    [b"", b"not json", b"[1, 2]", b'"text"', b"null", b"7", b"\xff\xfe", b'{"a": '],
)
def test_an_item_that_is_no_object_is_left_out(raw):
    """The record is written all the same, with the digest of what came."""
    written = record(raw)

    assert written["item"] is None
    assert written["item_sha256"] == hashlib.sha256(raw).hexdigest()


@pytest.mark.parametrize("depth", [50, 300, 450, 800, 950, 990, 5000, 100_000])
@pytest.mark.parametrize(("opening", "end"), [("[", "]"), ('{"a":', "}")])
def test_an_item_nested_deeply_does_not_stop_the_record(depth, opening, end):
    """However deep, there is a record; the item may be left out of it."""
    raw = b'{"id": 7, "x": ' + (opening * depth + "1" + end * depth).encode() + b"}"

    assert record(raw)["id"] == 7


@pytest.mark.parametrize(
    "user",
    [
        "SECRET",
        ["SECRET"],
        [{"id": 5, "name": "SECRET"}],
        {"id": {"name": "SECRET"}},
        {"id": ["SECRET"]},
        {"id": "SECRET@MAIL"},
        {"name": "SECRET", "nested": {"id": 5}},
    ],
)
def test_a_user_of_any_shape_gives_its_id_or_nothing(user):
    """Only a number can be the id; all else of a user is personal."""
    assert "SECRET" not in raw_record(packed({"id": 7, "user": user})).decode()


@pytest.mark.parametrize(
    "url",
    [
        "SECRET/1.mp4",
        "/SECRET",
        "https:///SECRET",
        "//vms.example/SECRET",
        "https://vms.example:SECRET/x",
        "https://[SECRET/x",
        "  https://vms.example/SECRET ",
        "https://SECRET@vms.example",
        "HTTPS://vms.example/SECRET?SECRET",
        ["https://vms.example/SECRET"],
        {"href": "https://vms.example/SECRET"},
    ],
)
def test_a_url_of_any_shape_gives_its_origin_or_nothing(url):
    """A url that cannot be cut is left out, whatever its JSON type."""
    assert "SECRET" not in raw_record(packed({"id": 7, "url": url})).decode()


def test_the_last_of_a_repeated_key_is_cut_too():
    """A key given twice hides nothing."""
    raw = b'{"url": "https://a.example/SECRET1", "url": "https://b.example/SECRET2"}'

    assert b"SECRET" not in raw_record(raw)


@pytest.mark.parametrize(
    ("url", "origin"),
    [
        ("http://vms.example/a", "http://vms.example"),
        ("https://VMS.example:443/a", "https://vms.example:443"),
        ("https://[2001:db8::1]:8443/a?b", "https://[2001:db8::1]:8443"),
        ("https://vms.example", "https://vms.example"),
    ],
)
def test_the_origin_of_a_url(url, origin):
    """Scheme, host and port; IPv6 keeps its brackets."""
    assert record(packed({"url": url}))["item"]["url"] == origin


def test_a_lone_surrogate_does_not_stop_the_record():
    """Text that is no Unicode is written escaped and read back the same."""
    written = record(b'{"name": "\\ud800x"}', name="\ud800x")

    assert (written["name"], written["item"]["name"]) == ("\ud800x", "\ud800x")


def test_missing_values_are_null():
    """Unreadable dates and absent validators are null, not left out."""
    written = record(
        b"{}", created_at=None, created_us=None, deadline_us=None, part_etag=None
    )

    assert written["created_at"] is None
    assert written["deadline"] is None
    assert written["etag"] is None
