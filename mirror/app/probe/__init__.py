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
    from mirror.vms import VmsClient

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

    Args:
        settings: The configuration.
        name: Of a source in it.
        secret: Given each text that must never be shown.
    """
    source = settings.sources[name]
    async with build.sessions_for(settings) as sessions:
        client = build.client_for(
            settings,
            name,
            sessions=sessions,
            device_uuid="archive-mirror-probe",
            secret=secret,
        )
        asker = Asker(client=client)
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
        cut_short: list[Fact] = []
        try:
            await about_list.ask()
            page = about_list.page
            about_files.rows = page.rows if page else []
            about_files.listed = page is not None
            if about_list.answers or asker.last_list is not None:
                await about_files.ask()
        except ProbeLimitError as exc:
            cut_short = [Fact(topic="the rest", text=str(exc), known=False)]
    return Report(
        facts=[
            *about_list.facts,
            *about_files.facts,
            *_of_answers(asker),
            *_token(client),
            *cut_short,
        ],
        suggestions=[*about_list.suggestions, *about_files.suggestions],
        requests=asker.requests,
        answers=about_list.answers,
        complete=not cut_short,
    )


def _of_answers(asker: Asker) -> list[Fact]:
    """Return what every answer of the list carries."""
    answered = asker.last_list
    if answered is None:
        return []
    limits = ", ".join(f"{name} {value}" for name, value in asker.rate_limit.items())
    coding = answered.headers.get("Content-Encoding", "none")
    shown = coding if coding in {"none", "gzip", "br", "deflate"} else "a strange one"
    offset_us = answered.clock_offset_us
    return [
        Fact(topic="rate limit", text=limits or "the list names none"),
        Fact(topic="compression of lists", text=shown),
        Fact(
            topic="clock",
            text="it sends no Date: deadlines cannot be corrected"
            if offset_us is None
            else f"{offset_us / 1e6:+.1f} s against ours",
            known=offset_us is not None,
        ),
    ]


def _token(client: VmsClient) -> list[Fact]:
    end_s = client.token_expiry_s
    if end_s is None:
        text = "it does not say when it ends: only a refusal (401) will tell"
        return [Fact(topic="token", text=text, known=False)]
    left = span(max(0.0, end_s - to_us(utc_now()) / 1e6))
    text = f"good until {iso(end_s * 1_000_000)}, {left} from now"
    return [Fact(topic="token", text=text)]
