"""What an operator reads when the configuration cannot be understood."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from mirror.config import load
from mirror.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

SOURCE = '[sources.hq]\nurl = "https://vms.example"\n'
TARGET = '[targets.nas]\ntype = "directory"\npath = "/srv/footage"\n'
DURATION = (
    'must be a duration in quotes with its unit, such as "250ms", "30s", "5m", '
    '"1h30m" or "90d"'
)
FINGERPRINT = 'must be "sha256:" and the 64 hex digits of the certificate'
LATER = "is not available in this version"
ADDRESS = 'must be an http or https address, such as "https://vms.example"'
USER = (
    "must not carry a user or a password; secrets are only named by file (token_file)"
)
ORIGIN = 'must be an origin without a path, such as "https://s3.example"'
LAYOUT = '"{source}/camera-{camera_id}/{from:%Y/%m/%d}/{id}-{name}"'


def problems(
    folder: Path, text: str, environ: dict[str, str] | None = None
) -> list[str]:
    """Return what is said of a configuration file that holds `text`."""
    path = folder / "archive-mirror.toml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load(path, environ or {})
    return caught.value.problems


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("poll_interval = 30", f"poll_interval: {DURATION}"),
        ('poll_interval = "fast"', f"poll_interval: {DURATION}"),
        ('lookback = "0s"', "lookback: must be longer than zero"),
        ("per_page = 0", "per_page: must be at least 1"),
        ("per_page = 1001", "per_page: must be at most 1000"),
        ('concurrency = "many"', "concurrency: must be a whole number"),
        ("concurrency = true", "concurrency: must be a whole number"),
        ('folder_url = "skip"', 'folder_url: must be "append_name" or "wait"'),
        ("send_token_to_files = 7", "send_token_to_files: must be true or false"),
        ("second_look = 0", "second_look: must be true or false"),
        ('second_look = "no"', "second_look: must be true or false"),
        ("second_look = 1.0", "second_look: must be true or false"),
        ("tls = { verify = 0 }", "tls.verify: must be true or false"),
        ("client = 7", "client: must be text in quotes"),
        (
            'client = "a b"',
            'client: must be one word of letters, digits, ".", "_", ":" and "-"',
        ),
        ('token_file = ""', "token_file: must be a path in quotes"),
        ("tls = true", "tls: must be a table, [sources.hq.tls]"),
        (
            'tls = { ca_file = "a", verify = false }',
            "tls: must hold at most one of ca_file, fingerprint and verify = false",
        ),
        (
            'tls = { fingerprint = "sha256:12" }',
            f"tls.fingerprint: {FINGERPRINT}",
        ),
        ('file_origins = ["https://a/b"]', f"file_origins[0]: {ORIGIN}"),
        ('file_origins = ["ftp://a"]', f"file_origins[0]: {ADDRESS}"),
        ('file_origins = ["https://a:port"]', f"file_origins[0]: {ADDRESS}"),
        (
            'file_origins = "https://a"',
            "file_origins: must be a list, such as [...]; in the environment as JSON",
        ),
        ('rewrite_origins = { "a" = "https://b" }', f"rewrite_origins: {ADDRESS}"),
        (
            'footage_timezone = "Mars"',
            (
                "footage_timezone: must be the name of a time zone, such as "
                '"UTC" or "Europe/Berlin"'
            ),
        ),
        (
            'history_start = "soon"',
            (
                'history_start: must be a date or a time, such as "2026-01-31" or '
                '"2026-01-31T08:00:00Z"'
            ),
        ),
        (
            'date_format = "%Y-%m-%d"',
            (
                "date_format: must write date and time to the second, such as "
                '"%Y-%m-%dT%H:%M:%SZ"'
            ),
        ),
        (
            'list_path = "downloads"',
            (
                'list_path: must be a path that begins with "/" and has no "?" or "#", '
                'such as "/api/v1/downloads"'
            ),
        ),
        (
            "sweep_intervl = 1",
            "sweep_intervl: unknown key; did you mean sweep_interval?",
        ),
        ("layout = 1", "layout: unknown key here; it belongs to [targets.NAME]"),
    ],
)
def test_keys_of_a_source(tmp_path: Path, line: str, problem: str) -> None:
    assert problems(tmp_path, f"{SOURCE}{line}\n{TARGET}") == [f"sources.hq.{problem}"]


@pytest.mark.parametrize(
    ("rule", "problem"),
    [
        (
            '{ name = "a", action = "exclude" }',
            ".match: is missing; write match = { camera = 17 }",
        ),
        (
            '{ match = { camera = 1 }, action = "exclude" }',
            '.name: is missing; write name = "lobby"',
        ),
        (
            '{ name = "a", match = {}, action = "exclude" }',
            (
                ".match: must have at least one of camera, stream_type, user, name, "
                "min_age, max_age"
            ),
        ),
        (
            '{ name = "a", match = { camra = 1 }, action = "exclude" }',
            ".match.camra: unknown key; did you mean camera?",
        ),
        (
            '{ name = "a", match = { camera = [] }, action = "exclude" }',
            ".match.camera: must not be an empty list",
        ),
        (
            '{ name = "a", match = { min_age="2d", max_age="1d" }, action="exclude" }',
            ".match: matches nothing: min_age is longer than max_age",
        ),
        (
            '{ name = "a", match = { camera = 1 }, action = "high" }',
            '.action: action "high" is not available in this version; "exclude" is',
        ),
        (
            '{ name = "a", match = { camera = 1 }, action = ["low"] }',
            '.action: must be "exclude"',
        ),
    ],
)
def test_rules(tmp_path: Path, rule: str, problem: str) -> None:
    found = problems(tmp_path, f"{SOURCE}rules = [{rule}]\n{TARGET}")

    assert found == [f"sources.hq.rules[0]{problem}"]


def test_rules_are_told_apart_by_name(tmp_path: Path) -> None:
    rule = '{ name = "a", match = { camera = 1 }, action = "exclude" }'

    assert problems(tmp_path, f"{SOURCE}rules = [{rule}, {rule}]\n{TARGET}") == [
        "sources.hq.rules: must have names that differ; two rules share one"
    ]


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("file_mode = 640", 'file_mode: must be octal in quotes, such as "0640"'),
        ('file_mode = "0689"', 'file_mode: must be octal in quotes, such as "0640"'),
        ('file_mode = "0200"', 'file_mode: must let the owner read, such as "0640"'),
        (
            'dir_mode = "0640"',
            'dir_mode: must let the owner read, write and enter, such as "0750"',
        ),
        (
            'min_free = "5 gigs"',
            (
                'min_free: must be a size in quotes, such as "64KiB", "500MB" or '
                '"5GiB", or a number of bytes'
            ),
        ),
        ('layout = "{name}"', f"layout: must contain {{id}}, such as {LAYOUT}"),
        (
            'bandwidth = "1MB/s"',
            "bandwidth: is not available in this version; remove it",
        ),
        ('group = ""', "group: must be text of one line, not empty"),
    ],
)
def test_keys_of_a_target(tmp_path: Path, line: str, problem: str) -> None:
    assert problems(tmp_path, f"{SOURCE}{TARGET}{line}") == [f"targets.nas.{problem}"]


def test_layout_that_is_none(tmp_path: Path) -> None:
    [problem] = problems(tmp_path, f'{SOURCE}{TARGET}layout = "{{id}}-{{nonsense}}"')

    assert problem.startswith("targets.nas.layout: ")


def test_sources_that_share_a_target_are_kept_apart(tmp_path: Path) -> None:
    """Without {source}, two sources would meet in one path."""
    one = f'{SOURCE}{TARGET}layout = "{{id}}"\n'

    assert problems(tmp_path, f'{one}[sources.lab]\nurl = "http://lab"') == [
        (
            "targets.nas.layout: must contain {source}, for several sources share the "
            f"target, such as {LAYOUT}"
        )
    ]
    (tmp_path / "one.toml").write_text(one)
    assert load(tmp_path / "one.toml", {}).targets["nas"].layout == "{id}"


@pytest.mark.parametrize("kind", ["s3", "sftp", "webdav"])
def test_targets_of_later_versions(tmp_path: Path, kind: str) -> None:
    """The type alone is named, not each key that comes with it."""
    later = f'[targets.cloud]\ntype = "{kind}"\nbucket = "x"\nhost = "y"\n'

    assert problems(tmp_path, SOURCE + TARGET + later) == [
        f"targets.cloud.type: type {kind} {LATER}; directory is"
    ]


def test_url_is_the_base_address(tmp_path: Path) -> None:
    """Not that of the list, as it is written in the VMS's documentation."""
    whole = SOURCE.replace("example", "example/vms/api/v1/downloads")

    assert problems(tmp_path, whole + TARGET) == [
        (
            "sources.hq: has list_path in its url, to which that is appended; write "
            'url = "https://vms.example/vms"'
        )
    ]


