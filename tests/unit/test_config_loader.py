"""From files and environment to settings."""

from __future__ import annotations

from dataclasses import FrozenInstanceError
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from pydantic import ValidationError

from mirror.config import Listen, Settings, SourceSettings, default_config_path, load

MINIMAL = """
[sources.hq]
url = "https://vms.example/"
[targets.nas]
type = "directory"
path = "footage"
"""


def loaded(folder: Path, text: str = "", **environ: str) -> Settings:
    """Load the smallest configuration with `text` before it, all else by default."""
    path = folder / "archive-mirror.toml"
    path.write_text(text + MINIMAL)
    prefixed = {f"ARCHIVE_MIRROR__{key}": value for key, value in environ.items()}
    return load(path, prefixed)


def conf_d(folder: Path, name: str, text: str) -> None:
    (folder / "conf.d").mkdir(exist_ok=True)
    (folder / "conf.d" / name).write_text(text)


def test_defaults(tmp_path: Path) -> None:
    """What is not set is as the design says."""
    settings = loaded(tmp_path)
    source, target = settings.sources["hq"], settings.targets["nas"]

    assert settings.state_dir == Path("/var/lib/archive-mirror")
    assert settings.spool_dir is None
    assert settings.timezone == ZoneInfo("UTC")
    assert settings.cameras == {}
    assert settings.http.listen == Listen("127.0.0.1", 9533)
    assert settings.transfer.model_dump() == {
        "concurrency": 16,
        "stall_timeout": timedelta(seconds=30),
        "first_byte_timeout": timedelta(seconds=60),
        "min_rate": None,
        "retry_initial": timedelta(seconds=5),
        "retry_max": timedelta(minutes=10),
        "shutdown_grace": timedelta(seconds=20),
        "max_file_size": 50 * 2**30,
    }
    assert source.model_dump() == {
        "name": "hq",
        "credentials_folder": None,
        "url": "https://vms.example",
        "list_path": "/api/v1/downloads",
        "token_file": None,
        "poll_interval": timedelta(seconds=60),
        "sweep_interval": timedelta(minutes=30),
        "sweep_depth": timedelta(days=90),
        "history_start": None,
        "lookback": timedelta(hours=24),
        "file_lifetime": timedelta(hours=3),
        "waiting_limit": timedelta(hours=24),
        "concurrency": 4,
        "per_page": 100,
        "folder_url": "append_name",
        "second_look": True,
        "tls": {"ca_file": None, "fingerprint": None, "verify": True},
        "file_origins": (),
        "rewrite_origins": {},
        "proxy": None,
        "date_format": "%Y-%m-%dT%H:%M:%SZ",
        "footage_timezone": ZoneInfo("UTC"),
        "client": "web",
        "device_uuid": None,
        "heartbeat_url": None,
        "send_token_to_files": False,
        "rules": (),
    }
    assert target.model_dump() == {
        "name": "nas",
        "type": "directory",
        "path": tmp_path / "footage",
        "layout": "{source}/camera-{camera_id}/{from:%Y/%m/%d}/{id}-{name}",
        "required": True,
        "mount": False,
        "min_free": 0,
        "file_mode": 0o640,
        "dir_mode": 0o750,
        "group": None,
        "concurrency": 4,
    }


def test_settings_are_frozen(tmp_path: Path) -> None:
    settings = loaded(tmp_path)

    with pytest.raises((ValidationError, FrozenInstanceError)):
        settings.sources["hq"].per_page = 7


