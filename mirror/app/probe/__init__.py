"""Ask a VMS what its documentation leaves open; nothing is changed there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mirror.app import build
from mirror.app.probe.asker import Asker, Fact, ProbeLimitError, Suggestion
from mirror.app.probe.file_questions import FileQuestions
from mirror.app.probe.list_questions import ListQuestions
from mirror.model import iso, to_us, utc_now
from mirror.wording import span

if TYPE_CHECKING:
    from collections.abc import Callable

    from mirror.config import Settings
    from mirror.vms import RawAnswer

__all__ = ["Fact", "Report", "Suggestion", "probe"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The result of one `probe`.

    Attributes:
        suggestions: For the table of the source.
        answers: A list could be read.
        complete: All questions were asked.
    """

    facts: list[Fact]
    suggestions: list[Suggestion]
    requests: int
    answers: bool
    complete: bool


async def probe(
    settings: Settings,
    name: str,
    *,
    secret: Callable[[str], None],
) -> Report:
    """Ask one source's VMS; by GET, one request at a time, few in number.

    `secret` is given each text that must never be shown.
    """
    source = settings.sources[name]
    device_uuids = {name: "archive-mirror-probe"}
    async with build.open_clients(
        settings, device_uuids=device_uuids, secret=secret
    ) as clients:
        asker = Asker(client=clients[name])
        about_list = ListQuestions(
            asker=asker,
            url=source.url,
            path=source.list_path,
            configured_form=source.date_format,
            now=utc_now(),
        )
        about_files = FileQuestions(
            asker=asker, url=source.url, max_bytes=settings.transfer.max_file_size
        )
        cut_short = ""
        try:
            await about_list.ask()
            if about_list.answers or asker.last_list is not None:
                await about_files.ask(about_list.page)
        except ProbeLimitError as exc:
            cut_short = str(exc)
    if asker.last_list is not None:
        _tell_answer(asker, asker.last_list)
    _tell_token(asker)
    if cut_short:
        asker.unknown("the rest", cut_short)
    return Report(
        facts=asker.facts,
        suggestions=asker.suggestions,
        requests=asker.requests,
        answers=about_list.answers,
        complete=not cut_short,
    )


def _tell_answer(asker: Asker, answered: RawAnswer) -> None:
    """Tell what every answer of the list carries."""
    limits = ", ".join(f"{name} {value}" for name, value in asker.rate_limit.items())
    coding = answered.headers.get("Content-Encoding", "none")
    shown = coding if coding in {"none", "gzip", "br", "deflate"} else "a strange one"
    asker.say("rate limit", limits or "the list names none")
    asker.say("compression of lists", shown)
    offset_us = answered.clock_offset_us
    if offset_us is None:
        asker.unknown("clock", "it sends no Date: deadlines cannot be corrected")
    else:
        asker.say("clock", f"{offset_us / 1e6:+.1f} s against ours")


def _tell_token(asker: Asker) -> None:
    end_s = asker.client.token_expiry_s
    if end_s is None:
        text = "it does not say when it ends: only a refusal (401) will tell"
        asker.unknown("token", text)
        return
    left = span(max(0.0, end_s - to_us(utc_now()) / 1e6))
    asker.say("token", f"good until {iso(end_s * 1_000_000)}, {left} from now")