@pytest.mark.parametrize(
    "value",
    [
        "proxy.example:3128",
        "http://proxy.example",
        "http://:3128",
        "https://proxy.example:3128",
        "socks5://proxy.example:1080",
        "http://user:s3cret@proxy.example:many",
        "http://user:s3cret@proxy.example:3128/path",
        "http://user:s3 cret@proxy.example:3128",
        "Environment",
    ],
)
def test_a_proxy_is_an_address_or_the_environment(tmp_path: Path, value: str) -> None:
    """What was written is not repeated: it may hold a password."""
    assert problems(tmp_path, SOURCE + f'proxy = "{value}"\n' + TARGET) == [
        'sources.hq.proxy: must be "http://HOST:PORT" or "environment"'
    ]


def test_a_target_needs_a_type_and_a_path(tmp_path: Path) -> None:
    assert problems(tmp_path, f"{SOURCE}[targets.nas]") == [
        'targets.nas.type: is missing; write type = "directory"',
        'targets.nas.path: is missing; write path = "/srv/footage"',
    ]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (
            'timezone = "Nowhere"',
            (
                "timezone: must be the name of a time zone, such as "
                '"UTC" or "Europe/Berlin"'
            ),
        ),
        ('state_dri = "/x"', "state_dri: unknown key; did you mean state_dir?"),
        (
            'poll_interval = "5s"',
            "poll_interval: unknown key here; it belongs to [sources.NAME]",
        ),
        (
            "colour = 1",
            (
                "colour: unknown key; known here: cameras, defaults, heartbeat_url, "
                "http, on_event, sources, "
                "spool_dir, state_dir, targets, timezone, transfer"
            ),
        ),
        (
            'http.listen = "9533"',
            (
                'http.listen: must be host:port, such as "127.0.0.1:9533", '
                '"[::1]:9533" or ":9533"'
            ),
        ),
        ('cameras.a = "x"', "cameras.a: must be named by the camera's number"),
        ("cameras.1 = 2", "cameras.1: must be text in quotes"),
        ("defaults = 1", "defaults: must be a table, [defaults.source]"),
        ("defaults.source = 1", "defaults.source: must be a table, [defaults.source]"),
        (
            "defaults.sources = {}",
            "defaults.sources: unknown key; did you mean source?",
        ),
        (
            'transfer.bandwidth = "5MB/s"',
            "transfer.bandwidth: is not available in this version; remove it",
        ),
        (
            "transfer.timetable = [{}]",
            "transfer.timetable: is not available in this version; remove it",
        ),
        (
            'transfer.retry_initial = "1h"',
            "transfer: must have a retry_max of at least retry_initial",
        ),
        (
            'transfer.min_rate = "0B/s"',
            "transfer.min_rate: must be more than zero; leave the key out for no limit",
        ),
        (
            "transfer.min_rate = 5.0",
            (
                "transfer.min_rate: must be a rate in quotes with its unit, such as "
                '"1KiB/s", "20MB/s" or "400Mbit/s"'
            ),
        ),
        (
            "transfer.max_file_size = 0",
            "transfer.max_file_size: must be more than zero",
        ),
    ],
)
def test_other_keys(tmp_path: Path, text: str, problem: str) -> None:
    assert problems(tmp_path, f"{text}\n{SOURCE}{TARGET}") == [problem]


