"""The errors this program raises, by what happens next."""

from __future__ import annotations


class MirrorError(Exception):
    """Any failure the program foresees."""


class ConfigError(MirrorError):
    """The configuration is wrong; the operator must act (exit 78).

    Attributes:
        problems: One line per problem, each with its key and what would be right.
    """

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class LockedError(MirrorError):
    """Another instance holds the state directory (exit 75)."""


class LedgerError(MirrorError):
    """The ledger cannot be read or is of another version."""


class DamagedLedgerError(LedgerError):
    """The ledger is not as it was written."""


class TransientError(MirrorError):
    """It failed now and will be retried.

    Attributes:
        reason: A short, constant name of the cause, fit for a label.
        retry_after_s: Seconds the server asks to wait; None if it does not.
    """

    def __init__(
        self, reason: str, message: str, *, retry_after_s: float | None = None
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.retry_after_s = retry_after_s


class ListError(TransientError):
    """A walk over the list failed; it proves nothing about exports not met."""


class AuthError(ListError):
    """The VMS refuses the token, or there is none."""


class FetchError(TransientError):
    """An attempt ended without the whole file; `began` if a body had begun."""

    began = True


class SpoolError(TransientError):
    """The spool cannot take bytes now; the export is not the cause."""


class NoRoomError(SpoolError):
    """The spool works, and has no room for this file now.

    Attributes:
        never: An empty spool would have no room for it either.
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
    """A target cannot keep or prove a copy now."""


class LayoutError(MirrorError):
    """A layout template is not usable."""
