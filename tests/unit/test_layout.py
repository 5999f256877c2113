"""Paths on a target: what a template gives, and what no value can do to it."""

from __future__ import annotations

import re
import string
import unicodedata
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import PurePosixPath, PureWindowsPath
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pathvalidate import sanitize_filename

from mirror.errors import LayoutError
from mirror.layout import (
    PLAIN,
    Values,
    is_numbered,
    parse_layout,
    path_key,
    with_number,
)

DEFAULT = "{source}/camera-{camera_id}/{from:%Y/%m/%d}/{id}-{name}"
VALUES = Values(
    source="hq",
    export_id=6414,
    name="North gate",
    camera_id=317,
    camera_name="Gate",
    stream_type="main",
    footage_from=datetime(2026, 10, 24, 23, 30, tzinfo=UTC),
    footage_to=datetime(2026, 10, 25, 1, 30, tzinfo=UTC),
    created_at=datetime(2026, 10, 26, 9, 5, 7, tzinfo=UTC),
)
NOTHING = Values(
    source="hq",
    export_id=1,
    name=None,
    camera_id=None,
    camera_name=None,
    stream_type=None,
    footage_from=None,
    footage_to=None,
    created_at=None,
)


def render(template: str, values: Values = VALUES) -> str:
    return parse_layout(template).render(values)


@pytest.mark.parametrize(
    ("template", "path"),
    [
        (DEFAULT, "hq/camera-317/2026/10/24/6414-North gate.mp4"),
        ("{id}", "6414.mp4"),
        ("{id}.mp4", "6414.mp4"),
        ("{id}.MKV", "6414.mp4"),
        ("{name}.{id}", "North gate.6414.mp4"),
        ("v1.2/{id} v1.2", "v1.2/6414 v1.2.mp4"),
        ("{camera_name}/{stream_type}/{id}", "Gate/main/6414.mp4"),
        ("{to:%Y-%m-%d}/{id}", "2026-10-25/6414.mp4"),
        ("{created_at:%H%M%S}-{id}", "090507-6414.mp4"),
        ("{created_at}/{id}", "2026-10-26_09-05-07/6414.mp4"),
        ("a{from:%Y/%m}b/{id}", "a2026/10b/6414.mp4"),
        ("a{from:/%Y}/{id}", "a/2026/6414.mp4"),
        ("{id}-{created_at:%H:%M}", "6414-09_05.mp4"),
        ("{id}{from:/%Y}", "6414/2026.mp4"),
        ("{from:100%% %Y}/{id}", "100% 2026/6414.mp4"),
        ("{{{id}}}", "{6414}.mp4"),
        (".archive-mirror/{id}", "archive-mirror/6414.mp4"),
        ("{id}/{id}/{id}", "6414/6414/6414.mp4"),
    ],
)
def test_render(template: str, path: str) -> None:
    """A template gives this path, its last suffix made `.mp4`."""
    assert render(template) == path


@pytest.mark.parametrize(
    ("template", "path"),
    [
        (DEFAULT, "hq/camera-unknown/unknown/1-unknown.mp4"),
        ("a{from:%Y/%m/%d}b/{id}", "aunknownb/1.mp4"),
        ("{created_at:%Y/%m}/{to}/{id}", "unknown/unknown/1.mp4"),
        ("{camera_name}/{stream_type}/{name}-{id}", "unknown/unknown/unknown-1.mp4"),
    ],
)
def test_missing_values(template: str, path: str) -> None:
    """What is missing shows as one word, also in place of several segments."""
    assert render(template, NOTHING) == path


def test_zone() -> None:
    """Times are shown in the configured zone, over the end of summer time too."""
    layout = parse_layout(
        "{from:%Y/%m/%d %H%M}/{to:%H%M%z}/{id}", zone=ZoneInfo("Europe/Berlin")
    )

    assert layout.render(VALUES) == "2026/10/25 0130/0230+0100/6414.mp4"


@pytest.mark.parametrize("year", [1, 9999])
def test_ends_of_the_calendar(year: int) -> None:
    """A moment that the zone moves out of the calendar is unknown."""
    moment = datetime(year, 1 if year == 1 else 12, 1 if year == 1 else 31, tzinfo=UTC)
    zones = [ZoneInfo("Pacific/Kiritimati"), ZoneInfo("America/Los_Angeles")]
    values = replace(VALUES, footage_from=moment.replace(hour=12))

    paths = {parse_layout("{from:%d}/{id}", zone=zone).render(values) for zone in zones}

    assert paths <= {"unknown/6414.mp4", "01/6414.mp4", "31/6414.mp4"}


