"""The command that runs the bundled VMS simulator."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Annotated

import typer


def simulate_vms(
    *,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0 is any free one.")] = 8080,
    token: Annotated[str, typer.Option(help="What clients must send.")] = "demo-token",  # noqa: S107 -- guards nothing but made-up footage
    literal_seed: Annotated[
        bool, typer.Option("--literal-seed", help="The API page's rows, unchanged.")
    ] = False,
    folder_urls: Annotated[
        bool, typer.Option("--folder-urls", help="Files lie at folder + name.")
    ] = False,
    internal_host: Annotated[
        bool, typer.Option("--internal-host", help="Urls name 127.0.0.1:8080.")
    ] = False,
    list_only: Annotated[
        bool, typer.Option("--list-only", help="List files, but have none.")
    ] = False,
    initial: Annotated[int, typer.Option(help="Exports at the start.")] = 6,
    rate: Annotated[float, typer.Option(help="New exports per minute.")] = 2.0,
    size_min: Annotated[int, typer.Option(help="Smallest file, bytes.")] = 200_000,
    size_max: Annotated[int, typer.Option(help="Largest file, bytes.")] = 4_000_000,
    lifetime: Annotated[
        float, typer.Option(help="Seconds from file to deletion; 0 is never.")
    ] = 10_800.0,
    generation: Annotated[float, typer.Option(help="Seconds from row to file.")] = 20.0,
    cleanup: Annotated[float, typer.Option(help="Seconds between deletions.")] = 600.0,
    speed: Annotated[float, typer.Option(help="Divides all these times.")] = 1.0,
    bandwidth: Annotated[
        int | None, typer.Option(help="Bytes per second of each file connection.")
    ] = None,
    max_per_page: Annotated[int | None, typer.Option(help="Clamp pages.")] = None,
    fault: Annotated[
        list[str] | None,
        typer.Option(help="A fault files meet by chance; list:NAME for lists."),
    ] = None,
    fault_probability: Annotated[
        float, typer.Option(help="Of a request to meet one.")
    ] = 0.3,
    clock_skew: Annotated[float, typer.Option(help="Seconds its clock is ahead.")] = 0,
    seed: Annotated[int, typer.Option(help="Decides all that is drawn.")] = 0,
    quiet: Annotated[
        bool, typer.Option("--quiet", help="No line per request.")
    ] = False,
) -> None:
    """Serve a simulated VMS, until stopped; prints a configuration to paste."""
    from mirror.simulator import Behaviour, Life, command  # noqa: PLC0415 -- slow import

    behaviour = Behaviour(
        folder_urls=folder_urls,
        internal_host=internal_host,
        serve_files=not list_only,
        rate=bandwidth,
        max_per_page=max_per_page,
        clock_skew=timedelta(seconds=clock_skew),
    )
    life = Life(
        arrivals_per_min=rate,
        sizes=(size_min, size_max),
        file_lifetime=timedelta(seconds=lifetime) if lifetime else None,
        generation_delay=timedelta(seconds=generation),
        cleanup_interval=timedelta(seconds=cleanup),
        speed=speed,
        seed=seed,
    )
    options = command.SimulatorOptions(
        host=host,
        port=port,
        token=token,
        behaviour=behaviour,
        life=life,
        literal_seed=literal_seed,
        initial=initial,
        faults=tuple(fault or ()),
        fault_probability=fault_probability,
        quiet=quiet,
    )
    try:
        asyncio.run(command.serve(options))
    except ValueError as exc:
        raise typer.BadParameter(str(exc)) from exc
    except OSError as exc:
        typer.echo(f"{host}:{port} cannot be listened on: {exc.strerror}", err=True)
        raise typer.Exit(1) from exc
