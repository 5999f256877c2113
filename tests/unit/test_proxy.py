"""Which proxy a request goes by."""

from __future__ import annotations

import pytest
from yarl import URL

from mirror.vms.proxy import Proxies

PLAIN, TLS = "http://plain.example:3128", "http://tls.example:3128"


@pytest.mark.parametrize(
    ("environ", "address", "expected"),
    [
        ({}, "http://vms.example", None),
        ({"HTTP_PROXY": PLAIN}, "http://vms.example", PLAIN),
        ({"HTTP_PROXY": PLAIN}, "https://vms.example", None),
        ({"HTTPS_PROXY": TLS}, "https://vms.example", TLS),
        ({"https_proxy": TLS, "HTTPS_PROXY": PLAIN}, "https://vms.example", TLS),
        ({"https_proxy": "", "HTTPS_PROXY": TLS}, "https://vms.example", TLS),
        ({"HTTP_PROXY": "plain.example:3128"}, "http://vms.example", PLAIN),
        ({"HTTP_PROXY": " "}, "http://vms.example", None),
        ({"NO_PROXY": "vms.example"}, "http://vms.example", None),
        ({"NO_PROXY": " a.example , .EXAMPLE"}, "http://vms.example", None),
        ({"NO_PROXY": "ms.example"}, "http://vms.example", PLAIN),
        ({"no_proxy": "*"}, "http://vms.example", None),
        ({"NO_PROXY": "vms.example:81"}, "http://vms.example", PLAIN),
        ({"NO_PROXY": "vms.example:81"}, "http://vms.example:81", None),
        ({"NO_PROXY": "10.0.0.7,::1"}, "http://10.0.0.7", None),
        ({"NO_PROXY": "10.0.0.7,::1"}, "http://[::1]:80", None),
        ({"NO_PROXY": ",,"}, "http://vms.example", PLAIN),
    ],
)
def test_what_the_environment_says(environ, address, expected):
    """As curl has it: lower case first, and what NO_PROXY names is asked directly."""
    if set(environ) & {"NO_PROXY", "no_proxy"}:
        environ |= {"HTTP_PROXY": PLAIN}
    found = Proxies.of_environment(environ).of(URL(address))

    assert found == (None if expected is None else URL(expected))


def test_one_that_is_named_serves_all():
    """The proxy of a source is used for http and for https."""
    proxies = Proxies.always(PLAIN)

    assert proxies.of(URL("http://a")) == proxies.of(URL("https://a")) == URL(PLAIN)
    assert Proxies().of(URL("http://a")) is None


def test_its_password_is_secret():
    proxies = Proxies.always("http://user:p%40ssword@proxy.example:3128")

    assert proxies.secrets == {"p@ssword", "p%40ssword"}
    assert proxies.hosts == {"proxy.example"}
