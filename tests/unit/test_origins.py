"""Which address a listed url stands for, and whether we may go there."""

from __future__ import annotations

import pytest
from yarl import URL

from mirror.errors import OriginRefusedError
from mirror.vms.origins import Origins

HTTPS = Origins(base=URL("https://vms.example"))
HOME = Origins(base=URL("http://127.0.0.1:8080"))


@pytest.mark.parametrize(
    ("url", "name", "expected"),
    [
        ("https://vms.example/a/1.mp4", None, "https://vms.example/a/1.mp4"),
        ("https://VMS.example:443/a.mp4", None, "https://vms.example/a.mp4"),
        ("/storage/1.mp4", None, "https://vms.example/storage/1.mp4"),
        ("storage/1.mp4", None, "https://vms.example/storage/1.mp4"),
        ("http://vms.example/a.mp4", None, "https://vms.example/a.mp4"),
        (
            "http://127.0.0.1:8080/storage/1.mp4",
            None,
            "https://vms.example/storage/1.mp4",
        ),
        ("http://localhost/1.mp4?a=b%2Fc", None, "https://vms.example/1.mp4?a=b%2Fc"),
        ("http://[::1]:9/1.mp4", None, "https://vms.example/1.mp4"),
        ("https://vms.example/a b/ц.mp4", None, "https://vms.example/a%20b/%D1%86.mp4"),
        ("https://vms.example/a%20b.mp4", None, "https://vms.example/a%20b.mp4"),
        ("https://vms.example/100%.mp4", None, "https://vms.example/100%25.mp4"),
        (
            "https://vms.example/s/",
            "a, b/c?.mp4",
            "https://vms.example/s/a%2C%20b%2Fc%3F.mp4",
        ),
        ("https://vms.example", "a.mp4", "https://vms.example/a.mp4"),
        ("https://vms.example/s/../../1.mp4", None, None),
        ("//vms.example/s/1.mp4", None, "https://vms.example/s/1.mp4"),
        (
            "http://127.0.0.1:8080//storage/1.mp4",
            None,
            "https://vms.example//storage/1.mp4",
        ),
        ("https://vms.example./1.mp4", None, "https://vms.example/1.mp4"),
        ("https://@vms.example/1.mp4", None, "https://vms.example/1.mp4"),
        ("https://vms.example/1.mp4#frag", None, "https://vms.example/1.mp4"),
    ],
)
def test_what_a_url_stands_for(url, name, expected):
    """It is brought to the source's own origin where the rules say so."""
    found = HTTPS.resolve(url, name)

    assert found.host == "vms.example"
    if expected is not None:
        assert str(URL(str(found), encoded=True)) == str(URL(expected, encoded=True))


@pytest.mark.parametrize(
    "url",
    [
        "https://evil.example/1.mp4",
        "//evil.example/1.mp4",
        "https://vms.example.evil.example/1.mp4",
        "https://vms.example@evil.example/1.mp4",
        "https://user:pw@vms.example/1.mp4",
        "https://vms.example:8443/1.mp4",
        "http://vms.example:81/1.mp4",
        "ftp://vms.example/1.mp4",
        "file:///etc/passwd",
        "javascript:alert(1)",
        "https://169.254.169.254/latest",
        "https://vms.example\\@evil.example/1.mp4",
        "https://evil.example\t.vms.example/",
        "https://[::1",
        "http://10.0.0.1/",
        "https://xn--a/1.mp4",
        "https://.",
        "https://vms.example\N{FULLWIDTH SOLIDUS}.evil.example/1.mp4",
        "https://" + "a." * 4000 + "example/1.mp4",
    ],
)
def test_where_we_do_not_go(url):
    """Nothing but the source's own origin is asked, unless configured."""
    with pytest.raises(OriginRefusedError) as caught:
        HTTPS.resolve(url, "1.mp4")
    assert len(str(caught.value)) < 500


def test_a_refusal_names_the_remedy_and_no_path():
    """The operator learns the keys; the capability stays secret."""
    with pytest.raises(OriginRefusedError) as caught:
        HTTPS.resolve("https://s3.example/bucket/secret.mp4?sig=1", None)

    text = str(caught.value)
    assert "file_origins" in text and "rewrite_origins" in text
    assert "https://s3.example" in text and "secret" not in text and "sig" not in text


def test_a_source_on_loopback_is_not_rewritten():
    """Its own files lie where it says; another port is another origin."""
    assert str(HOME.resolve("http://127.0.0.1:8080/s/1.mp4", None)).endswith(
        "8080/s/1.mp4"
    )
    with pytest.raises(OriginRefusedError):
        HOME.resolve("http://127.0.0.1:9999/s/1.mp4", None)


def test_a_number_with_a_last_dot_is_not_looked_up():
    """`127.0.0.1.` would be a name for the resolver."""
    found = HOME.resolve("http://127.0.0.1.:8080/s/1.mp4", None)

    assert found.raw_host == "127.0.0.1"


def test_a_host_in_another_script_is_the_source_s_own():
    """As listed in Unicode or as the DNS has it."""
    origins = Origins(base=URL("https://\u043a\u0430\u043c\u0435\u0440\u0430.example"))

    for host in (
        "\u043a\u0430\u043c\u0435\u0440\u0430",
        "\u041a\u0410\u041c\u0415\u0420\u0410",
        "xn--80aaoslz",
    ):
        found = origins.resolve(f"https://{host}.example/s/\u0446.mp4", None)
        assert str(found) == "https://xn--80aaoslz.example/s/%D1%86.mp4"


def test_configured_origins_and_rewrites():
    """file_origins are taken as they are; a rewrite keeps path and query."""
    origins = Origins(
        base=URL("https://vms.example"),
        allowed=frozenset({"https://s3.example"}),
        rewrites=(("http://10.0.0.5:8080", "https://vms.example"),),
    )

    assert (
        str(origins.resolve("https://s3.example/a?x=1", None))
        == "https://s3.example/a?x=1"
    )
    moved = origins.resolve("http://10.0.0.5:8080/a?x=1", None)
    assert str(moved) == "https://vms.example/a?x=1"


def test_a_redirect_is_checked_like_a_url():
    """It may be relative; it may not lead elsewhere."""
    here = URL("https://vms.example/s/1.mp4")

    # As aiohttp gives a header's bytes that are no UTF-8.
    assert HTTPS.redirect(here, "/caf\udce9.mp4").raw_path == "/caf%E9.mp4"
    assert str(HTTPS.redirect(here, "2.mp4")) == "https://vms.example/s/2.mp4"
    for location in ("https://evil.example/", "//evil.example/", ""):
        if location:
            with pytest.raises(OriginRefusedError):
                HTTPS.redirect(here, location)