def test_an_empty_configuration(tmp_path: Path) -> None:
    assert problems(tmp_path, "") == [
        "sources: there is none; add a table [sources.NAME] with its url",
        (
            "targets: there is none; add a table [targets.NAME] with type = "
            '"directory" and its path'
        ),
    ]


def test_every_fault_is_told_at_once(tmp_path: Path) -> None:
    """One reading tells all, whatever table it is in."""
    found = problems(
        tmp_path,
        f'timezone = "X"\n{SOURCE}per_page = 0\n[sources.HQ]\nlookback = 1\n'
        f"{TARGET}file_mode = 1\n[transfer]\nconcurrency = 0",
        {"ARCHIVE_MIRROR__HTTP__LISTEN": "x", "ARCHIVE_MIRROR__FOO": "y"},
    )

    assert [line.split(": ")[0] for line in found] == [
        "timezone",
        "sources.hq.per_page",
        "sources.HQ",
        "sources.HQ.url",
        "sources.HQ.lookback",
        "targets.nas.file_mode",
        "ARCHIVE_MIRROR__HTTP__LISTEN",
        "transfer.concurrency",
        "ARCHIVE_MIRROR__FOO",
    ]


def test_a_fault_of_the_defaults_is_told_once(tmp_path: Path) -> None:
    """However many sources inherit it, and also if each overrides it."""
    lab = '[sources.lab]\nurl = "http://lab"\n'
    defaults = "[defaults.source]\nper_page = 0\nfoo = 1\nlookback = 1\n"

    found = problems(tmp_path, f'{SOURCE}lookback = "1h"\n{lab}{TARGET}{defaults}')

    assert [line.split(": ")[0] for line in found] == [
        "defaults.source.lookback",
        "defaults.source.per_page",
        "defaults.source.foo",
    ]


