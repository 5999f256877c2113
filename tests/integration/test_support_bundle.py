"""`support-bundle`: all that helps, nothing secret, for its owner alone."""

from __future__ import annotations

import json
import os
import stat
import tarfile

import pytest

from mirror.simulator import Vms
from tests.command import on, run_beside
from tests.site import Site

TOKEN = "canary-token-4711"
PING = "canary-ping-0815"
URL = "https://files.example/canary-path-2342?sig=canary-sig-99"


async def test_a_bundle_helps_and_holds_no_secret(tmp_path):
    """Configuration, log, status and figures; no token, no url, no user."""
    bundle, log = tmp_path / "help.tar.gz", tmp_path / "log"
    lines = [f"{number} {TOKEN} {URL}" for number in range(9000)]
    log.write_text("\n".join(lines))
    async with Vms(token=TOKEN) as vms:
        vms.add(size=20_000, name="canary-name.mp4")
        site = Site.make(tmp_path, vms)
        site.tables["heartbeat_url"] = f"https://hc.example/{PING}"
        assert (await site.once()).saved == 1
        done = await run_beside("support-bundle", bundle, "--log", log, *on(site))
        again = await run_beside("support-bundle", bundle, *on(site))
        without = await run_beside("support-bundle", tmp_path / "short", *on(site))
    assert done.code == without.code == 0, done.err + without.err
    assert (again.code, "name a new file" in again.err) == (1, True)
    assert stat.S_IMODE(bundle.stat().st_mode) == 0o600
    with tarfile.open(bundle) as packed:
        packed.extractall(tmp_path, filter="data")
    folder = tmp_path / "archive-mirror-support"
    texts = {one.name: one.read_text() for one in folder.iterdir()}

    assert "canary" not in "".join(texts.values()) + done.out + done.err
    assert json.loads(texts["status.json"])["exports"] == {"saved": 1}
    assert json.loads(texts["ledger.json"])["rows"]["exports"] == 1
    assert json.loads(texts["versions.json"])["archive-mirror"]
    assert "sources.hq.url = " in texts["configuration.txt"]
    assert "pass source hq" in texts["check.txt"]
    assert texts["log.txt"].endswith("8999 [redacted] https://files.example")
    assert len(texts["log.txt"]) < 300_000
    with tarfile.open(tmp_path / "short") as packed:
        log_text = packed.extractfile("archive-mirror-support/log.txt")
        assert log_text is not None and b"--log FILE" in log_text.read()


@pytest.mark.skipif(os.geteuid() != 0, reason="about root")
async def test_a_token_that_root_alone_may_read_is_taken_out_too(tmp_path):
    """Root has read the log; who goes on could not know what is secret in it."""
    for folder in (tmp_path, tmp_path.parent, tmp_path.parent.parent):
        folder.chmod(0o755)
    async with Vms(token=TOKEN) as vms:
        site = Site.make(tmp_path, vms)
        site.settings()
    (tmp_path / "token").chmod(0o600)
    (tmp_path / "log").write_text(f"one {TOKEN}\n")
    (tmp_path / "log").chmod(0o600)
    (tmp_path / "state").mkdir()
    os.chown(tmp_path / "state", 65534, 65534)
    bundle = tmp_path / "help.tar.gz"
    done = await run_beside(
        "support-bundle", bundle, "--log", tmp_path / "log", *on(site)
    )

    assert done.code == 0, done.err
    with tarfile.open(bundle) as packed:
        log = packed.extractfile("archive-mirror-support/log.txt")
        assert log is not None and log.read() == b"one [redacted]\n"