def test_fields() -> None:
    """The fields in use are known, so that the configuration can ask for some."""
    assert parse_layout(DEFAULT).fields == {"source", "camera_id", "from", "id", "name"}


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("", "name a folder"),
        ("/srv/{id}", "relative"),
        ("C:/x/{id}", "relative"),
        ("../{id}", "'..'"),
        ("a/../{id}", "'..'"),
        ("a/./{id}", "'.'"),
        ("a/ .. /{id}", "' .. '"),
        ("a//{id}", "''"),
        ("{id}/", "''"),
        ("{from:%Y//%m}/{id}", "''"),
        ("{from:%Y/../%m}/{id}", "'..'"),
        ("{from:/%Y}/{id}", "relative"),
        ("a\\{id}", "backslash"),
        ("a\n/{id}", "control"),
        ("a\0/{id}", "control"),
        ("{camera}/{id}", "no field {camera}"),
        ("{}/{id}", "no field {}"),
        ("{0}/{id}", "no field {0}"),
        ("{name.__class__}-{id}", "no field {name.__class__}"),
        ("{name[0]}-{id}", "no field {name[0]}"),
        ("{name!r}-{id}", "{name} takes no !r"),
        ("{id:08d}", "{id} takes no format"),
        ("{name:.3}-{id}", "{name} takes no format"),
        ("{from:%Q}/{id}", "{from}: no %Q"),
        ("{from:%-d}/{id}", "{from}: no %-"),
        ("{from:%Y%}/{id}", "{from}: no % in"),
        ("{from:{id}}/{id}", "{from}: no field within"),
        ("{id", "expected '}'"),
        ("id}", "Single '}'"),
        ("x" * 201 + "/{id}", "too long"),
        ("{name}" * 30 + "/{id}", "too long"),
        (("x" * 150 + "/") * 6 + "{id}", "too long"),
        ("a/" * 40 + "{id}", "more than 32"),
    ],
)
def test_refused_templates(template: str, text: str) -> None:
    """What cannot be used is refused, and the text says which part and why."""
    with pytest.raises(LayoutError, match=re.escape(text)):
        parse_layout(template)


def test_refusal_names_what_is_allowed() -> None:
    with pytest.raises(LayoutError, match=r"\{camera_id\} .*\{from\} \{id\} \{name\}"):
        parse_layout("{kamera}/{id}")