def test_values_of_every_kind(tmp_path: Path) -> None:
    settings = loaded(
        tmp_path,
        """
state_dir = "state"
spool_dir = "/spool"
timezone = "Europe/Berlin"
cameras = { 317 = "North gate" }
http = { listen = "[::1]:0" }
transfer = { min_rate = "1KiB/s", max_file_size = 1000, shutdown_grace = "0s" }
[defaults.target]
file_mode = "600"
dir_mode = "2770"
min_free = "5GiB"
group = "video"
[defaults.source]
token_file = "keys/hq.token"
history_start = 2026-01-31
file_origins = ["HTTPS://S3.example:443/", "http://[::1]:8080"]
rewrite_origins = { "http://127.0.0.1:80" = "https://vms.example" }
rules = [
  { name = "a", match = { camera = 17, name = "x*" }, action = "exclude" },
  { name = "b", match = { camera = [1, 2], user = [5, "6*"] }, action = "exclude" },
  { name = "c", match = { min_age = "1h", max_age = "2d" }, action = "exclude" },
]
""",
    )
    source, target = settings.sources["hq"], settings.targets["nas"]

    assert settings.state_dir == tmp_path / "state"
    assert settings.spool_dir == Path("/spool")
    assert settings.timezone == ZoneInfo("Europe/Berlin")
    assert settings.cameras == {317: "North gate"}
    assert settings.http.listen == Listen("::1", 0)
    assert settings.transfer.min_rate == 1024.0
    assert settings.transfer.max_file_size == 1000
    assert settings.transfer.shutdown_grace == timedelta(0)
    assert (target.file_mode, target.dir_mode) == (0o600, 0o2770)
    assert (target.min_free, target.group) == (5 * 2**30, "video")
    assert source.token_path == tmp_path / "keys" / "hq.token"
    assert source.history_start == datetime(2026, 1, 31, tzinfo=UTC)
    assert source.file_origins == ("https://s3.example", "http://[::1]:8080")
    assert source.rewrite_origins == {"http://127.0.0.1": "https://vms.example"}
    assert [rule.name for rule in source.rules] == ["a", "b", "c"]
    assert source.rules[0].match.camera == (17,)
    assert source.rules[0].match.name == ("x*",)
    assert source.rules[1].match.camera == (1, 2)
    assert source.rules[1].match.user == ("5", "6*")
    assert source.rules[2].match.max_age == timedelta(days=2)


@pytest.mark.parametrize(
    ("text", "listen"),
    [
        ("0.0.0.0:80", Listen("0.0.0.0", 80)),
        (":9533", Listen(None, 9533)),
        ("localhost:0", Listen("localhost", 0)),
        ("[::]:65535", Listen("::", 65535)),
    ],
)
def test_listen(tmp_path: Path, text: str, listen: Listen) -> None:
    assert loaded(tmp_path, HTTP__LISTEN=text).http.listen == listen


def test_one_way_to_check_a_certificate(tmp_path: Path) -> None:
    digest = "AB:" * 31 + "CD"
    by_file = loaded(tmp_path, SOURCES__HQ__TLS__CA_FILE="vms.pem")
    by_digest = loaded(
        tmp_path, SOURCES__HQ__TLS=f'{{"fingerprint": "sha256:{digest}"}}'
    )
    unchecked = loaded(tmp_path, SOURCES__HQ__TLS__VERIFY="false")

    assert by_file.sources["hq"].tls.ca_file == tmp_path / "vms.pem"
    assert by_digest.sources["hq"].tls.fingerprint == b"\xab" * 31 + b"\xcd"
    assert unchecked.sources["hq"].tls.verify is False


def test_token_comes_from_the_credentials_unless_a_file_is_named(
    tmp_path: Path,
) -> None:
    path = tmp_path / "archive-mirror.toml"
    path.write_text(MINIMAL + '[sources.lab]\nurl = "http://lab"\ntoken_file = "t"')

    without = load(path, {})
    with_it = load(path, {"CREDENTIALS_DIRECTORY": "/run/credentials/x"})

    assert without.sources["hq"].token_path is None
    assert with_it.sources["hq"].token_path == Path("/run/credentials/x/hq.token")
    assert with_it.sources["lab"].token_path == tmp_path / "t"


def test_a_source_wins_over_the_defaults(tmp_path: Path) -> None:
    """A source's own table replaces the default one; keys are not mixed."""
    path = tmp_path / "archive-mirror.toml"
    path.write_text(
        """
[defaults.source]
per_page = 7
tls = { ca_file = "/vms.pem" }
"""
        + MINIMAL
        + '[sources.lab]\nurl = "http://lab"\nper_page = 8\ntls = { verify = false }'
    )

    sources = load(path, {}).sources

    assert (sources["hq"].per_page, sources["lab"].per_page) == (7, 8)
    assert sources["hq"].tls.ca_file == Path("/vms.pem")
    assert sources["lab"].tls.ca_file is None


