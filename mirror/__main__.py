"""Run the command line, as `archive-mirror` and as `python -m mirror`."""

from typer.completion import completion_init  # type: ignore[attr-defined]  # unmarked

from mirror.cli import main

completion_init()  # typer answers the shells that complete what is typed

if __name__ == "__main__":
    main()