DEVICE = re.compile(
    r"(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9\u00b9\u00b2\u00b3])\s*(\.|$)",
    re.IGNORECASE,
)
HOSTILE = [
    ("../../etc/passwd", "_.._etc_passwd"),
    ("/etc/passwd", "_etc_passwd"),
    ("..", "unknown"),
    (".", "unknown"),
    ("...", "unknown"),
    (". . .", "unknown"),
    ("", "unknown"),
    ("   ", "unknown"),
    ("\u3000\u00a0", "unknown"),
    ("/", "_"),
    ("//", "__"),
    ("a/b", "a_b"),
    ("a\\b", "a_b"),
    ("..\\..\\boot.ini", "_.._boot.ini"),
    ("C:\\Windows", "C__Windows"),
    ("nul\0byte", "nul_byte"),
    ("\0", "_"),
    ("line\nfeed", "line_feed"),
    ("car\rriage", "car_riage"),
    ("tab\there", "tab_here"),
    ("bell\a", "bell_"),
    ("esc\x1b[31mred", "esc_[31mred"),
    ("del\x7f", "del_"),
    ("nel\x85", "nel_"),
    ("c1\x9b31m", "c1_31m"),
    ("ls\u2028ps\u2029", "ls_ps_"),
    ("rlo\u202egpj.exe", "rlo_gpj.exe"),
    ("lri\u2066x\u2069", "lri_x_"),
    ("lrm\u200ex", "lrm_x"),
    ("zw\u200bsp", "zw_sp"),
    ("bom\ufeff", "bom_"),
    ("soft\u00adhyphen", "soft_hyphen"),
    ("tag\U000e0041", "tag_"),
    ("lone\ud800surrogate", "lone_surrogate"),
    ("private\ue000use", "private_use"),
    ("samba\uf022map", "samba_map"),
    ("nonchar\uffff", "nonchar_"),
    ("nonchar\ufdd0", "nonchar_"),
    ("unassigned\U000e0fff", "unassigned_"),
    ("nbsp\u00a0here", "nbsp here"),
    ('<>:"|?*', "_______"),
    ("what?", "what_"),
    ("a:b", "a_b"),
    ("file::$DATA", "file__$DATA"),
    ("CON", "CON_"),
    ("con", "con_"),
    ("CON.txt", "CON_.txt"),
    ("con .txt", "_con .txt"),
    ("Aux", "Aux_"),
    ("NUL", "NUL_"),
    ("PRN.tar.gz", "PRN_.tar.gz"),
    ("COM1", "COM1_"),
    ("COM\u00b9", "COM\u00b9_"),
    ("lpt\u00b3.x", "lpt\u00b3_.x"),
    ("LPT9", "LPT9_"),
    ("CONIN$", "_CONIN$"),
    ("conout$.x", "_conout$.x"),
    ("CONSOLE", "CONSOLE"),
    ("-rf", "rf"),
    ("--help", "help"),
    ("~", "unknown"),
    ("~root", "root"),
    (".hidden", "hidden"),
    (".archive-mirror", "archive-mirror"),
    (" .- ~x", "x"),
    ("trailing.", "trailing"),
    ("trailing. . ", "trailing"),
    ("$(reboot)", "$(reboot)"),
    ("`id`", "`id`"),
    ("; rm -rf ~", "; rm -rf ~"),
    ("{id}", "{id}"),
    ("%s%n", "%s%n"),
    ("Cafe\u0301", "Caf\u00e9"),
    ("\u0301", "\u0301"),
    ("\u212b", "\u00c5"),
    ("\u1112\u1161\u11ab", "\ud55c"),
    ("Камера 1", "Камера 1"),
    ("北門", "北門"),
    ("gate.mp4", "gate"),
    ("gate.MP4", "gate"),
    ("gate.mp4.mp4", "gate"),
    ("gate.mp4 .mp4. ", "gate"),
    ("gate.avi", "gate"),
    (".mp4", "unknown"),
    ("CON.mp4", "CON_"),
    ("gate.mp4.json", "gate.mp4.json"),
    ("v1.2", "v1.2"),
    (
        "City , st. Street 1, file.20190920-161320",
        "City , st. Street 1, file.20190920-161320",
    ),
]


@pytest.mark.parametrize(("name", "stem"), HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_names(name: str, stem: str) -> None:
    """No name leads elsewhere, hides, or means something to a system or a shell."""
    values = replace(VALUES, name=name, camera_name=name, source=name)

    assert render("{name}", values) == f"{stem}.mp4"
    assert_safe(render("{source}/{camera_name}/{id}-{name}", values), segments=3)


def assert_safe(path: str, *, segments: int) -> None:
    """Assert all that must hold of a path, whatever it was made of."""
    parts = path.split("/")
    assert len(parts) == segments
    assert len(path.encode()) <= 1000
    assert path.endswith(".mp4")
    assert unicodedata.is_normalized("NFC", path)
    assert not PurePosixPath(path).is_absolute()
    assert len(PureWindowsPath(path).parts) == segments
    assert not PureWindowsPath(path).drive
    for part in parts:
        assert 0 < len(part.encode()) <= 240
        assert part[0] not in " .-~"
        assert part[-1] not in " ."
        assert not set(part) & set('<>:"|?*\\\0')
        assert not any(unicodedata.category(c) in {"Cc", "Cf", "Cs"} for c in part)
        assert not DEVICE.match(part)


TEXTS = st.one_of(
    st.none(),
    st.text(max_size=20),
    st.text(max_size=400),
    st.text(alphabet="./\\ ~-_:conCON1¹\u0301a\0", max_size=12),
    st.text(alphabet="Ж北\U0001f3a5", min_size=100, max_size=400),
)
MOMENTS = st.one_of(st.none(), st.datetimes(timezones=st.just(UTC)))


@given(
    values=st.builds(
        Values,
        source=TEXTS.map(lambda text: text or "s"),
        export_id=st.integers(0, 2**63 - 1),
        name=TEXTS,
        camera_id=st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1)),
        camera_name=TEXTS,
        stream_type=TEXTS,
        footage_from=MOMENTS,
        footage_to=MOMENTS,
        created_at=MOMENTS,
    ),
    template=st.sampled_from(
        [
            "{source}/camera-{camera_id}/{from:%Y-%m-%d}/{id}-{name}",
            "{source}/{camera_name}/{stream_type}/{name}-{id}",
            "{name}/{name}/{name}/{camera_name}-{source}-{name} {id}",
            "{source}/{source}/{stream_type}{camera_name}/con{name}.{id}",
        ]
    ),
)
@example(
    values=replace(VALUES, name="CON" + " " * 300 + "x"), template="a/b/c/{name}{id}"
)
def test_any_values(values: Values, template: str) -> None:
    """Whatever the values hold: one safe path, with the whole id in it."""
    path = render(template, values)

    assert_safe(path, segments=4)
    assert str(values.export_id) in path.rpartition("/")[2]