def test_conf_d_is_merged_in_the_order_of_names(tmp_path: Path) -> None:
    """Tables are merged, lists replaced, and the later file wins."""
    conf_d(tmp_path, "20.toml", '[sources.hq]\nper_page = 20\nclient = "b"')
    conf_d(tmp_path, "10.toml", "[sources.hq]\nper_page = 10\nconcurrency = 9")
    conf_d(tmp_path, "30.toml", '[targets.b]\ntype = "directory"\npath = "b"')
    conf_d(tmp_path, ".40.toml", "not toml")
    conf_d(tmp_path, "50.toml~", "not toml")

    settings = loaded(tmp_path)

    assert settings.sources["hq"].per_page == 20
    assert settings.sources["hq"].concurrency == 9
    assert settings.sources["hq"].client == "b"
    assert settings.sources["hq"].url == "https://vms.example"
    assert settings.targets["b"].path == tmp_path / "b"


def test_the_environment_wins_over_all_files(tmp_path: Path) -> None:
    conf_d(tmp_path, "10.toml", "[sources.hq]\nper_page = 10")

    settings = loaded(
        tmp_path,
        STATE_DIR="state",
        SOURCES__HQ__PER_PAGE="11",
        SOURCES__HQ__POLL_INTERVAL="5m",
        SOURCES__HQ__FILE_ORIGINS='["https://s3.example"]',
        SOURCES__HQ__RULES='[{"name":"a","match":{"camera":1},"action":"exclude"}]',
        SOURCES__LAB__URL="http://lab",
        DEFAULTS__SOURCE__CONCURRENCY="2",
        TARGETS__NAS__LAYOUT="{source}/{id}",
        TARGETS__NAS__MOUNT="true",
        CAMERAS__317="North gate",
        TRANSFER='{"concurrency": 3, "retry_max": "1h"}',
        TRANSFER__CONCURRENCY="4",
    )

    assert settings.state_dir == tmp_path / "state"
    assert settings.sources["hq"].per_page == 11
    assert settings.sources["hq"].poll_interval == timedelta(minutes=5)
    assert settings.sources["hq"].file_origins == ("https://s3.example",)
    assert settings.sources["hq"].rules[0].match.camera == (1,)
    assert settings.sources["lab"].concurrency == 2
    assert settings.targets["nas"].layout == "{source}/{id}"
    assert settings.targets["nas"].mount is True
    assert settings.cameras == {317: "North gate"}
    assert settings.transfer.concurrency == 4
    assert settings.transfer.retry_max == timedelta(hours=1)


def test_a_name_may_hold_two_underscores(tmp_path: Path) -> None:
    """The environment finds a source that the files name."""
    conf_d(tmp_path, "10.toml", '[sources.my__vms]\nurl = "http://lab"')

    settings = loaded(tmp_path, SOURCES__MY__VMS__PER_PAGE="3")

    assert settings.sources["my__vms"].per_page == 3


def test_other_variables_do_not_count(tmp_path: Path) -> None:
    """Only those that begin with `ARCHIVE_MIRROR__` are keys."""
    path = tmp_path / "archive-mirror.toml"
    path.write_text(MINIMAL)
    others = {"ARCHIVE_MIRROR_CONFIG": "/x", "STATE_DIR": "/y", "ARCHIVE_MIRROR": ""}
    others["ARCHIVE_MIRROR_STATE_DIR"] = "/z"

    assert load(path, others) == load(path, {})
    assert load(path, {"ARCHIVE_MIRROR__STATE_DIR": "/y"}) != load(path, {})


def test_a_relative_path_to_the_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Paths in the settings stay absolute."""
    (tmp_path / "a.toml").write_text(MINIMAL)
    monkeypatch.chdir(tmp_path)

    assert load(Path("a.toml"), {}).targets["nas"].path == tmp_path / "footage"


def test_settings_can_be_built_in_code() -> None:
    source = SourceSettings(
        name="hq", url="http://127.0.0.1:1", poll_interval=timedelta(seconds=1)
    )

    assert source.poll_interval == timedelta(seconds=1)


def test_default_config_path() -> None:
    standard = Path("/etc/archive-mirror/archive-mirror.toml")

    assert default_config_path({}) == standard
    assert default_config_path({"ARCHIVE_MIRROR_CONFIG": ""}) == standard
    assert default_config_path({"ARCHIVE_MIRROR_CONFIG": "/x.toml"}) == Path("/x.toml")
