"""`[http] pages` and `hosts`: the status is for this machine unless told otherwise."""

from __future__ import annotations

import pytest

from mirror import config
from mirror.config.explanation import explain
from mirror.errors import ConfigError

ALL = ("metrics", "health", "status")
OPEN = ("metrics", "health")
BASE = """
[sources.hq]
url = "https://vms.example"
[targets.nas]
type = "directory"
path = "/srv/x"
[http]
"""


@pytest.fixture
def written(tmp_path):
    def write(text):
        path = tmp_path / "archive-mirror.toml"
        path.write_text(BASE + text)
        return path

    return write


@pytest.mark.parametrize(
    ("listen", "pages"),
    [
        ("127.0.0.1:9533", ALL),
        ("127.8.9.1:0", ALL),
        ("[::1]:9533", ALL),
        ("localhost:9533", ALL),
        (":9533", OPEN),
        ("0.0.0.0:9533", OPEN),
        ("[::]:9533", OPEN),
        ("192.0.2.7:9533", OPEN),
        ("archive.example:9533", OPEN),
        ("localhost.example:9533", OPEN),
    ],
)
def test_the_default_depends_on_who_can_listen(written, listen, pages):
    """Names other than localhost may lead anywhere."""
    settings = config.load(written(f'listen = "{listen}"'), {})

    assert settings.http.pages == pages


def test_the_default_without_a_table():
    """Listening on loopback is the default, and so is all of it."""
    assert config.HttpSettings().pages == ALL


def test_the_operator_decides(written):
    """In the file or the environment, one or several."""
    path = written('listen = ":9533"\npages = ["status", "health"]')

    assert config.load(path, {}).http.pages == ("status", "health")
    environ = {"ARCHIVE_MIRROR__HTTP__PAGES": '["metrics"]'}
    assert config.load(path, environ).http.pages == ("metrics",)
    environ = {"ARCHIVE_MIRROR__HTTP__PAGES": "metrics"}
    assert config.load(path, environ).http.pages == ("metrics",)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (
            'pages = ["metrics", "admin"]',
            'http.pages[1]: must be "metrics", "health" or "status"',
        ),
        ("pages = [1]", 'http.pages[0]: must be "metrics", "health" or "status"'),
        ("pages = []", "http.pages: must not be an empty list"),
        ('page = ["metrics"]', "http.page: unknown key; did you mean pages?"),
    ],
)
def test_what_is_not_understood_is_named(written, text, fault):
    """In the words of every other key."""
    with pytest.raises(ConfigError) as caught:
        config.load(written(text), {})

    assert caught.value.problems == [fault]


def test_config_show_tells_what_is_in_effect(written):
    """Not that it depends."""
    path = written('listen = ":9533"')
    (pages,) = [one for one in explain(path, {}) if one.path == ("http", "pages")]

    assert (pages.value, pages.origin) == ('["metrics", "health"]', "default")


@pytest.mark.parametrize(
    ("text", "hosts"),
    [
        ('"mirror.example"', ("mirror.example",)),
        ('["Mirror.Example.", "xn--mnchen-3ya.example"]',
         ("Mirror.Example.", "xn--mnchen-3ya.example")),
        ('["192.0.2.7", "[2001:DB8::7]", "2001:db8:0::8"]',
         ("192.0.2.7", "2001:db8::7", "2001:db8::8")),
        ("[]", ()),
    ],
)  # fmt: skip
def test_hosts_are_names_or_addresses(written, text, hosts):
    assert config.load(written(f"hosts = {text}"), {}).http.hosts == hosts


@pytest.mark.parametrize(
    "host",
    ["", " ", "*", "*.example", "a.example:9533", "[::1]:80", "http://a.example",
     "a.example/", "a,b", "münchen.example", "a..example", ".example", "a@b"],
)  # fmt: skip
def test_what_is_no_name_is_refused(written, host):
    with pytest.raises(ConfigError) as refused:
        config.load(written(f'hosts = ["ok.example", "{host}"]'), {})

    (problem,) = refused.value.problems
    assert problem.startswith("http.hosts[1]: must be a name or an address without")
