"""Look at one source: token, list, certificate, clock, a file's first byte."""

from __future__ import annotations

import os
import stat
from functools import partial
from typing import TYPE_CHECKING

from yarl import URL

from mirror.app.check.finding import FILES_S, Finding, Grade, bounded
from mirror.errors import FileGoneError, ListError, MirrorError
from mirror.model import to_us, utc_now
from mirror.ports import Batch, ResumePoint
from mirror.vms import Proxies, variable_of
from mirror.wording import span

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from mirror.config import SourceSettings
    from mirror.ports import Page
    from mirror.vms import VmsClient

_DAY_S = 86_400
_DAY_US = 86_400_000_000
_CLOCK_WARN_S = 60.0
_FILE_S = 60.0
_ENDS_SOON_S = 14 * _DAY_S
_WHOLE_FILE = ResumePoint(size_bytes=0)


async def check(
    client: VmsClient, source: SourceSettings, *, first_byte_s: float
) -> list[Finding]:
    """Return what is found; what depends on a step that failed is not looked at.

    The service waits for `first_byte_s` for a file at its first try.
    """
    about_file, readable = await _token_file(source.name, source.token_path)
    if not readable:
        return about_file
    now_us = to_us(utc_now())
    try:
        page = await client.page(
            1, since_us=now_us - _DAY_US, until_us=now_us + _DAY_US
        )
    except ListError as exc:
        name = f"source {source.name}"
        failed = Finding(name=name, grade=Grade.FAIL, detail=str(exc))
        return [failed, *about_file, *_proxy(source, os.environ)]
    return [
        _list(source.name, page),
        *about_file,
        *_proxy(source, os.environ),
        *_token(source.name, client.token_expiry_s),
        *_certificate(client, source),
        *_clock(source.name, page),
        *await _first_byte(client, source.name, page, min(first_byte_s, _FILE_S)),
    ]


def _list(source: str, page: Page) -> Finding:
    """Judge what came as the list: rows that all are no rows are no list."""
    name = f"source {source}"
    if page.bad_rows and not page.rows:
        none = "the list answers, and no row of it can be understood ("
        none += f"{page.bad_rows[0].error}); check list_path, and the version of "
        none += "the VMS"
        return Finding(name=name, grade=Grade.FAIL, detail=none)
    listed = page.size if page.total is None else page.total
    detail = f"the list answers; {listed} exports of the last day"
    if page.bad_rows:
        detail += f", but {len(page.bad_rows)} rows cannot be understood ("
        detail += f"{page.bad_rows[0].error}): these exports are not seen"
        return Finding(name=name, grade=Grade.WARN, detail=detail)
    return Finding(name=name, grade=Grade.PASS, detail=detail)


async def _token_file(source: str, path: Path | None) -> tuple[list[Finding], bool]:
    """Judge who may read the token, and whether reading it would hang."""
    name = f"token of source {source}"
    if path is None:
        return [], True
    try:
        mode = (await bounded(partial(os.stat, path))).st_mode
    except TimeoutError:
        detail = f"{path}: no answer for {FILES_S:.0f} s, its disk or mount hangs; put "
        detail += "the token on a local disk"
        return [Finding(name=name, grade=Grade.FAIL, detail=detail)], False
    except OSError:
        return [], True  # reading it tells
    if not mode & stat.S_IROTH:
        return [], True
    detail = f"anybody on this machine may read {path}; chmod 0600 it"
    return [Finding(name=name, grade=Grade.WARN, detail=detail)], True


def _proxy(source: SourceSettings, environ: Mapping[str, str]) -> list[Finding]:
    """Tell of a proxy that the environment names, should it not be used."""
    address = URL(source.url)
    if source.proxy is not None or Proxies.of_environment(environ).of(address) is None:
        return []
    name = f"proxy of source {source.name}"
    variable = variable_of(environ, f"{address.scheme}_proxy")
    detail = f"{variable} in the environment names one that is not "
    detail += 'used; if the VMS is behind it, set proxy = "environment"'
    return [Finding(name=name, grade=Grade.WARN, detail=detail)]


def _token(source: str, end_s: int | None) -> list[Finding]:
    if end_s is None:
        return []
    soon = _left_s(end_s) < _ENDS_SOON_S
    remedy = f"; make a new one on the VMS, then `archive-mirror token set {source}`"
    grade = Grade.WARN if soon else Grade.PASS
    detail = f"good for {span(_left_s(end_s))}{remedy if soon else ''}"
    return [Finding(name=f"token of source {source}", grade=grade, detail=detail)]


def _certificate(client: VmsClient, source: SourceSettings) -> list[Finding]:
    name = f"certificate of source {source.name}"
    if not source.tls.verify and source.url.startswith("https:"):
        risk = "it is not verified (tls.verify = false), anybody in between can pose "
        risk += "as the VMS; set tls.ca_file or tls.fingerprint instead"
        return [Finding(name=name, grade=Grade.WARN, detail=risk)]
    end_s = client.certificate_end_s
    if end_s is None:
        return []
    soon = _left_s(end_s) < _ENDS_SOON_S
    remedy = "; renew it on the VMS: without it nothing can be fetched"
    grade = Grade.WARN if soon else Grade.PASS
    detail = f"good for {span(_left_s(end_s))}{remedy if soon else ''}"
    return [Finding(name=name, grade=grade, detail=detail)]


def _left_s(end_s: int) -> float:
    return max(0.0, end_s - to_us(utc_now()) / 1e6)


def _clock(source: str, page: Page) -> list[Finding]:
    if page.clock_offset_us is None:
        return []
    offset_s = page.clock_offset_us / 1e6
    detail, grade = f"{offset_s:+.1f} s against ours", Grade.PASS
    if abs(offset_s) > _CLOCK_WARN_S:
        detail += "; check the time on both machines (deadlines are corrected for it)"
        grade = Grade.WARN
    return [Finding(name=f"clock of source {source}", grade=grade, detail=detail)]


async def _first_byte(
    client: VmsClient, source: str, page: Page, wait_s: float
) -> list[Finding]:
    """Ask for the newest file on the page, and for no more than its beginning."""
    with_file = [row for row in page.rows if row.has_file and row.url]
    if not with_file:
        return []
    newest = max(with_file, key=lambda row: (row.created_us or 0, row.export_id))
    name, what = f"file of source {source}", f"export {newest.export_id}"
    wanted = newest.url or "", newest.name, _WHOLE_FILE
    try:
        async with client.open_file(*wanted, first_byte_s=wait_s) as body:
            arrived = await body.fill(Batch(1))
    except FileGoneError as exc:
        detail = f"{what}: {exc}; right if the VMS has just deleted it. If it stays "
        detail += "so, open a file on the VMS's own page, and look at the url of "
        detail += "its row"
        return [Finding(name=name, grade=Grade.WARN, detail=detail)]
    except MirrorError as exc:
        detail = f"{what}: {exc}; does it open on the VMS's own page? `archive-mirror "
        detail += f"probe {source}` finds out more"
        return [Finding(name=name, grade=Grade.FAIL, detail=detail)]
    if not arrived:
        detail = f"{what}: it is empty; open it on the VMS's own page: empty there "
        detail += "too, ask for the export again"
        return [Finding(name=name, grade=Grade.FAIL, detail=detail)]
    detail = f"{what}: its first bytes come"
    return [Finding(name=name, grade=Grade.PASS, detail=detail)]
