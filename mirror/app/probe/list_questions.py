"""What the VMS leaves open about its list."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import timedelta
from itertools import pairwise
from typing import TYPE_CHECKING, Final

import msgspec
from yarl import URL

from mirror.errors import AuthError, ListError, OriginRefusedError
from mirror.model import from_us, is_folder
from mirror.vms.origins import origin_of
from mirror.wording import clean

if TYPE_CHECKING:
    from datetime import datetime

    from mirror.app.probe.asker import Asker
    from mirror.model import Row
    from mirror.ports import Page

PATHS: Final = ("/api/v1/downloads", "/api/v1/users/downloads")
FORMS: Final = (
    "%Y-%m-%dT%H:%M:%SZ",
    "%Y-%m-%d %H:%M:%S",
    "%Y-%m-%dT%H:%M:%S+00:00",
    "%Y-%m-%d",
)
_BARE = "%Y-%m-%d"
SIZES: Final = (1000, 500, 200, 100, 50, 25)
_DAY = timedelta(days=1)
_LAST = 100
_SHOWN = 5
_INVALID = "http_422"
_TAKES = "takes (whether it heeds it, an empty list cannot tell)"
_IGNORES = "takes and ignores"
_REFUSES = "refuses"
_NOBODY_ANSWERS = frozenset({"unreachable", "tls", "timeout", "bad_answer", "cut"})


@dataclass(slots=True, kw_only=True)
class ListQuestions:
    """Asks about the list.

    Attributes:
        url: Of the source; the paths are appended.
        path: As configured; then the one that gives the list.
        configured_form: Of dates.
        form: One that the list takes.
        page: The longest that could be had.
        answers: A list could be read.
    """

    asker: Asker
    url: str
    path: str
    configured_form: str
    now: datetime
    form: str = ""
    page: Page | None = None
    answers: bool = False
    _total: int | None = None

    async def ask(self) -> None:
        """Ask all.

        Raises:
            ProbeLimitError: No more requests may be made.
        """
        await self._find()
        if not self.answers:
            return
        await self._ask_dates()
        await self._ask_sizes()
        if self.page is not None and self.page.rows:
            self._tell_order(self.page.rows)
            self._tell_urls(self.page.rows)
            self._tell_people(self.page.rows)
        elif self.page is not None:
            self.asker.unknown(
                "rows",
                "the list is empty: ask for an export on the VMS with this account, "
                "then probe again (a file lives 3 hours)",
            )

    async def _page(
        self, path: str, form: str, per_page: int, *, future: bool = False
    ) -> Page:
        since = self.now + 2 * _DAY if future else from_us(0)
        until = self.now + (3 if future else 1) * _DAY
        query = {
            "per_page": str(per_page),
            "page": "1",
            "from": since.strftime(form),
            "to": until.strftime(form),
        }
        return await self.asker.page(URL(self.url + path), query)

    async def _find(self) -> None:
        """Look which path gives the list, and find one form of dates that it takes."""
        results, configured = [], self.path
        for path in dict.fromkeys((configured, *PATHS)):
            try:
                page, form = await self._first_form(path)
            except ListError as exc:
                results.append(f"{path}: {exc}")
                if isinstance(exc, AuthError) or exc.reason in _NOBODY_ANSWERS:
                    break
                continue
            listed = page.size if page.total is None else page.total
            results.append(f"{path} answers, {listed} exports")
            if not self.answers:
                self.answers, self.path, self.form = True, path, form
                self._total = listed
        if not self.answers:
            self.asker.unknown("list", "; ".join(results))
            self.asker.unknown(
                "all else", "it hangs on the list: mend that, and probe again"
            )
            return
        self.asker.say("list path", "; ".join(results))
        why = "gives the list" if self.path == configured else f"{configured} does not"
        self.asker.suggest("list_path", self.path, why)

    async def _first_form(self, path: str) -> tuple[Page, str]:
        """Return a page and the first form of dates that this path takes.

        Raises:
            ListError: It gives no list, whatever the form.
        """
        forms = (self.form,) if self.answers else self._forms()
        refused: list[ListError] = []
        for form in forms:
            try:
                return await self._page(path, form, 1), form
            except ListError as exc:
                if exc.reason != _INVALID:
                    raise
                refused.append(exc)
        raise refused[0]

    def _forms(self) -> list[str]:
        return list(dict.fromkeys((self.configured_form, *FORMS)))

    async def _ask_dates(self) -> None:
        """Ask for a span in the future: who heeds it finds nothing."""
        empty = "heeds" if self._total else _TAKES
        forms: dict[str, list[str]] = {empty: [], _IGNORES: [], _REFUSES: []}
        for form in self._forms():
            try:
                page = await self._page(self.path, form, 1, future=True)
            except ListError:
                forms[_REFUSES].append(form)
            else:
                forms[_IGNORES if page.size else empty].append(form)
        results = [f"{what} {', '.join(of)}" for what, of in forms.items() if of]
        self.asker.say("date format", "; ".join(results))
        heeded = forms.get("heeds")
        best = (forms[empty] or forms[_IGNORES] or [self.form])[0]
        if best == _BARE:
            self.asker.unknown(
                "date_format",
                "only dates without a time are taken, which no walk can use: report "
                "it, with the version of the VMS",
            )
        else:
            why = "the list heeds it" if heeded else "the list takes it"
            self.asker.suggest("date_format", best, why)
        self.form = best

    async def _ask_sizes(self) -> None:
        """Find the longest page, downwards."""
        results: list[str] = []
        for asked in SIZES:
            try:
                page = await self._page(self.path, self.form, asked)
            except ListError as exc:
                results.append(f"{asked}: {exc}")
                continue
            self.page = page
            given = page.per_page or (page.size if page.size > 1 else asked)
            given = min(given, asked)
            seen = f"{page.size} rows came"
            what = f"cut to {given}" if given < asked else "taken"
            results.append(f"{asked} is {what} ({seen})")
            self.asker.suggest(
                "per_page", given, "the longest page: fewer requests a walk"
            )
            break
        self.asker.say("per_page", "; ".join(results), known=self.page is not None)

    def _tell_order(self, rows: list[Row]) -> None:
        times = [row.created_us for row in rows if row.created_us is not None]
        ids = [row.export_id for row in rows]
        if len(times) < 2 or times[0] == times[-1]:  # noqa: PLR2004 -- one has no order
            self.asker.unknown("order", "too few exports to tell")
            return
        if all(a >= b for a, b in pairwise(times)):
            text = "newest first, by created_at"
        elif all(a <= b for a, b in pairwise(times)):
            text = "oldest first, by created_at"
        elif all(a > b for a, b in pairwise(ids)):
            text = "by id, downwards"
        else:
            text = "none that could be relied on"
        self.asker.say(
            "order", f"{text}; each walk reads all pages, so it does not matter"
        )

    def _tell_urls(self, rows: list[Row]) -> None:
        forms: Counter[str] = Counter()
        strange: Counter[str] = Counter()
        for row in rows:
            form, refused = self._form_of(row)
            forms[f"{form}, {'with' if row.has_file else 'no'} file"] += 1
            if refused is not None:
                strange[refused] += 1
        counts = [f"{number} {form}" for form, number in forms.most_common(2 * _SHOWN)]
        self.asker.say("url", "; ".join(counts))
        if strange:
            named = [host for host, _ in strange.most_common(_SHOWN)]
            own = self.asker.client.origin
            why = (
                "urls name it: if files may come from there, allow it, and probe again"
            )
            self.asker.suggest("file_origins", named, why, sure=False)
            why = "else, if it is what the VMS calls itself inside, map it, and probe "
            why += "again"
            mapped = dict.fromkeys(named, own)
            self.asker.suggest("rewrite_origins", mapped, why, sure=False)
        statuses = Counter(filter(None, map(_status, rows)))
        if statuses:
            counts = [f"{n} {word!r}" for word, n in statuses.most_common(_SHOWN)]
            self.asker.say("status", ", ".join(counts))

    def _form_of(self, row: Row) -> tuple[str, str | None]:
        """Return the form of a row's url, and its origin if that is not allowed."""
        if row.url is None:
            return "without url", None
        form = "folder" if is_folder(row.url) else "file"
        try:
            listed = URL(row.url, encoded=True)
            where = "on its own origin" if listed.scheme else "relative"
            address = self.asker.client.resolve(row.url, row.name)
        except OriginRefusedError:
            try:
                return f"{form} elsewhere", str(URL(row.url).origin())
            except ValueError:
                return "not understood", None
        except ValueError:
            return "not understood", None
        if origin_of(address) != self.asker.client.origin:
            where = "elsewhere, where files may come from"
        elif listed.scheme and origin_of(listed) != origin_of(address):
            where = "on another host, taken as its own"
        return f"{form} {where}", None

    def _tell_people(self, rows: list[Row]) -> None:
        users = {row.user_id for row in rows if row.user_id is not None}
        last = newest_first(rows)[:_LAST]
        never = sum(
            not row.has_file and (row.url is None or is_folder(row.url)) for row in last
        )
        self.asker.say(
            "whose",
            f"by {len(users)} user{'' if len(users) == 1 else 's'}; of the last "
            f"{len(last)} rows {never} never had a file, as far as their urls tell. "
            "An account sees its own exports only, unless there are several users "
            "here; exports of the desktop client have no file",
        )
        if self.page is not None and self.page.bad_rows:
            self.asker.say(
                "bad rows",
                f"{len(self.page.bad_rows)} cannot be understood: "
                f"{self.page.bad_rows[0].error}; report it with the VMS's version",
            )


def newest_first(rows: list[Row]) -> list[Row]:
    """Return the rows by when their exports were made."""
    return sorted(rows, key=lambda row: row.created_us or 0, reverse=True)


def _status(row: Row) -> str | None:
    try:
        item = msgspec.json.decode(row.raw, strict=False)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    word = item.get("status") if isinstance(item, dict) else None
    return clean(word)[:20] if isinstance(word, str) else None