@pytest.mark.parametrize("key", ["name", "credentials_folder"])
def test_what_a_source_knows_of_itself_is_no_key(tmp_path: Path, key: str) -> None:
    [problem] = problems(tmp_path, f'{SOURCE}{key} = "x"\n{TARGET}')

    assert problem.startswith(f"sources.hq.{key}: unknown key; ")


def test_the_environment_is_named_as_it_is_set(tmp_path: Path) -> None:
    """A fault of a variable names the variable, not the key behind it."""
    found = problems(
        tmp_path,
        SOURCE + TARGET,
        {
            "ARCHIVE_MIRROR__STATE_DRI": "/x",
            "ARCHIVE_MIRROR__SOURCES__HQ__POLL_INTERVAL": "30",
            "ARCHIVE_MIRROR__SOURCES__HQ__TLS": '{"ca_fil": "x"}',
            "ARCHIVE_MIRROR__SOURCES__HQ__RULES": "[broken",
            "ARCHIVE_MIRROR__": "x",
        },
    )

    assert found == [
        f"ARCHIVE_MIRROR__SOURCES__HQ__POLL_INTERVAL: {DURATION}",
        "ARCHIVE_MIRROR__SOURCES__HQ__TLS.ca_fil: unknown key; did you mean ca_file?",
        (
            "ARCHIVE_MIRROR__SOURCES__HQ__RULES: must be a list, such as [...]; "
            "in the environment as JSON"
        ),
        (
            "ARCHIVE_MIRROR__STATE_DRI: unknown key; did you mean "
            "ARCHIVE_MIRROR__STATE_DIR?"
        ),
        (
            "ARCHIVE_MIRROR__: unknown key; known here: cameras, defaults, "
            "heartbeat_url, http, on_event, "
            "sources, spool_dir, state_dir, targets, timezone, transfer"
        ),
    ]


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (
            'token = "hunter2"',
            "token: unknown key; secrets are only named by file: use token_file",
        ),
        ('url = "https://me:hunter2@vms.example"', f"url: {USER}"),
        ('url = "https://hunter2@vms.example"', f"url: {USER}"),
        ('url = "https://me:hunter2/@vms.example"', f"url: {ADDRESS}"),
        ('file_origins = ["https://me:hunter2@a"]', f"file_origins[0]: {USER}"),
        (
            'rewrite_origins = { "https://me:hunter2@a" = "https://b" }',
            f"rewrite_origins: {USER}",
        ),
        (
            'url = "https://vms.example?token=hunter2"',
            (
                'url: must be the base of the VMS without "?" or "#", such as '
                '"https://vms.example"'
            ),
        ),
    ],
)
def test_secrets_are_never_shown(tmp_path: Path, line: str, problem: str) -> None:
    """A secret in the wrong place is refused without being repeated."""
    url = "" if line.startswith("url") else 'url = "https://vms.example"\n'

    found = problems(tmp_path, f"[sources.hq]\n{url}{line}\n{TARGET}")

    assert found == [f"sources.hq.{problem}"]
    assert "hunter2" not in "".join(found)


def test_a_secret_in_a_variable_is_never_shown(tmp_path: Path) -> None:
    found = problems(
        tmp_path, SOURCE + TARGET, {"ARCHIVE_MIRROR__SOURCES__HQ__TOKEN": "hunter2"}
    )

    assert found == [
        (
            "ARCHIVE_MIRROR__SOURCES__HQ__TOKEN: unknown key; secrets are only named "
            "by file: use token_file"
        )
    ]


def test_no_file(tmp_path: Path) -> None:
    path = tmp_path / "missing.toml"

    with pytest.raises(ConfigError) as caught:
        load(path, {})

    assert caught.value.problems == [
        (
            f"{path}: there is no such file; write one, or name another with --config "
            "or $ARCHIVE_MIRROR_CONFIG"
        )
    ]


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        load(tmp_path, {})


def test_syntax_names_file_and_line(tmp_path: Path) -> None:
    """Every file that is no TOML is named, with its line."""
    (tmp_path / "conf.d").mkdir()
    bare = tmp_path / "conf.d" / "05.toml"
    bare.write_text("path = /srv/footage\n")
    part = tmp_path / "conf.d" / "10.toml"
    part.write_text("a = 1\nb = [1,\n")
    latin = tmp_path / "conf.d" / "20.toml"
    latin.write_bytes(b'a = "\xe9"')

    first, unquoted, second, third = problems(tmp_path, "a = 1\n\nb 2\n")

    assert first == (
        f"{tmp_path}/archive-mirror.toml:3: Expected '=' after a key in a key/value "
        "pair in column 3"
    )
    hint = "Invalid value in column 8; a text stands in quotes"
    assert unquoted == f"{bare}:1: {hint}"
    assert second.startswith(f"{part}:2: ")
    assert third == f"{latin}: must be UTF-8 text"
