"""What a VMS may list as names and urls to do harm, or by mere bad luck."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Final

_RESERVED: Final = (
    "CON", "PRN", "AUX", "NUL", "CONIN$", "CONOUT$", "CLOCK$", "COM0", "COM1", "COM2",
    "COM3", "COM9", "COM\u00b9", "COM\u00b2", "COM\u00b3", "LPT0", "LPT1", "LPT5",
    "LPT9", "LPT\u00b9", "LPT\u00b3",
)  # fmt: skip
_UP: Final = (
    "..", ".", "...", "../", "./", "..\\", "/", "//", "\\", "\\\\", "../../escaped",
    "../../../../../../../../tmp/escaped", "..\\..\\escaped", "/etc/passwd",
    "/tmp/escaped", "//server/share", "\\\\server\\share\\x", "\\\\?\\C:\\x",
    "\\\\.\\PhysicalDrive0", "C:\\Windows\\x", "C:x", "c:/x", "a:b", "file::$DATA",
    "..%2f..%2fescaped", "%2e%2e/escaped", "..%5cescaped", "..%c0%afescaped",
    "..\u2215..\u2215escaped", "..\uff0fescaped", "\uff0e\uff0e/x", "..\0/escaped",
    "a/../../../escaped", "a/./b", "a//b", "~/escaped", "~root/x", ".../...//escaped",
    "....//....//escaped", " ../escaped", "..;/escaped", "\u2025/\u2025",
    "x/../../../../escaped.mp4", "./-rf", "/proc/self/fd/0", "/dev/null",
    "..\r/escaped", ".\u200b./escaped", "\u2024\u2024/x",
)  # fmt: skip
_OURS: Final = (
    ".archive-mirror", ".archive-mirror/target.json", "target.json", ".ARCHIVE-MIRROR",
    "archive-mirror/tmp", ".archive-mirror\\tmp", ".Archive-Mirror.",
    "../.archive-mirror", ".archive-mirror/spool/x", "spool", "tmp", "sidecar.mp4.json",
    "x.mp4.json", "x.json", "x.mp4", "x.MP4", "x.mp4.mp4", ".mp4", "..mp4", "mp4",
    ".json", "x.part", "x.tmp", "x~", "x~2", "x~2.mp4", "x~2~2", "x~3", "~2", "~",
    "x~9999", "x~10000", "X~2", "x ~2", "x.mp4~2",
)  # fmt: skip
_CODE: Final = (
    "{}", "{id}", "{0}", "{name.__class__}", "{{", "}}", "{name!r}", "{from:%Y}", "%s",
    "%n%n%n", "%d", "%(x)s", "%", "%%", "%Y/%m", "${HOME}", "$(reboot)", "`reboot`",
    "; rm -rf /", "| cat", "&& x", "> x", "< x", "*", "?", "[a-z]", "!", "'", '"',
    "' OR 1=1 --", "'); DROP TABLE exports;--", "<script>alert(1)</script>", "<!--",
    "&amp;", "=1+1", "@x", "+x", "-rf", "--help", "-", "--", "-o ProxyCommand=x", "#x",
    ":x", "a=b", "a b", "a,b", "a;b", "a|b", "\\n", "\\x00", "\\u0000", "null", "None",
    "undefined", "NaN", "true", "0", "-1", "1e9", "unknown",
)  # fmt: skip
_CHARACTERS: Final = (
    *map(chr, range(0x20)), "\x7f", "\x80", "\x85", "\x9b31m", "\x1b[2J", "\x1b]0;x\a",
    "\u00a0", "\u00ad", "\u034f", "\u061c", "\u115f", "\u1680", "\u180e", "\u200b",
    "\u200d", "\u200e", "\u200f", "\u2028", "\u2029", "\u202a", "\u202d",
    "\u202e4pm.exe", "\u2060", "\u2066x\u2069", "\u2068", "\u3000", "\u3164", "\ufe0f",
    "\ufeff", "\ufff9", "\ufffd", "\uffff", "\ufdd0", "\ue000", "\uf02a", "\U0001f3a5",
    "\U0001f468\u200d\U0001f469\u200d\U0001f467", "\U0001f1e9\U0001f1ea", "\U000e0041",
    "\U000f0000", "\U0010ffff", "\u0301", "\u0301" * 50, "a\u0301\u0327", "line\nfeed",
    "line\r\nfeed", "tab\there", "nul\0byte", "x\n", "\nx", "x\0", "x\0.mp4",
)  # fmt: skip
_SURROGATES: Final = (
    "\ud800", "\udfff", "x\ud83d", "\udc00x", "\ud800\ud800", "\udc80\udcff",
    "\ud83d\ud83d\U0001f3a5",
)  # fmt: skip
_PAIRS: Final = (
    "Gate", "gate", "GATE", "gAtE", "Caf\u00e9", "Cafe\u0301", "CAFE\u0301", "\u212b",
    "\u00c5", "A\u030a", "\u00e5", "Stra\u00dfe", "STRASSE", "strasse", "\u1e9e",
    "\ufb01lm", "film", "FILM", "\uff21", "\uff41", "a", "A", "\u212a", "k", "K",
    "\u0130", "i\u0307", "I", "\u0131", "i", "\u03c3", "\u03c2", "\u03a3",
    "\u1112\u1161\u11ab", "\ud55c", "\u2126", "\u03c9", "\u01c6", "\u01c4", "\u01c5",
    "\u0345", "\u03b9", "\u041a\u0430\u043c\u0435\u0440\u0430",
    "\u041a\u0410\u041c\u0415\u0420\u0410", "\u5317\u9580", "\u5317\u9580 ", "\u2160",
    "\u2170", "\u00b5", "\u03bc",
)  # fmt: skip
_LONG: Final = (
    "x" * 240, "x" * 241, "x" * 251, "x" * 252, "x" * 255, "x" * 256, "x" * 4096,
    "x" * 8192, "x" * 8193, "x" * 20_000, "\u0416" * 120, "\u0416" * 127,
    "\u0416" * 128, "\u5317" * 85, "\u5317" * 86, "\U0001f3a5" * 60, "\U0001f3a5" * 64,
    "a" + "\u0416" * 127, "a" + "\U0001f3a5" * 63, "e\u0301" * 90, "a/" * 130,
    "../" * 90, "." * 255, " " * 255, "-" * 255, "~" * 255, "CON" + " " * 260,
    "x" * 230 + ".mp4", "x" * 236 + ".mp4.json", "\ufdfa" * 80, "\u1e9e" * 100,
    "x " * 120, "x." * 120,
)  # fmt: skip
_ENDS: Final = (
    "x.", "x ", "x. ", "x .", "x...", "x   ", " x", "  x  ", ". x", "x.\u00a0",
    "x\u3000", "\u00a0x", "x\t", ".x", "..x", "x..", "x.mp4.", "x.mp4 ", "x.mp4. .", "",
    " ", "  ", "\u3000\u00a0", ". . .", " .- ~x", "Thumbs.db", "desktop.ini",
    ".htaccess", ".DS_Store", "._x", "$RECYCLE.BIN", "System Volume Information",
    "lost+found", ".nfs0001", ".fuse_hidden", "x.lnk", "x.url", "x.exe", "x.avi",
)  # fmt: skip
_NO_TEXT: Final[tuple[object, ...]] = (
    None, 0, 7, -1, 1.5, 2**70, True, False, [], ["a", "../b"], {}, {"x": "../y"},
    [None], [[[]]],
)  # fmt: skip

NAMES: Final[tuple[object, ...]] = (
    *_UP,
    *_OURS,
    *_CODE,
    *_CHARACTERS,
    *_SURROGATES,
    *_PAIRS,
    *_LONG,
    *_ENDS,
    *_NO_TEXT,
    *itertools.chain.from_iterable(
        (name, f"{name.lower()}.mp4", f"{name} .txt") for name in _RESERVED
    ),
)
"""Values of `name` as JSON has them."""


@dataclass(frozen=True, slots=True)
class Url:
    """A listed url and how its export ends.

    Attributes:
        text: With `{host}` and `{port}` of the source, `{elsewhere}`, the port of a
            server on the same host that may not be asked, and `{path}` of the file.
        end: `saved`; `refused`; or `missing`: asked of the source, which has no file
            there.
        abroad: The end where the source is not on loopback.
    """

    text: str
    end: str
    abroad: str = ""

    @property
    def as_location(self) -> bool:
        """A header can carry it, and leads on from the address it was sent by."""
        return self.text.isprintable() and not self.text.startswith(("?", "#"))


_SCHEMES: Final = (
    "ftp", "ftps", "sftp", "gopher", "dict", "ldap", "ldaps", "telnet", "tftp", "smb",
    "ws", "wss", "rtsp", "rtmp", "ssh", "git", "s3", "gs", "http+unix", "unix",
    "netdoc", "phar", "zip", "view-source", "chrome", "httpx", "xhttp", "h2c", "about",
    "blob",
)  # fmt: skip
_OTHERS: Final = (
    # Names of others, and names that look like the source's.
    "evil.example", "evil.example:{port}", "{host}.evil.example:{port}",
    "{host}evil.example", "evil-{host}", "a.{host}:{port}", "%65vil.example",
    "{host}%2eevil.example", "{host}%00.evil.example", "{host};.evil.example",
    "{host}&.evil.example", "\u0435vil.example", "evil\u3002example", "xn--a", "xn--0",
    "xn--" + "a" * 60 + ".example", "evil.example.", "evil..example", "_", "-", "*",
    "a" * 64 + ".example", "a." * 130 + "example", "x" * 7000, "{host}:{elsewhere}",
    "{host}:1", "{host}:0", "{host}:8443", "{host}", "evil.example:80",
    # Numbers that some readers take for the source's, or for an inner network.
    "0:{elsewhere}", "0.0.0.0:{elsewhere}", "2130706433:{port}", "0x7f000001:{port}",
    "0x7f.0.0.1:{port}", "017700000001:{port}", "0177.0.0.1:{port}", "127.1:{port}",
    "127.0.1:{port}", "10.0.0.1", "10.0.0.5:8080", "172.16.0.1", "192.168.0.1",
    "192.168.0.1:{port}", "100.64.0.1", "169.254.169.254", "169.254.170.2",
    "2852039166", "0xa9fea9fe", "0251.0376.0251.0376", "100.100.100.200", "192.0.2.1",
    "224.0.0.1", "255.255.255.255", "[::]:{port}", "[fd00:ec2::254]", "[fe80::1]",
    "[fe80::1%25eth0]", "[2001:db8::1]:{port}", "[::ffff:10.0.0.1]",
    "[64:ff9b::a9fe:a9fe]", "metadata.google.internal", "localtest.me:{port}",
    "127.0.0.1.nip.io:{port}", "localhost.localdomain:{port}", "ip6-localhost:{port}",
    "host.docker.internal", "kubernetes.default.svc",
)  # fmt: skip
_LOOPBACK: Final = (
    "localhost:{port}", "LocalHost:{port}", "localhost.:{port}", "a.localhost:{port}",
    "127.0.0.2:{port}", "127.255.255.254", "[::1]:{port}", "[::1]:{elsewhere}",
    "[0:0:0:0:0:0:0:1]:{port}", "127.0.0.1:{elsewhere}", "127.0.0.1:8080", "[::1%25lo]",
)  # fmt: skip
_NOBODY: Final = (
    # No host, a user, or what is no address at all.
    "http://user@{host}:{port}{path}", "http://user:pw@{host}:{port}{path}",
    "http://:pw@{host}:{port}{path}", "http://{host}:{port}@evil.example{path}",
    "http://evil.example@{host}:{port}{path}", "http://a@b@{host}:{port}{path}",
    "http://{host}:{port}\\@evil.example{path}",
    "http://evil.example\\@{host}:{port}{path}", "http://evil.example\\{path}",
    "http://{host}\t.evil.example{path}", "http://evil.example\n{path}",
    "http://{host} .evil.example{path}", "http://{host}\0.evil.example{path}",
    "http://evil.example\x7f{path}", "http://[{path}", "http://]{path}",
    "http://[::1{path}", "http://[]{path}", "http://[::1]evil.example{path}",
    "http://[{host}]:{port}{path}", "http://[::1:2:3:4:5:6:7:8]{path}",
    "http://{host}:99999{path}", "http://{host}:65536{path}", "http://{host}:-1{path}",
    "http://{host}:abc{path}", "http://{host}:{port}:{port}{path}",
    "http://{host}:0x50{path}", "http://{host}:\uff18\uff10{path}",
    "http://:{port}{path}", "http://.{path}", "http://..{path}", "http://%{path}",
    "http://|{path}", "http://^{path}", "http://evil.example?@{host}:{port}{path}",
    "http://evil.example#@{host}:{port}{path}", "//evil.example{path}",
    "//{host}:{elsewhere}{path}", "//169.254.169.254{path}",
    "https://{host}:{port}{path}", "https://{host}{path}",
    "HTTPS://{host}:{port}{path}", "file:///etc/passwd", "file://{host}/etc/passwd",
    "FILE:///etc/passwd", "file:/etc/passwd", "javascript:alert(1)",
    "data:video/mp4;base64,AAAA", "mailto:root@evil.example", "urn:x", "about:blank",
    "jar:http://{host}:{port}{path}!/x",
)  # fmt: skip
_OWN: Final = (
    # Odd ways to say the source's own address.
    "http://{host}:{port}{path}", "HTTP://{host}:{port}{path}",
    "hTtP://{host}:{port}{path}", "http://{host}.:{port}{path}",
    "http://{host}..:{port}{path}", "http://{host}:0{port}{path}",
    "http://@{host}:{port}{path}", "//{host}:{port}{path}", "{path}",
    " http://{host}:{port}{path}\n", "http://{host}:{port}{path}#x",
    "http://{host}:{port}{path}#@evil.example/", "http://{host}:{port}{path}?x=1",
    "http://{host}:{port}{path}?url=http://evil.example/", "{path}?a=b&c=%2F..%2F",
    "http://{host}:{port}{path}?@evil.example", "{path}#", "{path}?",
    "http://{host}:{port}{path}?" + "x" * 7000,
)  # fmt: skip
_NOT_THERE: Final = (
    # The source's own, and no file there.
    "///evil.example{path}", "////evil.example{path}", "http:///evil.example{path}",
    "http:evil.example{path}", "http:/evil.example{path}",
    "http:\\\\evil.example{path}", "\\\\evil.example{path}", "/\\evil.example{path}",
    "\\/evil.example{path}", "evil.example{path}",
    "http://{host}:{port}//evil.example{path}", "http://{host}:{port}/..//..{path}x",
    "http://{host}:{port}/%2e%2e{path}", "http://{host}:{port}{path}/../x",
    "http://{host}:{port}/%2f%2fevil.example{path}",
    "http://{host}:{port}/@evil.example{path}", "http://{host}:{port}{path}%00",
    "http://{host}:{port}{path}%0d%0aHost:%20evil.example", "../../../../etc/passwd",
    "http://{host}:{port}{path}\r\nHost: evil.example",
    "http\uff1a//evil.example{path}",
    "http\uff1a//evil.example\uff0f@evil.example",
)  # fmt: skip

URLS: Final = (
    *(Url(f"{scheme}://{{host}}:{{port}}{{path}}", "refused") for scheme in _SCHEMES),
    *(Url(f"http://{host}{{path}}", "refused") for host in _OTHERS),
    *(Url(f"http://{host}{{path}}", "refused", "saved") for host in _LOOPBACK),
    *(Url(text, "refused") for text in _NOBODY),
    *(Url(text, "saved") for text in _OWN),
    *(Url(text, "missing") for text in _NOT_THERE),
)
"""Values of `url`, most of them of no good."""
