"""The errors this program raises on purpose, by what happens next."""

from __future__ import annotations


class MirrorError(Exception):
    """Any failure the program foresees."""


class ConfigError(MirrorError):
    """The configuration cannot be understood; the operator acts (exit 78).

    Attributes:
        problems: One line per fault, each with its key and what would be right.
    """

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class LockedError(MirrorError):
    """Another instance holds the state directory (exit 75)."""


class LedgerError(MirrorError):
    """The ledger cannot be read or is of another version."""


class DamagedLedgerError(LedgerError):
    """The ledger is not what was written to it."""


class TransientError(MirrorError):
    """It failed now and is tried again later.

    Attributes:
        reason: A short, constant name of the cause, fit for a label.
        retry_after_s: What the server asked for, in seconds, if it did.
    """

    def __init__(
        self, reason: str, message: str, *, retry_after_s: float | None = None
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.retry_after_s = retry_after_s


class ListError(TransientError):
    """A walk over the list failed; nothing may be concluded from it."""


class AuthError(ListError):
    """The VMS refuses the token, or there is none."""


class FetchError(TransientError):
    """An attempt to fetch a file ended without the whole file.

    Attributes:
        began: A body had begun.
    """

    began = True


class SpoolError(TransientError):
    """The spool cannot take bytes now; no fault of the export's."""


class NoRoomError(SpoolError):
    """The spool is in order, and has no room for this file now.

    Attributes:
        never: Nor will it have, were it empty.
    """

    def __init__(
        self,
        reason: str,
        message: str,
        *,
        retry_after_s: float | None = None,
        never: bool = False,
    ) -> None:
        super().__init__(reason, message, retry_after_s=retry_after_s)
        self.never = never


class FileGoneError(MirrorError):
    """The source has no file behind the url just now (403, 404, 410, no mp4)."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class OriginRefusedError(MirrorError):
    """The url leads to an origin that is not allowed; no request was made."""


class TargetError(TransientError):
    """A target cannot take or prove a copy now."""


class LayoutError(MirrorError):
    """A layout template is not usable."""
