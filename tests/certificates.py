"""Certificates for tests, good and bad, made with the openssl command."""

from __future__ import annotations

import hashlib
import shutil
import ssl
import subprocess
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
_CA_CONFIG = """
[ca]
default_ca = a
[a]
dir = .
database = index.txt
new_certs_dir = .
rand_serial = yes
default_md = sha256
policy = p
copy_extensions = copy
unique_subject = no
[p]
commonName = supplied
"""


@dataclass(frozen=True, slots=True)
class Certificates:
    """Two authorities, `ca` and `other_ca`, and certificates of 127.0.0.1.

    `good`, `second`, `wrong_name`, `expired` and `early` are signed by `ca`; `self` and
    `old_self` by themselves, as a VMS makes them at its installation; the latter has
    expired.
    """

    folder: Path

    def context(self, name: str) -> ssl.SSLContext:
        """Return what a server needs to show one of them."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(
            self.folder / f"{name}.pem", self.folder / f"{name}.key"
        )
        return context

    @property
    def authority(self) -> Path:
        """The certificate of `ca`."""
        return self.folder / "ca.pem"

    def fingerprint(self, name: str) -> bytes:
        """Return the SHA-256 of a certificate."""
        text = (self.folder / f"{name}.pem").read_text()
        return hashlib.sha256(ssl.PEM_cert_to_DER_cert(text)).digest()


def make_certificates(folder: Path) -> Certificates:
    """Make all of them; skips where there is no openssl command."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("needs the openssl command, to make certificates with")

    def run(*arguments: str) -> None:
        subprocess.run(
            [openssl, *arguments], cwd=folder, check=True, capture_output=True
        )

    now = datetime.now(UTC)
    (folder / "index.txt").touch()
    (folder / "ca.cnf").write_text(_CA_CONFIG)
    for name in ("ca", "other_ca"):
        run(
            "req", "-x509", *_KEY, "-keyout", f"{name}.key", "-out", f"{name}.pem",
            "-days", "2", "-subj", f"/CN=test {name}",
            "-addext", "keyUsage=critical,keyCertSign",
        )  # fmt: skip
    for name, alternative, signer, first, last in (
        ("good", "IP:127.0.0.1", "ca", -1, 2),
        ("second", "IP:127.0.0.1", "ca", -1, 2),
        ("wrong_name", "DNS:vms.example,IP:127.0.0.9", "ca", -1, 2),
        ("expired", "IP:127.0.0.1", "ca", -30, -1),
        ("early", "IP:127.0.0.1", "ca", 1, 30),
        ("self", "IP:127.0.0.1", "", -1, 2),
        ("old_self", "IP:127.0.0.1", "", -30, -1),
    ):
        run(
            "req", "-new", *_KEY, "-keyout", f"{name}.key", "-out", f"{name}.csr",
            "-subj", f"/CN=test {name}", "-addext", f"subjectAltName={alternative}",
        )  # fmt: skip
        signed = ["-cert", f"{signer}.pem"] if signer else ["-selfsign"]
        run(
            "ca", "-batch", "-notext", "-config", "ca.cnf", *signed,
            "-keyfile", f"{signer or name}.key", "-in", f"{name}.csr",
            "-out", f"{name}.pem",
            "-startdate", f"{now + timedelta(days=first):%Y%m%d%H%M%SZ}",
            "-enddate", f"{now + timedelta(days=last):%Y%m%d%H%M%SZ}",
        )  # fmt: skip
    return Certificates(folder)