@given(st.text(max_size=60))
def test_idempotent(name: str) -> None:
    """A name that was made safe once is left as it is."""
    path = render("{name}", replace(VALUES, name=name))

    assert render("{name}", replace(VALUES, name=path)) == path


@given(st.text(max_size=30))
def test_any_template(template: str) -> None:
    """A template is refused with a reason, or gives a safe path."""
    try:
        layout = parse_layout(template)
    except LayoutError:
        return

    path = layout.render(VALUES)
    assert_safe(path, segments=path.count("/") + 1)


@given(st.from_regex(PLAIN, fullmatch=True, alphabet=string.printable))
def test_plain_names_need_no_care(name: str) -> None:
    """What is not given to pathvalidate would come back from it as it is."""
    name = name.rstrip(" .")
    assert sanitize_filename(name, platform="universal", max_len=4096) == name


def test_long_names() -> None:
    """The name gives way, at a code point, before the id and the suffix do."""
    long = replace(VALUES, name="Ж" * 300)

    assert render("{id}-{name}", long).startswith("6414-ЖЖЖ")
    assert re.fullmatch("Ж+-6414.mp4", render("{name}-{id}", long))
    assert 220 <= len(render("{name}-{id}", long).encode()) <= 230
    assert (
        len(f"{with_number(render(DEFAULT, long), 9999)}.json".split("/")[-1].encode())
        <= 255
    )


def test_long_paths() -> None:
    """A path of many long segments is shortened in all of them."""
    values = replace(VALUES, camera_name="c" * 500, name="n" * 500)
    path = render("/".join(["{camera_name}-{name}"] * 7) + "/{id}-{name}", values)

    assert 800 <= len(path) <= 1000
    assert path.count("/") == 7
    assert path.rpartition("/")[2].startswith("6414-n")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("A/Gate.mp4", "a/gate.MP4"),
        ("caf\u00e9.mp4", "cafe\u0301.mp4"),
        ("STRASSE.mp4", "stra\u00dfe.mp4"),
        ("\ufb01lm.mp4", "film.mp4"),
        ("\uff21.mp4", "a.mp4"),
        ("\u212a.mp4", "k.mp4"),
    ],
)
def test_path_key(one: str, other: str) -> None:
    """Paths that some target takes for one have one key."""
    assert path_key(one) == path_key(other)


@given(st.text(max_size=30))
def test_path_key_is_stable(path: str) -> None:
    assert path_key(path_key(path)) == path_key(path)


def test_path_key_tells_apart() -> None:
    assert path_key("a/b.mp4") != path_key("a/b~2.mp4")


def test_with_number() -> None:
    assert with_number("a/b.mp4", 2) == "a/b~2.mp4"
    assert with_number("a.mp4/b.c.mp4", 10) == "a.mp4/b.c~10.mp4"


@pytest.mark.parametrize(
    ("path", "of", "numbered"),
    [
        ("a/b~2.mp4", "a/b.mp4", True),
        ("a/b~12.doubtful.mp4", "a/b.doubtful.mp4", True),
        ("a/b.mp4", "a/b~2.mp4", False),
        ("a/b~c.mp4", "a/b.mp4", False),
        ("a/b.mp4", "a/b.mp4", False),
        ("7.mp4", "8.mp4", False),
        ("c/b~2.mp4", "a/b.mp4", False),
    ],
)
def test_a_numbered_path_is_known(path: str, of: str, numbered: bool) -> None:
    assert is_numbered(path, of) is numbered
