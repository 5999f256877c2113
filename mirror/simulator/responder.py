"""Decide what a request is answered, faults included; nothing is sent here."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl

from multidict import CIMultiDict

from mirror.simulator.answer import Answer, Body
from mirror.simulator.behaviour import Etag
from mirror.simulator.common_faults import (
    HTML,
    JSON,
    change_answer,
    error_body,
    gzip,
    http_date,
)
from mirror.simulator.exports import FOLDER, Stage, row_json
from mirror.simulator.faults import Chaos, Fault, Kind, Script
from mirror.simulator.files import (
    Terms,
    change_file,
    change_file_answer,
    change_terms,
    serve_file,
)
from mirror.simulator.lists import (
    InvalidQueryError,
    ListQuery,
    Page,
    change_list_answer,
    change_page,
    parse_query,
)

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from mirror.simulator.answer import Scene
    from mirror.simulator.exports import Export
    from mirror.simulator.journal import Request
    from mirror.simulator.store import Store

LIST_PATHS = frozenset({"/api/v1/downloads", "/api/v1/users/downloads"})
_LOOP = Fault(kind=Kind.REDIRECT, status=302, to="loop")
_ENDLESS = frozenset({Kind.ENDLESS_PAGES, Kind.ENDLESS_ROWS})


def kind_of(target: str) -> str:
    """Return what a request is for by its path: `list`, `file` or `other`."""
    path = target.partition("?")[0]
    if path in LIST_PATHS:
        return "list"
    return "file" if path.startswith((FOLDER, "/s3/")) else "other"


class Responder:
    """Answers requests out of a `Store`.

    Attributes:
        list_script: What list requests meet.
        file_script: What requests meet for files whose own script is over.
        list_chaos: What list requests meet at random after that.
        file_chaos: The same for files.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self.list_script = Script()
        self.file_script = Script()
        self.list_chaos = Chaos()
        self.file_chaos = Chaos()

    def answer(self, request: Request, scene: Scene) -> Answer:
        """Return what to send; notes in `request` its faults and its export."""
        path, _, query_text = request.target.partition("?")
        query = dict(parse_qsl(query_text, keep_blank_values=True))
        if request.method not in {"GET", "HEAD"}:
            answer = _refusal(HTTPStatus.METHOD_NOT_ALLOWED, request.headers)
            answer.headers["Allow"] = "GET, HEAD"
        elif request.kind == "list":
            answer = self._list(request, query, scene)
        elif request.kind == "file":
            answer = self._file(request, path, query, scene)
        else:
            answer = _refusal(HTTPStatus.NOT_FOUND, request.headers)
        answer.headers.setdefault("Date", http_date(scene.now))
        answer.headers.setdefault("Server", "nginx")
        return answer

    def _list(self, request: Request, query: dict[str, str], scene: Scene) -> Answer:
        scripts = [self.list_script]
        faults = _meets(request, query, scripts, self.list_chaos)
        answer = self._list_answer(request, query, faults, scene)
        answer.whole_bytes = answer.body.length or 0
        for fault in faults:
            change_list_answer(answer, fault)
            change_answer(answer, fault, scene)
        return answer

    def _list_answer(
        self,
        request: Request,
        query: dict[str, str],
        faults: tuple[Fault, ...],
        scene: Scene,
    ) -> Answer:
        if not self._has_token(request):
            return _refusal(HTTPStatus.UNAUTHORIZED, request.headers)
        try:
            asked = parse_query(query, request.headers, self._store.behaviour)
        except InvalidQueryError as exc:
            return _refusal(
                HTTPStatus.UNPROCESSABLE_ENTITY, request.headers, exc.errors
            )
        page = self._page(asked, faults, scene.origin)
        for fault in faults:
            change_page(page, fault)
        answer = Answer(
            headers=CIMultiDict(
                {"Content-Type": JSON, "Cache-Control": "no-cache, private"}
            ),
            body=Body.of(page.to_json()),
        )
        accepted = request.headers.get("Accept-Encoding", "")
        if self._store.behaviour.gzip_lists and "gzip" in accepted:
            gzip(answer)
        return answer

    def _page(self, asked: ListQuery, faults: tuple[Fault, ...], origin: str) -> Page:
        store = self._store
        for fault in faults:
            exports = store.select(asked.since, asked.until)
            if fault.kind is Kind.INSERT_ROW and exports:
                for _ in range(fault.size):
                    store.add(created_at=exports[0].created_at, stage=Stage.ASKED)
            elif fault.kind is Kind.DELETE_ROW:
                for export in exports[: fault.size]:
                    store.remove_row(export)
        exports = store.select(asked.since, asked.until)
        last_page = max(1, -(-len(exports) // asked.per_page))
        shown = asked.page
        if _ENDLESS & {fault.kind for fault in faults}:
            shown = min(shown, last_page)
        before = (shown - 1) * asked.per_page
        return Page(
            number=asked.page,
            per_page=asked.per_page,
            before=before,
            total=len(exports),
            rows=[
                row_json(export, store.behaviour, origin)
                for export in exports[before : before + asked.per_page]
            ],
            last_page=last_page,
        )

    def _file(
        self, request: Request, path: str, query: dict[str, str], scene: Scene
    ) -> Answer:
        export = self._store.at_path(path)
        scripts = [] if export is None else [export.script]
        scripts.append(self.file_script)
        faults = _meets(request, query, scripts, self.file_chaos)
        if export is not None:
            request.export_id = export.export_id
            for fault in faults:
                change_file(export, fault, scene.now)
        answer, terms = self._file_answer(request, export, faults, scene.now)
        answer.rate = self._store.behaviour.rate
        for fault in faults:
            if terms is not None:
                change_file_answer(answer, fault, terms)
            change_answer(answer, fault, scene)
        return answer

    def _file_answer(
        self,
        request: Request,
        export: Export | None,
        faults: tuple[Fault, ...],
        now: datetime,
    ) -> tuple[Answer, Terms | None]:
        behaviour = self._store.behaviour
        if behaviour.files_need_token and not self._has_token(request):
            return _refusal(HTTPStatus.UNAUTHORIZED, request.headers), None
        version = None
        if export is not None and behaviour.serve_files:
            version = export.current
        if export is None or version is None or export.stage is not Stage.MADE:
            return _refusal(behaviour.gone_status, request.headers), None
        etag = {
            Etag.STRONG: version.etag,
            Etag.WEAK: f"W/{version.etag}",
            Etag.NONE: None,
        }[behaviour.etag]
        terms = Terms(
            content=version.content,
            etag=etag,
            last_modified=version.last_modified if behaviour.last_modified else None,
            range=request.range,
            if_range=request.if_range,
            name=export.file_name,
        )
        for fault in faults:
            change_terms(terms, fault, export, now)
        return serve_file(terms), terms

    def _has_token(self, request: Request) -> bool:
        return request.authorization == f"Bearer {self._store.token}"


def _meets(
    request: Request, query: dict[str, str], scripts: list[Script], chaos: Chaos
) -> tuple[Fault, ...]:
    """Return the faults of the first script that is not over, and note them."""
    number = query.get("page", "")
    page = int(number) if number.isdecimal() else None
    script = next((each for each in scripts if not each.over), None)
    if "loop" in query:
        faults: tuple[Fault, ...] = (_LOOP,)
    elif "moved" in query:
        faults = ()
    elif script is not None:
        faults = script.take(ranged=request.range is not None, page=page)
    else:
        faults = chaos.take()
    request.faults = tuple(fault.kind.value for fault in faults)
    return faults


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
        answer.replace_body(status, HTML, page.encode())
    return answer
