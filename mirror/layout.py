"""The path of an export on a target: pure, from a template to a safe path.

A path must be valid on the strictest target (SMB read by Windows) and never leave the
target's root, whatever the names of cameras and exports contain.
"""

from __future__ import annotations

import functools
import re
import string
import unicodedata
from dataclasses import dataclass
from datetime import UTC
from typing import TYPE_CHECKING, Final

from pathvalidate import sanitize_filename

from mirror.errors import LayoutError

if TYPE_CHECKING:
    from datetime import datetime, tzinfo

SUFFIX: Final = ".mp4"
DOUBTFUL: Final = ".doubtful"
UNKNOWN: Final = "unknown"
MAX_SEGMENT_BYTES: Final = 230
"""Leaves room below 255 for `~9999`, `.doubtful` and `.json`."""
MAX_PATH_BYTES: Final = 1000
"""Leaves room below 1024 for the same."""

_TIMES: Final = ("from", "to", "created_at")
_SHRINKABLE: Final = ("name", "camera_name", "stream_type", "source")
"""Fields that are shortened where a path is too long, first to last."""
_ALLOWED: Final = (*_SHRINKABLE, "id", "camera_id", *_TIMES)
_DEFAULT_SPEC: Final = "%Y-%m-%d_%H-%M-%S"
_DIRECTIVES: Final = frozenset("aAbBdfGHIjmMpSuUVwWyYzZ%")

_MIN_VALUE_BYTES: Final = 10
_MAX_FIXED_BYTES: Final = 200
_MAX_TOTAL_BYTES: Final = 800
_MAX_SEGMENTS: Final = 32
_NUMBER_BYTES: Final = 20
_DIRECTIVE_BYTES: Final = 9
_SPARE_BYTES: Final = 4
"""Bytes that sanitising a whole segment may add."""

_BAD: Final = frozenset('<>:"|?*\\/')
_BAD_CATEGORIES: Final = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
_SUFFIXES: Final = re.compile(
    r"\.(3gp|asf|avi|doubtful|flv|h26[45]|hevc|m4v|mjpe?g|mkv|mov|mp4|mpe?g|ts|webm"
    r"|wmv)\Z",
    re.IGNORECASE,
)
PLAIN: Final = re.compile(r"\w{8}[\w ()+,.=@~-]*", re.ASCII)
"""What every target stores unchanged: no device's name is so long."""
_DRIVE: Final = re.compile(r"[A-Za-z]:/")


@dataclass(frozen=True, slots=True, kw_only=True)
class Values:
    """The values of an export that a layout may show; times are aware."""

    source: str
    export_id: int
    name: str | None
    camera_id: int | None
    camera_name: str | None
    stream_type: str | None
    footage_from: datetime | None
    footage_to: datetime | None
    created_at: datetime | None


@dataclass(frozen=True, slots=True)
class _Piece:
    """Literal text (`field` empty), a field's time format, or what it rendered to."""

    field: str
    text: str


class Layout:
    """A checked template, and the names of the fields it uses."""

    def __init__(self, parts: tuple[_Piece, ...], zone: tzinfo) -> None:
        self._parts = parts
        self._zone = zone
        self.fields = frozenset(part.field for part in parts if part.field)

    def render(self, values: Values) -> str:
        """Return the path, relative, ending in `.mp4`; the same for the same values.

        What is missing shows as `unknown`. Where the path is too long, names give
        way; `{id}` is never cut.
        """
        segments = self._segments(values)
        path = ""
        for limit in range(MAX_SEGMENT_BYTES, 0, -20):
            shortened = (_shorten(segment, limit) for segment in segments)
            *folders, last = (_sanitise(text, MAX_SEGMENT_BYTES) for text in shortened)
            stem = _sanitise(_without_suffix(last), MAX_SEGMENT_BYTES - len(SUFFIX))
            path = "/".join([*folders, stem + SUFFIX])
            if len(path.encode()) <= MAX_PATH_BYTES:
                break
        return path

    def _segments(self, values: Values) -> list[list[_Piece]]:
        segments: list[list[_Piece]] = [[]]
        for part in self._parts:
            if not part.field:
                texts = part.text.split("/")
            elif part.field in _TIMES:
                texts = self._times(part, values)
            else:
                texts = [_clean(_value(part.field, values)).strip() or UNKNOWN]
            for number, text in enumerate(texts):
                if number:
                    segments.append([])
                segments[-1].append(_Piece(part.field, text))
        return segments

    def _times(self, part: _Piece, values: Values) -> list[str]:
        """Return the text of a time in this segment, then in each further one."""
        name = "created_at" if part.field == "created_at" else f"footage_{part.field}"
        moment: datetime | None = getattr(values, name)
        try:
            local = None if moment is None else moment.astimezone(self._zone)
        except (OverflowError, ValueError):  # the first or last day of the calendar
            local = None
        if local is None:
            return [UNKNOWN]
        return [_clean(local.strftime(spec)) for spec in part.text.split("/")]


