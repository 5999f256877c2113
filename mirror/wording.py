"""Texts for people: sizes, durations, what to do about a reason."""

from __future__ import annotations

import re

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
_KIB = 1024
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")

ADVICE = {
    "no_file_yet": "the VMS has not made the file yet; nothing to do",
    "url_without_file": (
        "the url ends in a folder and there is no mp4 under folder + name yet; it is "
        "tried again after each walk. If exports of this VMS never get further, look "
        "at folder_url and file_origins"
    ),
    "file_gone": (
        "the file was there and is not now; it is tried again as long as the VMS lists "
        "it. If it stays away, ask for the export again on the VMS"
    ),
    "no_progress": (
        "ten attempts in a row brought nothing new; `show` tells why. It is tried "
        "again every retry_max, or at once with `retry`"
    ),
    "origin_refused": (
        "the url leads to another host than the source's; if that host is right, add "
        "it to file_origins or map it in rewrite_origins"
    ),
    "ready": "it waits for its turn, nearest deadline first; nothing to do",
    "retried": (
        "its last attempt failed, and it is tried again by itself; `show` tells what "
        "each attempt met"
    ),
    "damaged": (
        "no good copy is left on any target; it is fetched anew if the VMS has the "
        "file. `verify` reads the copies again: one that is good is taken back. Else "
        "ask for the export again on the VMS"
    ),
    "rule": "a rule of yours leaves it out; if it should not, correct it and reload",
    "held": (
        "a file came to its end and is not proven whole; it is held, and asked for "
        "again before it is kept as doubtful; nothing to do"
    ),
    "doubtful": (
        "the VMS sent the file to its end, and its structure does not prove it whole: "
        "it is kept as NAME.doubtful.mp4; `show` tells what is doubted. Play it; if it "
        "is no use, `retry` fetches it anew, or ask for the export again on the VMS"
    ),
    "changed": (
        "the file on the VMS changed after it was fetched; it is fetched again as a "
        "further version, and the one before stays; nothing to do"
    ),
    "made_again": "the VMS made the file anew; it is fetched; nothing to do",
    "spool_lost": "its file in the spool was gone or damaged; it is fetched anew",
    "never_had_a_file": "the VMS never made a file; ask for the export again there",
    "before_first_run": "its file was gone before archive-mirror first ran",
    "expired": (
        "the VMS had no file any more before one came whole; `show` tells what each "
        "attempt met. Ask for the export again there, as long as the camera's archive "
        "still holds the footage"
    ),
    "row_gone": (
        "the VMS no longer lists it and it was not kept; ask for the export again there"
    ),
}

VERDICTS = {
    "waiting": "the VMS has no file of it now",
    "ready": "its file is to be fetched",
    "fetching": "its file is being fetched",
    "parked": "its file could not be fetched so far",
    "spooled": "its file is safe here and on its way; it is on {targets}",
    "saved": "its file is kept, on {targets}",
    "doubtful": "its file is kept, on {targets}, and not proven whole",
    "excluded": "its file is not wanted",
    "unavailable": "the VMS has never had a file of it",
    "lost": "its file was not here before the VMS deleted it",
    "damaged": "its file was kept, and no copy of it is good now",
    "erased": "its file was kept, and is deleted",
}
"""How it stands with an export, by its state; `targets` are those that keep it."""


def clean(text: str) -> str:
    """Return a text from the VMS without characters that control a terminal."""
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)


def size(number: float | None) -> str:
    """Return bytes as people read them."""
    if number is None:
        return "-"
    power = 0
    while abs(number) >= _KIB and power < len(_UNITS) - 1:
        number /= _KIB
        power += 1
    return f"{number:.{min(power, 1)}f} {_UNITS[power]}"


def span(seconds: float | None) -> str:
    """Return a duration as people read it."""
    if seconds is None:
        return "-"
    sign, rest = ("-", -seconds) if seconds < 0 else ("", seconds)
    if rest < 60:  # noqa: PLR2004 -- a minute
        return f"{sign}{rest:.0f} s"
    hours, minutes = divmod(int(rest) // 60, 60)
    days, hours = divmod(hours, 24)
    parts = [(days, "d"), (hours, "h"), (minutes, "min")]
    shown = [f"{number} {unit}" for number, unit in parts if number]
    return sign + " ".join(shown[:2])


def distance(seconds: float) -> str:
    """Return how far off a moment is: `in 5 min`, `5 min ago`."""
    if abs(seconds) < 1:
        return "now"
    words = span(abs(seconds))
    return f"in {words}" if seconds > 0 else f"{words} ago"
