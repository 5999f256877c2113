"""Find exports in the ledger by what the command line says of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from mirror.app import lock
from mirror.errors import MirrorError
from mirror.ledger import Ledger

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from mirror.config import Settings
    from mirror.model import Export

MAX_ID = 2**63 - 1
_MAX_DIGITS = 4000


def reading(settings: Settings) -> AbstractContextManager[Ledger]:
    """Open the ledger; all of it is read first unless a service has done so."""
    return Ledger.reading(
        settings.state_dir, check=not lock.is_held(settings.state_dir)
    )


def find(ledger: Ledger, name: str) -> Export:
    """Return the export that a name on the command line means.

    Raises:
        MirrorError: None, or more than one.
    """
    unversioned, _, version = name.partition("~")
    head, _, created_at = unversioned.partition("@")
    source, slash, number = head.rpartition("/")
    if not _is_number(number) or (version and not _is_number(version)):
        raise typer.BadParameter(
            f"{name} is not of the form SOURCE/ID, SOURCE/ID@CREATED_AT or SOURCE/ID~2"
        )
    exports = ledger.queries.find(
        min(int(number), MAX_ID),
        source=source if slash else None,
        created_at=created_at or None,
        version=min(int(version), MAX_ID) if version else None,
    )
    if not exports:
        known = [each.name for each in ledger.queries.sources()]
        others = f"; its source is none of those known: {', '.join(known)}"
        raise MirrorError(
            f"no export {name} is known{others * bool(slash and source not in known)}; "
            "`archive-mirror list` shows all"
        )
    sources = sorted({each.source for each in exports})
    if len(sources) > 1:
        choices = ", ".join(f"{source}/{number}" for source in sources)
        raise MirrorError(f"{name} is known to several sources: {choices}")
    return exports[0]


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= _MAX_DIGITS