def parse_layout(template: str, *, zone: tzinfo = UTC) -> Layout:
    """Check a template such as `{source}/{from:%Y/%m}/{id}-{name}`.

    Times are shown in `zone`; their formats may hold `/` too.

    Raises:
        LayoutError: It names the field or segment that is wrong, and what would do.
    """
    try:
        parsed = list(string.Formatter().parse(template))
    except ValueError as exc:
        raise LayoutError(f"layout {template!r}: {exc}; write a brace as {{{{") from exc
    parts: list[_Piece] = []
    for literal, field, spec, conversion in parsed:
        if literal:
            parts.append(_Piece("", literal))
        if field is not None:
            parts.append(_field(field, spec or "", conversion))
    _check_segments(template, parts)
    return Layout(tuple(parts), zone)


def path_key(path: str) -> str:
    """Return a key that is equal for paths that some target takes for the same.

    Targets may ignore case and Unicode form.
    """
    folded = unicodedata.normalize("NFKC", path).casefold()
    return unicodedata.normalize("NFKC", folded).casefold()


def with_number(path: str, number: int) -> str:
    """Return the path told apart by a number: `a/b.mp4` as `a/b~2.mp4`; 1 adds none."""
    return path if number == 1 else f"{path.removesuffix(SUFFIX)}~{number}{SUFFIX}"


def doubtful_form(path: str) -> str:
    """Return where a doubtful file lies: `a/b.mp4` as `a/b.doubtful.mp4`."""
    return f"{path.removesuffix(SUFFIX)}{DOUBTFUL}{SUFFIX}"


def whole_form(path: str) -> str:
    """Return where the file would lie if it were whole."""
    return path.removesuffix(f"{DOUBTFUL}{SUFFIX}").removesuffix(SUFFIX) + SUFFIX


def is_numbered(path: str, of: str) -> bool:
    """Tell whether a path is another with a number: `a/b~2.mp4` of `a/b.mp4`."""
    head = f"{whole_form(of).removesuffix(SUFFIX)}~"
    number = whole_form(path).removeprefix(head).removesuffix(SUFFIX)
    return path.startswith(head) and number.isascii() and number.isdigit()


def _field(field: str, spec: str, conversion: str | None) -> _Piece:
    shown = f"{{{field}}}"
    if field not in _ALLOWED:
        allowed = " ".join(f"{{{name}}}" for name in sorted(_ALLOWED))
        raise LayoutError(f"there is no field {shown} in a layout; there are {allowed}")
    if conversion:
        raise LayoutError(f"{shown} takes no !{conversion}")
    if field not in _TIMES:
        if spec:
            raise LayoutError(f"{shown} takes no format, but has :{spec}")
        return _Piece(field, "")
    for match in re.finditer(r"%(.?)", spec, re.DOTALL):
        if match[1] not in _DIRECTIVES or not match[1]:
            allowed = " ".join(f"%{letter}" for letter in sorted(_DIRECTIVES))
            raise LayoutError(
                f"{shown}: no {match[0]} in a format; there are {allowed}"
            )
    if "{" in spec:
        raise LayoutError(f"{shown}: no field within a format")
    return _Piece(field, spec or _DEFAULT_SPEC)


