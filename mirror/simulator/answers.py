"""Decides what a request is answered, faults included; sends nothing itself."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl

from multidict import CIMultiDict

from mirror.simulator.answer import Answer, Body
from mirror.simulator.behaviour import Etag
from mirror.simulator.common_faults import (
    JSON,
    Scene,
    error_body,
    gzip,
    http_date,
    mangle,
)
from mirror.simulator.exports import Stage
from mirror.simulator.faults import Chaos, Fault, Kind, Script
from mirror.simulator.file_faults import before_file, bend_terms, mangle_file
from mirror.simulator.files import Terms, serve_file
from mirror.simulator.list_faults import bend_page, mangle_list
from mirror.simulator.paging import Page
from mirror.simulator.query import InvalidQueryError, ListQuery, parse_query
from mirror.simulator.rows import FOLDER, row_json

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from mirror.simulator.exports import Export
    from mirror.simulator.journal import Request
    from mirror.simulator.server import Vms

LIST_PATHS = frozenset({"/api/v1/downloads", "/api/v1/users/downloads"})
_LOOP = Fault(kind=Kind.REDIRECT, status=302, to="loop")
_ENDLESS = frozenset({Kind.ENDLESS_PAGES, Kind.ENDLESS_ROWS})


class Responder:
    """Answers requests out of what one `Vms` holds.

    Attributes:
        list_script: What list requests meet.
        file_script: What requests meet for files whose own script is over.
        list_chaos: What list requests meet at random after that.
        file_chaos: The same for files.
    """

    def __init__(self, vms: Vms) -> None:
        self._vms = vms
        self.list_script = Script()
        self.file_script = Script()
        self.list_chaos = Chaos()
        self.file_chaos = Chaos()

    def answer(self, request: Request, now: datetime) -> Answer:
        """Return what to send; notes in `request` what it was for."""
        path, _, query_text = request.target.partition("?")
        query = dict(parse_qsl(query_text, keep_blank_values=True))
        scene = Scene(
            target=request.target,
            origin=self._vms.url,
            other_origin=self._vms.other_url,
            now=now,
        )
        is_list = path in LIST_PATHS
        is_file = path.startswith((FOLDER, "/s3/"))
        kind = "list" if is_list else "file" if is_file else "other"
        self._vms.journal.classify(request, kind)
        if request.method not in {"GET", "HEAD"}:
            answer = _refusal(HTTPStatus.METHOD_NOT_ALLOWED, request.headers)
            answer.headers["Allow"] = "GET, HEAD"
        elif is_list:
            answer = self._list(request, query, scene)
        elif is_file:
            answer = self._file(request, path, query, scene)
        else:
            answer = _refusal(HTTPStatus.NOT_FOUND, request.headers)
        answer.headers.setdefault("Date", http_date(now))
        answer.headers.setdefault("Server", "nginx")
        return answer

    def _list(self, request: Request, query: dict[str, str], scene: Scene) -> Answer:
        asked = query.get("page", "")
        page = int(asked) if asked.isdecimal() else None
        faults = self.list_script.take(page=page)
        if self.list_script.over and not faults:
            faults = self.list_chaos.take()
        if "moved" in query:
            faults = ()
        if "loop" in query:
            faults = (_LOOP,)
        request.faults = tuple(each.kind.value for each in faults)
        answer = self._honest_list(request, query, faults)
        answer.whole_bytes = answer.body.length or 0
        for each in faults:
            mangle_list(answer, each)
            mangle(answer, each, scene)
        return answer

    def _honest_list(
        self, request: Request, query: dict[str, str], faults: tuple[Fault, ...]
    ) -> Answer:
        if request.authorization != f"Bearer {self._vms.token}":
            return _refusal(HTTPStatus.UNAUTHORIZED, request.headers)
        try:
            wanted = parse_query(query, request.headers, self._vms.behaviour)
        except InvalidQueryError as exc:
            return _refusal(
                HTTPStatus.UNPROCESSABLE_ENTITY, request.headers, exc.errors
            )
        page = self._page(wanted, faults)
        for each in faults:
            bend_page(page, each)
        answer = Answer(
            headers=CIMultiDict(
                {"Content-Type": JSON, "Cache-Control": "no-cache, private"}
            ),
            body=Body.of(page.to_json()),
        )
        accepted = request.headers.get("Accept-Encoding", "")
        if self._vms.behaviour.gzip_lists and "gzip" in accepted:
            gzip(answer)
        return answer

    def _page(self, wanted: ListQuery, faults: tuple[Fault, ...]) -> Page:
        vms = self._vms
        for each in faults:
            found = vms.catalogue.select(wanted.since, wanted.until)
            if each.kind is Kind.INSERT_ROW and found:
                for _ in range(each.size):
                    vms.add(created_at=found[0].created_at, stage=Stage.ASKED)
            elif each.kind is Kind.DELETE_ROW:
                for export in found[: each.size]:
                    vms.remove_row(export.export_id)
        found = vms.catalogue.select(wanted.since, wanted.until)
        last_page = max(1, -(-len(found) // wanted.per_page))
        shown = wanted.page
        if _ENDLESS & {each.kind for each in faults}:
            shown = min(shown, last_page)
        before = (shown - 1) * wanted.per_page
        return Page(
            number=wanted.page,
            per_page=wanted.per_page,
            before=before,
            total=len(found),
            rows=[
                row_json(export, vms.behaviour, vms.url)
                for export in found[before : before + wanted.per_page]
            ],
            last_page=last_page,
        )

    def _file(
        self, request: Request, path: str, query: dict[str, str], scene: Scene
    ) -> Answer:
        export = self._find(path)
        faults = self._file_faults(request, export, query)
        request.faults = tuple(each.kind.value for each in faults)
        if export is not None:
            request.export_id = export.export_id
            for each in faults:
                before_file(export, each, scene.now)
        answer, terms = self._honest_file(request, export, faults, scene.now)
        if self._vms.behaviour.rate is not None:
            answer.rate = self._vms.behaviour.rate
        for each in faults:
            if terms is not None:
                mangle_file(answer, each, terms)
            mangle(answer, each, scene)
        return answer

    def _find(self, path: str) -> Export | None:
        behaviour = self._vms.behaviour
        if behaviour.folder_urls and behaviour.folder_files:
            return self._vms.catalogue.in_folder(path)
        return self._vms.catalogue.at_path(path)

    def _file_faults(
        self, request: Request, export: Export | None, query: dict[str, str]
    ) -> tuple[Fault, ...]:
        if "loop" in query:
            return (_LOOP,)
        if "moved" in query:
            return ()
        ranged = request.range is not None
        if export is not None and not export.script.over:
            return export.script.take(ranged=ranged)
        if not self.file_script.over:
            return self.file_script.take(ranged=ranged)
        return self.file_chaos.take()

    def _honest_file(
        self,
        request: Request,
        export: Export | None,
        faults: tuple[Fault, ...],
        now: datetime,
    ) -> tuple[Answer, Terms | None]:
        behaviour = self._vms.behaviour
        if behaviour.files_need_token and (
            request.authorization != f"Bearer {self._vms.token}"
        ):
            return _refusal(HTTPStatus.UNAUTHORIZED, request.headers), None
        version = None
        if export is not None and behaviour.serve_files:
            version = export.current
        if export is None or version is None or export.stage is not Stage.MADE:
            return _refusal(behaviour.gone_status, request.headers), None
        etag: str | None = version.etag
        if behaviour.etag is Etag.WEAK:
            etag = f"W/{etag}"
        elif behaviour.etag is Etag.NONE:
            etag = None
        terms = Terms(
            content=version.content,
            etag=etag,
            last_modified=version.last_modified if behaviour.last_modified else None,
            range=request.range,
            if_range=request.if_range,
            name=export.file_name,
        )
        for each in faults:
            bend_terms(terms, each, export, now)
        return serve_file(terms), terms


def _refusal(
    status: int,
    headers: Mapping[str, str],
    errors: Mapping[str, list[str]] | None = None,
) -> Answer:
    """Return an error: JSON for who accepts it, else a page, as Laravel does."""
    answer = Answer()
    if "json" in headers.get("Accept", "").split(",")[0]:
        answer.replace_body(status, JSON, error_body(status, errors))
    else:
        phrase = HTTPStatus(status).phrase
        page = f"<!DOCTYPE html>\n<html><head><title>{phrase}</title></head></html>\n"
        answer.replace_body(status, "text/html; charset=utf-8", page.encode())
    return answer
