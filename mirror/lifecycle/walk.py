"""What a walk knows when it meets a row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from mirror.model import Export, Row


@dataclass(frozen=True, slots=True, kw_only=True)
class Walk:
    """One walk over the list of a source.

    Attributes:
        source: Name of the source.
        at_us: When the walk began, by our clock.
        previous: Earlier complete walks as (began, window's lower bound by the
            VMS's clock), newest first.
        clock_offset_us: The VMS's clock less ours.
        counts_as_ours: The source's first complete sweep is over, so that the loss of
            what is first seen now counts as ours.
        lifetime_us: How long the VMS keeps a file.
        waiting_limit_us: How long a row may stay without a file.
        try_folders: A url that ends in a folder is tried with the name added.
        retry_max_us: No export that had a file waits longer between tries.
        second_look: Files that are ours are looked at again.
        rule_for: Name of the rule that excludes a row at a time by the VMS's clock, or
            None.
        looked_for: An export was looked for on the targets, in vain, since it vanished.
    """

    source: str
    at_us: int
    previous: tuple[tuple[int, int], ...]
    clock_offset_us: int
    counts_as_ours: bool
    lifetime_us: int
    waiting_limit_us: int
    try_folders: bool
    retry_max_us: int
    second_look: bool = True
    rule_for: Callable[[Row, int], str | None]
    looked_for: Callable[[Export], bool]

    @property
    def oldest_us(self) -> int:
        """When, by the VMS's clock, a file was made that it deletes now."""
        return self.at_us + self.clock_offset_us - self.lifetime_us