def _check_segments(template: str, parts: list[_Piece]) -> None:
    """Refuse segments that leave the target, or that could not be kept short."""
    widest = "".join(_widest(part) for part in parts)
    shown = f"layout {template!r}"
    if widest.startswith("/") or _DRIVE.match(widest):
        raise LayoutError(f"{shown} must be relative to the target, without a root")
    if "\\" in widest or any(unicodedata.category(c) == "Cc" for c in template):
        raise LayoutError(f"{shown} holds a backslash or control character; use /")
    widths = []
    for segment in widest.split("/"):
        if segment.strip(" ") in {"", ".", ".."}:
            raise LayoutError(f"{shown} has the segment {segment!r}; name a folder")
        widths.append(len(segment.encode("utf-8", "replace")))
    if max(widths) > _MAX_FIXED_BYTES or sum(widths) > _MAX_TOTAL_BYTES:
        raise LayoutError(
            f"{shown} is too long: {_MAX_FIXED_BYTES} bytes are left for each segment, "
            f"{_MAX_TOTAL_BYTES} for all, before values are filled in"
        )
    if len(widths) > _MAX_SEGMENTS:
        raise LayoutError(f"{shown} has more than {_MAX_SEGMENTS} segments")


def _widest(part: _Piece) -> str:
    """Return a text as long as the part is once its values are shortened."""
    if not part.field:
        return unicodedata.normalize("NFC", part.text)
    if part.field in _TIMES:
        return re.sub("%.", "0" * _DIRECTIVE_BYTES, part.text)
    return "0" * (_MIN_VALUE_BYTES if part.field in _SHRINKABLE else _NUMBER_BYTES)


def _value(field: str, values: Values) -> str:
    if field == "id":
        return str(values.export_id)
    if field == "name":
        return _without_suffix(values.name or "")
    value: str | int | None = getattr(values, field)
    return "" if value is None else str(value)


def _clean(text: str) -> str:
    """Replace each character that some target cannot store or nobody can see."""
    normal = unicodedata.normalize("NFC", text)
    return "".join(map(_clean_character, normal))


def _clean_character(character: str) -> str:
    if "0" <= character <= "9" or "a" <= character <= "z":
        return character
    category = unicodedata.category(character)
    if character in _BAD or category in _BAD_CATEGORIES:
        return "_"
    return " " if category == "Zs" else character


def _shorten(segment: list[_Piece], limit: int) -> str:
    """Join the pieces; cut values, least needed first, to fit into `limit` bytes."""
    size = sum(len(_clean(piece.text).encode()) for piece in segment)
    excess = size - (limit - len(SUFFIX) - _SPARE_BYTES)
    for field in _SHRINKABLE:
        for index, piece in enumerate(segment):
            if excess > 0 and piece.field == field:
                size = len(piece.text.encode())
                text = _cut(piece.text, max(_MIN_VALUE_BYTES, size - excess)).rstrip()
                excess -= size - len(text.encode())
                segment = [*segment[:index], _Piece(field, text), *segment[index + 1 :]]
    return "".join(piece.text for piece in segment)


def _cut(text: str, size: int) -> str:
    return text.encode()[:size].decode("utf-8", "ignore")


def _without_suffix(text: str) -> str:
    """Return the name of a file without the suffixes of video files."""
    while (stem := _SUFFIXES.sub("", text.rstrip(" ."))) != text:
        text = stem
    return text


@functools.lru_cache(maxsize=256)
def _sanitise(text: str, limit: int) -> str:
    """Return a segment of at most `limit` bytes that every target stores unchanged."""
    while (cut := _cut(_sanitise_once(text), limit)) != text:
        text = cut
    return text


def _sanitise_once(text: str) -> str:
    visible = _clean(text).lstrip(" .-~").rstrip(" .")
    if PLAIN.fullmatch(visible):
        return visible
    kept = sanitize_filename(
        visible, platform="universal", replacement_text="_", max_len=4096
    )
    # Windows ignores what follows a device's name: "con .mp4" is the console too.
    stem = kept.partition(".")[0].rstrip()
    device = stem.upper() in {"CONIN$", "CONOUT$"} or (
        stem != "" and sanitize_filename(stem, platform="universal") != stem
    )
    return (f"_{kept}" if device else kept) or UNKNOWN
