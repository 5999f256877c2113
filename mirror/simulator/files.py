"""Answers to requests for files, as a good server gives them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import quote

from multidict import CIMultiDict

from mirror.simulator.answer import Answer, Body

if TYPE_CHECKING:
    from mirror.simulator.footage import Content

_RANGE = re.compile(r"bytes=(\d*)-(\d*)")


@dataclass(slots=True, kw_only=True)
class Terms:
    """On what terms a file is served; faults change them before it is.

    Attributes:
        content: The bytes of the file.
        etag: As sent, with its quotes; None is not sent.
        last_modified: As sent; None is not sent.
        range: The request's header; None serves the whole.
        if_range: The request's header; None does not ask for the version.
        name: For `Content-Disposition`.
    """

    content: Content
    etag: str | None
    last_modified: str | None
    range: str | None
    if_range: str | None
    name: str

    @property
    def unchanged(self) -> bool:
        """What the client says it has a part of is what is here."""
        if self.if_range is None:
            return True
        if self.if_range.startswith(('"', "W/")):
            # RFC 9110 13.1.5: only strong tags count.
            return self.if_range == self.etag and not self.if_range.startswith("W/")
        return self.if_range == self.last_modified


def parse_range(header: str, size_bytes: int) -> tuple[int, int] | None:
    """Return start and stop of the one range asked for.

    Returns:
        None if the header is to be ignored; a stop that is not past the start if
        the range cannot be satisfied.
    """
    match = _RANGE.fullmatch(header.strip())
    if match is None or match.group(0) == "bytes=-":
        return None
    first, last = match.groups()
    if not first:
        return max(0, size_bytes - int(last)), size_bytes if int(last) else 0
    if last and int(last) < int(first):
        return None
    stop = min(int(last) + 1, size_bytes) if last else size_bytes
    return int(first), stop


def part(content: Content, start: int, stop: int) -> Body:
    """Return a body of the bytes from `start` to `stop`."""
    return Body(stop - start, lambda: content.chunks(start, stop))


def serve_file(terms: Terms) -> Answer:
    """Return 200, 206 or 416, as RFC 9110 has it."""
    size = terms.content.size_bytes
    answer = Answer(
        headers=CIMultiDict(
            {
                "Content-Type": "video/mp4",
                "Accept-Ranges": "bytes",
                # The vendor's own form, with quotes where RFC 8187 has none.
                "Content-Disposition": (
                    f'attachment; filename*=UTF-8"{quote(terms.name, safe="")}"'
                ),
            }
        ),
        whole_bytes=size,
    )
    if terms.etag is not None:
        answer.headers["ETag"] = terms.etag
    if terms.last_modified is not None:
        answer.headers["Last-Modified"] = terms.last_modified
    wanted = None
    if terms.range is not None and terms.unchanged:
        wanted = parse_range(terms.range, size)
    if wanted is None:
        answer.body = part(terms.content, 0, size)
        return answer
    start, stop = wanted
    if stop <= start:
        refuse_range(answer, size)
        return answer
    answer.status = 206
    answer.first_byte = start
    answer.headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
    answer.body = part(terms.content, start, stop)
    return answer


def refuse_range(answer: Answer, size_bytes: int) -> None:
    """Make it a 416."""
    page = b"<html><head><title>416 Requested Range Not Satisfiable</title></head>\n"
    answer.replace_body(416, "text/html", page)
    answer.headers["Content-Range"] = f"bytes */{size_bytes}"


def _quoted(name: str) -> str:
    return quote(name, safe="", errors="surrogatepass")
