"""How the simulated VMS behaves when nothing is wrong with it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum

INTERNAL_ORIGIN = "http://127.0.0.1:8080"


class Etag(StrEnum):
    """What validator files carry."""

    STRONG = "strong"
    WEAK = "weak"
    NONE = "none"


class Unmade(StrEnum):
    """What a row says while its file is still being made."""

    NULL_URL = "null_url"
    EMPTY_URL = "empty_url"
    FOLDER_URL = "folder_url"
    FLAGGED_FOLDER_URL = "flagged_folder_url"


@dataclass(frozen=True, slots=True, kw_only=True)
class Behaviour:
    """All settable habits; replace `Vms.behaviour` to change them while it runs.

    Attributes:
        max_per_page: More is clamped without a word.
        strict_headers: Without `X-Client` and `X-UUID` a list request is a 422.
        bare_dates: `2026-11-23` is taken for a date, where else it is a 422.
        gzip_lists: Compress lists for clients that accept it.
        internal_host: Urls of files name the host the VMS knows itself by.
        relative_urls: Urls of files begin with their path.
        quote_urls: Spaces and the like are percent-encoded in urls.
        folder_urls: Every url ends at the folder, as in the API's sample.
        folder_files: Files lie in that folder under their names.
        unmade: What a row says before its file is there.
        serve_files: False has no file anywhere, whatever the list says.
        etag: On files.
        last_modified: Files carry the date they were made.
        gone_status: For a file that was deleted: 404, 403 or 410.
        rate: Bytes a second that each file connection gets; None is no limit.
        files_need_token: Files are refused with 401 without the token.
        clock_skew: How far the clock of the VMS is ahead.
    """

    max_per_page: int | None = None
    strict_headers: bool = True
    bare_dates: bool = False
    gzip_lists: bool = False
    internal_host: bool = False
    relative_urls: bool = False
    quote_urls: bool = True
    folder_urls: bool = False
    folder_files: bool = True
    unmade: Unmade = Unmade.NULL_URL
    serve_files: bool = True
    etag: Etag = Etag.STRONG
    last_modified: bool = True
    gone_status: int = 404
    rate: int | None = None
    files_need_token: bool = False
    clock_skew: timedelta = timedelta()
