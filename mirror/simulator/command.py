"""The simulator as a server of its own: what `simulate-vms` runs."""

from __future__ import annotations

import asyncio
import contextlib
import random
import shlex
import signal
import sys
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, TextIO

from mirror.simulator.behaviour import INTERNAL_ORIGIN, Behaviour, Unmade
from mirror.simulator.exports import Stage
from mirror.simulator.faults import Chaos, fault
from mirror.simulator.life import Life
from mirror.simulator.server import DEFAULT_TOKEN, Vms

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mirror.simulator.journal import Request

_LIST_MARK = "list:"
_SEED_FILE_BYTES = 2_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatorOptions:
    """What the command line sets.

    Attributes:
        host: Address to listen on.
        port: 8080 is the one in the rows of the API's sample.
        token: What list requests must carry.
        literal_seed: Serve the sample's rows, unchanged, and nothing else.
        folder_urls: Urls end at the folder; files lie there under their names.
        internal_host: Urls of files name the host the VMS knows itself by.
        list_only: List files, but have none.
        unmade: What a row says before its file is there.
        initial: Exports with a file at the start, of all ages up to the lifetime.
        arrivals_per_min: New exports.
        sizes: Smallest and largest file, in bytes.
        generation_delay: From row to file.
        lifetime: From file to deletion; None is never.
        cleanup_interval: How often the job runs that deletes.
        speed: Divides all durations.
        rate: Bytes a second for each file connection; None is no limit.
        max_per_page: Longer pages are clamped.
        faults: Names in `FAULTS`; what both can have strikes files, and lists if
            `list:` stands before it.
        fault_probability: Of a request to meet one of them.
        clock_skew: How far the clock of the VMS is ahead.
        seed: Decides all that is drawn.
        quiet: Print no line per request.
        output: Where lines go.
    """

    host: str = "127.0.0.1"
    port: int = 8080
    token: str = DEFAULT_TOKEN
    literal_seed: bool = False
    folder_urls: bool = False
    internal_host: bool = False
    list_only: bool = False
    unmade: Unmade = Unmade.NULL_URL
    initial: int = 6
    arrivals_per_min: float = 2.0
    sizes: tuple[int, int] = (200_000, 4_000_000)
    generation_delay: timedelta = timedelta(seconds=20)
    lifetime: timedelta | None = timedelta(hours=3)
    cleanup_interval: timedelta = timedelta(minutes=10)
    speed: float = 1.0
    rate: int | None = None
    max_per_page: int | None = None
    faults: tuple[str, ...] = ()
    fault_probability: float = 0.3
    clock_skew: timedelta = timedelta()
    seed: int = 0
    quiet: bool = False
    output: TextIO = field(default_factory=lambda: sys.stdout)


def sort_faults(names: Iterable[str]) -> tuple[list[str], list[str]]:
    """Return which of the named faults are to strike files, and which lists.

    Raises:
        ValueError: A name is unknown, or lists cannot have that fault.
    """
    for_files, for_lists = [], []
    for given in names:
        name = given.removeprefix(_LIST_MARK)
        kind = fault(name).kind
        if given != name and not kind.is_for_lists:
            raise ValueError(f"{given!r}: a list cannot have that fault")
        if given != name or not kind.is_for_files:
            for_lists.append(name)
        else:
            for_files.append(name)
    return for_files, for_lists


def build(options: SimulatorOptions) -> Vms:
    """Return the simulated VMS these options mean, not yet listening.

    Raises:
        ValueError: A fault is not known.
    """
    for_files, for_lists = sort_faults(options.faults)

    def show(request: Request) -> None:
        options.output.write(f"{request.line()}\n")
        options.output.flush()

    life = Life(
        generation_delay=options.generation_delay,
        file_lifetime=options.lifetime,
        cleanup_interval=options.cleanup_interval,
        arrivals_per_min=options.arrivals_per_min,
        sizes=options.sizes,
        speed=options.speed,
        seed=options.seed,
    )
    vms = Vms(
        host=options.host,
        port=options.port,
        token=options.token,
        behaviour=Behaviour(
            max_per_page=options.max_per_page,
            internal_host=options.internal_host,
            folder_urls=options.folder_urls,
            folder_files=options.folder_urls,
            unmade=options.unmade,
            serve_files=not options.list_only,
            rate=options.rate,
            clock_skew=options.clock_skew,
        ),
        life=Life() if options.literal_seed else life,
        other_origin=False,
        on_request=None if options.quiet else show,
        seed=options.seed,
    )
    vms.responder.file_chaos = Chaos(for_files, options.fault_probability, options.seed)
    vms.responder.list_chaos = Chaos(
        for_lists, options.fault_probability, options.seed + 1
    )
    return vms


def populate(vms: Vms, options: SimulatorOptions) -> None:
    """List what is there at the start."""
    if options.literal_seed:
        vms.add_seed_rows(size=_SEED_FILE_BYTES)
        return
    span = (options.lifetime or timedelta(hours=3)) / options.speed
    draw = random.Random(options.seed)  # noqa: S311 -- must be reproducible
    for number in range(options.initial):
        age = span * ((options.initial - number) / (options.initial + 1))
        draft = vms.draft()
        vms.add(
            created_at=vms.now() - age,
            size=draft.size_bytes,
            clip=draft.clip,
            camera_id=draft.camera_id,
            stream_type=draw.choice(("high", "low")),
            stage=Stage.MADE,
        )


def configuration(vms: Vms, options: SimulatorOptions) -> str:
    """Return a configuration for archive-mirror that mirrors this VMS."""
    lines = [
        "# Paste this into simulator.toml, then:",
        f"#   printf %s {shlex.quote(options.token)} > simulator.token",
        "#   archive-mirror -c simulator.toml run",
        'state_dir = "simulator-state"',
        "",
        "[sources.simulator]",
        f'url = "{vms.url}"',
        'token_file = "simulator.token"',
        'poll_interval = "10s"',
    ]
    if options.lifetime is not None:
        seconds = max(1, round(options.lifetime.total_seconds() / options.speed))
        lines.append(f'file_lifetime = "{seconds}s"')
    if options.internal_host and vms.url != INTERNAL_ORIGIN:
        lines.append(f'rewrite_origins = {{ "{INTERNAL_ORIGIN}" = "{vms.url}" }}')
    lines += [
        "",
        "[targets.local]",
        'type = "directory"',
        'path = "simulator-archive"',
    ]
    return "\n".join(lines) + "\n"


async def serve(options: SimulatorOptions) -> None:
    """Serve until SIGINT or SIGTERM.

    Raises:
        ValueError: A fault is not known.
        OSError: The port is taken.
    """
    loop = asyncio.get_running_loop()
    stopping = asyncio.Event()
    with contextlib.ExitStack() as handlers:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stopping.set)
            handlers.callback(loop.remove_signal_handler, number)
        async with build(options) as vms:
            populate(vms, options)
            options.output.write(f"{configuration(vms, options)}\n")
            options.output.flush()
            await stopping.wait()
