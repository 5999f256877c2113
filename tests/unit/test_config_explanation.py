"""`config show`: every key in effect, where it came from, and valid as printed."""

from __future__ import annotations

import json

import pytest

from mirror import config
from mirror.config.explanation import explain

TEXT = """
state_dir = "/tmp/x"
[defaults.source]
poll_interval = "30s"
[defaults.target]
min_free = "5GiB"
[sources.hq]
url = "https://vms.example"
rewrite_origins = { "http://127.0.0.1:8080" = "https://vms.example" }
tls = { verify = false }
lookback = "1h30m"
history_start = "2026-01-31"
[[sources.hq.rules]]
name = 'the "lobby"'
match = { camera = 17, min_age = "1500ms" }
action = "exclude"
[sources.annex]
url = "https://annex.example"
poll_interval = "45s"
tls = { fingerprint = "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08" }
[targets.nas]
type = "directory"
path = "/srv/x"
file_mode = "0644"
[cameras]
317 = "North gate"
[http]
listen = "[::1]:9533"
"""  # noqa: E501


@pytest.fixture
def path(tmp_path):
    (tmp_path / "conf.d").mkdir()
    (tmp_path / "conf.d" / "more.toml").write_text("[transfer]\nconcurrency = 5\n")
    path = tmp_path / "archive-mirror.toml"
    path.write_text(TEXT)
    return path


ENVIRON = {"ARCHIVE_MIRROR__TRANSFER__MIN_RATE": "1.5KiB/s"}


def test_each_value_and_its_origin(path, tmp_path):
    found = {".".join(one.path): one for one in explain(path, ENVIRON)}
    main, more = str(path), str(tmp_path / "conf.d" / "more.toml")
    for key, value, origin in [
        ("state_dir", '"/tmp/x"', main),
        ("spool_dir", None, "default"),
        ("sources.hq.poll_interval", '"30s"', main),
        ("sources.annex.poll_interval", '"45s"', main),
        ("sources.hq.lookback", '"1h30m"', main),
        ("sources.annex.lookback", '"1d"', "default"),
        ("targets.nas.min_free", str(5 << 30), main),
        ("targets.nas.file_mode", '"0644"', main),
        ("targets.nas.dir_mode", '"0750"', "default"),
        ("transfer.concurrency", "5", more),
        ("transfer.min_rate", '"1536.0B/s"', "$ARCHIVE_MIRROR__TRANSFER__MIN_RATE"),
        ("transfer.retry_max", '"10m"', "default"),
        ("http.listen", '"[::1]:9533"', main),
        ("cameras.317", '"North gate"', main),
    ]:
        assert (found[key].value, found[key].origin) == (value, origin), key


def test_what_is_shown_is_the_same_configuration(path, tmp_path):
    again = tmp_path / "again.toml"
    tables: dict[tuple[str, ...], list[str]] = {}
    for one in explain(path, ENVIRON):
        if one.value is not None:
            line = f"{one.path[-1]} = {one.value}"
            tables.setdefault(one.path[:-1], []).append(line)
    again.write_text(
        "\n".join(
            "\n".join([f"[{'.'.join(table)}]" if table else "", *lines])
            for table, lines in sorted(tables.items())
        )
    )
    (tmp_path / "conf.d" / "more.toml").unlink()
    shown = config.load(again, {})
    (tmp_path / "conf.d" / "more.toml").write_text("[transfer]\nconcurrency = 5\n")
    assert shown.model_dump() == config.load(path, ENVIRON).model_dump()


def test_every_key_of_the_settings_is_there(path):
    shown = {one.path for one in explain(path, {})}
    for name in config.SourceSettings.model_fields:
        if name not in {"name", "credentials_folder"}:
            assert ("sources", "hq", name) in shown
    for name in config.TransferSettings.model_fields:
        assert ("transfer", name) in shown


def test_the_command_prints_it(path):
    from tests.command import run  # noqa: PLC0415 -- only here

    done = run("config", "show", "-c", path, **ENVIRON)
    assert done.code == 0, done.err
    again = path.with_name("printed.toml")
    again.write_text(done.out)
    assert config.load(again, {}).sources == config.load(path, ENVIRON).sources
    assert "# $ARCHIVE_MIRROR__TRANSFER__MIN_RATE" in done.out
    as_json = json.loads(run("config", "show", "--json", "-c", path).out)
    assert as_json["sources.annex.poll_interval"] == {
        "value": "45s",
        "from": str(path),
    }


def test_in_json_a_value_is_of_its_own_kind(path):
    """Numbers, booleans, lists and tables, and null: no text of TOML."""
    from tests.command import run  # noqa: PLC0415 -- only here

    done = run("config", "show", "--json", "-c", path)
    shown = {key: each["value"] for key, each in json.loads(done.out).items()}

    assert shown["transfer.concurrency"] == 5
    assert shown["targets.nas.required"] is True
    assert shown["spool_dir"] is None
    assert shown["targets.nas.file_mode"] == "0644"
    assert shown["sources.hq.tls"] == {"verify": False}
    assert shown["sources.hq.rules"][0]["match"] == {
        "camera": [17],
        "min_age": "1s500ms",
    }


def test_the_configuration_is_checked_alone(path):
    """Without a network: neither VMS, token nor target has to be there."""
    from tests.command import run  # noqa: PLC0415 -- only here

    well = run("config", "check", "-c", path)
    path.write_text(TEXT.replace("concurrency", "concurency") + "[transfer]\nx = 1\n")
    wrong = run("config", "check", "-c", path)

    assert (well.code, well.err) == (0, "")
    assert well.out == f"{path} is well: sources hq, annex; targets nas\n"
    assert wrong.code == 78
    assert "transfer.x" in wrong.err


def test_of_a_proxy_the_user_is_not_shown(tmp_path):
    text = 'proxy = "http://user:s3cret-word@proxy.example:3128"\n'
    path = tmp_path / "archive-mirror.toml"
    path.write_text(
        f'[sources.hq]\nurl = "https://vms.example"\n{text}'
        '[targets.nas]\ntype = "directory"\npath = "/srv"\n'
    )
    shown = {one.path[-1]: one.value for one in config.explain(path, {})}

    assert shown["proxy"] == '"http://...@proxy.example:3128"'
