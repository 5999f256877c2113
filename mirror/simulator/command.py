"""The simulator as a server of its own: what `simulate-vms` runs."""

from __future__ import annotations

import asyncio
import random
import shlex
import signal
import sys
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, TextIO

from mirror.model import utc_now
from mirror.simulator.behaviour import INTERNAL_ORIGIN, Behaviour
from mirror.simulator.exports import Stage
from mirror.simulator.faults import Chaos, fault
from mirror.simulator.life import Life
from mirror.simulator.server import DEFAULT_TOKEN, Vms

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from datetime import datetime

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
        behaviour: How the VMS behaves.
        life: What happens by itself.
        literal_seed: Serve the sample's rows, unchanged, and nothing else.
        initial: Exports with a file at the start, of all ages up to the lifetime.
        faults: Names in `FAULTS`; what both can have strikes files, and lists if
            `list:` stands before it.
        fault_probability: Of a request to meet one of them.
        quiet: Print no line per request.
        output: Where lines go.
    """

    host: str = "127.0.0.1"
    port: int
    token: str = DEFAULT_TOKEN
    behaviour: Behaviour = field(default_factory=Behaviour)
    life: Life = field(default_factory=Life)
    literal_seed: bool = False
    initial: int = 0
    faults: tuple[str, ...] = ()
    fault_probability: float = 0.0
    quiet: bool = False
    output: TextIO = field(default_factory=lambda: sys.stdout)


def sort_faults(names: Iterable[str]) -> tuple[list[str], list[str]]:
    """Return which of the named faults are to strike files, and which lists.

    Raises:
        ValueError: A name is unknown, or lists cannot have that fault.
    """
    for_files, for_lists = [], []
    for option in names:
        name = option.removeprefix(_LIST_MARK)
        kind = fault(name).kind
        if option != name and not kind.is_for_lists:
            raise ValueError(f"{option!r}: a list cannot have that fault")
        if option != name or not kind.is_for_files:
            for_lists.append(name)
        else:
            for_files.append(name)
    return for_files, for_lists


def build(options: SimulatorOptions, clock: Callable[[], datetime] = utc_now) -> Vms:
    """Return the simulated VMS these options mean, not yet listening.

    Raises:
        ValueError: A fault is not known.
    """
    for_files, for_lists = sort_faults(options.faults)

    def show(request: Request) -> None:
        options.output.write(f"{request.line()}\n")
        options.output.flush()

    seed = options.life.seed
    vms = Vms(
        host=options.host,
        port=options.port,
        token=options.token,
        behaviour=options.behaviour,
        life=Life() if options.literal_seed else options.life,
        clock=clock,
        other_origin=False,
        on_request=None if options.quiet else show,
        seed=seed,
    )
    vms.responder.file_chaos = Chaos(for_files, options.fault_probability, seed)
    vms.responder.list_chaos = Chaos(for_lists, options.fault_probability, seed + 1)
    return vms


def populate(vms: Vms, options: SimulatorOptions) -> None:
    """List the exports that are there at the start."""
    if options.literal_seed:
        vms.add_seed_rows(size=_SEED_FILE_BYTES)
        return
    life = options.life
    span = (life.file_lifetime or timedelta(hours=3)) / life.speed
    draw = random.Random(life.seed)  # noqa: S311 -- must be reproducible
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
    life = options.life
    if life.file_lifetime is not None:
        seconds = max(1, round(life.file_lifetime.total_seconds() / life.speed))
        lines.append(f'file_lifetime = "{seconds}s"')
    if options.behaviour.internal_host and vms.url != INTERNAL_ORIGIN:
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
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopping.set)
    async with build(options) as vms:
        populate(vms, options)
        options.output.write(f"{configuration(vms, options)}\n")
        options.output.flush()
        await stopping.wait()
