"""The page about the configuration, from its classes and its commented example."""

from __future__ import annotations

import inspect
import re
import tempfile
import types
from pathlib import Path
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    Literal,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

from annotated_types import Le

from mirror.config import (
    HttpSettings,
    MatchSettings,
    RuleSettings,
    Settings,
    SourceSettings,
    TargetSettings,
    TlsSettings,
    TransferSettings,
    explain,
    values,
)
from mirror.config.environment import variable_for
from mirror.config.settings import Listen

if TYPE_CHECKING:
    from collections.abc import Iterator

EXAMPLE = Path(__file__).parents[1] / "config" / "archive-mirror.toml"
INTERNAL = {"name", "credentials_folder"}
_NAME = "name"
_SMALLEST = f"""\
[sources.{_NAME}]
url = "https://vms.example"
[targets.{_NAME}]
type = "directory"
path = "/srv/footage"
"""
_TABLES: tuple[tuple[str, type[values.Table], tuple[str, ...], str], ...] = (
    ("Top level", Settings, (), "Before the first table of the file."),
    (
        "`[sources.NAME]`",
        SourceSettings,
        ("sources", _NAME),
        "One per account on a VMS. What all share can stand in `[defaults.source]`.",
    ),
    (
        "`[targets.NAME]`",
        TargetSettings,
        ("targets", _NAME),
        "One per place that keeps copies. What all share: `[defaults.target]`.",
    ),
    ("`[http]`", HttpSettings, ("http",), ""),
    ("`[transfer]`", TransferSettings, ("transfer",), ""),
)
_OWN_SECTION = {(key,) for key in ("sources", "targets", "cameras", "http", "transfer")}
_BELOW: tuple[tuple[str, type[values.Table]], ...] = (
    ("`tls` of a source, at most one of", TlsSettings),
    ("`[[sources.NAME.rules]]`, the first that matches wins", RuleSettings),
    ("`match` of a rule, at least one of", MatchSettings),
)
_OF_A_RULE = {
    "name": "Told as the reason `rule:<name>` of what it excludes.",
    "match": "What exports are meant: see below.",
    "action": "What is done with them: they are never fetched.",
}
_KINDS: tuple[tuple[object, str], ...] = (
    (values.Duration, "duration"),
    (values.DurationOrZero, "duration, or `0s`"),
    (values.Size, "size"),
    (values.SizeOrZero, "size, or 0"),
    (values.Rate, "rate"),
    (values.Count, "whole number, 1 or more"),
    (values.FilePath, "path"),
    (values.BaseUrl, "address"),
    (values.UrlPath, "path of a url"),
    (values.SecretUrl, "address"),
    (values.ProxyUrl, '`"http://HOST:PORT"` or `"environment"`'),
    (values.Origin, "origin, `scheme://host[:port]`"),
    (values.Zone, "time zone"),
    (values.Moment, "date or time"),
    (values.DateFormat, "format of strftime"),
    (values.HeaderWord, "one word"),
    (values.FileMode, "octal in quotes"),
    (values.DirMode, "octal in quotes"),
    (values.Strings, "text, or a list of texts"),
    (values.Text, "text"),
    (values.Name, "name"),
    (Listen, "`host:port`"),
    (bytes, "`sha256:` and 64 hex digits"),
    (values.Flag, "true or false"),
    (int, "whole number"),
    (str, "text"),
)
_PAGE = """\
# Configuration

Made from the code and `config/archive-mirror.toml` by `python -m tests.docs`; change
these, not this page.

TOML, in `/etc/archive-mirror/archive-mirror.toml` unless `--config` or
`$ARCHIVE_MIRROR_CONFIG` names another file. Files `conf.d/*.toml` beside it are merged
over it in the order of their names. Relative paths start at the folder of that file. A
key that is not listed here is an error; `archive-mirror check` names every fault at
once, `archive-mirror config show` what is in effect and where it was set. `systemctl
reload archive-mirror` takes up a change; `state_dir` and `[http]` need a restart.

Any key can be set by environment, over all files: the variable in the last column, NAME
being the source's or target's in capitals; lists and tables as JSON. `defaults` work
there too: `{defaults}`.

| type | is written as |
|---|---|
| duration | `"250ms"`, `"30s"`, `"5m"`, `"1h30m"`, `"90d"` |
| size | `"64KiB"`, `"500MB"`, `"5GiB"`, or a number of bytes |
| rate | `"1KiB/s"`, `"20MB/s"`, `"400Mbit/s"` |
| date or time | `"2026-01-31"`, `"2026-01-31T08:00:00Z"`; UTC unless it says so |
| time zone | `"UTC"`, `"Europe/Berlin"` |

Names of sources and targets are of a-z, 0-9 and _. Secrets are only ever named by file,
but for what is in a `heartbeat_url` or a `proxy`.

{tables}
"""


def make() -> str:
    """Return the page."""
    said, defaults = _comments(), _defaults()
    parts: list[str] = []
    for title, table, above, text in _TABLES:
        parts.append(f"## {title}\n")
        parts += [f"{text}\n"] if text else []
        parts.append(
            "| key | type | default | meaning | variable |\n|---|---|---|---|---|"
        )
        parts += _rows(table, above, said, defaults)
        parts.append("")
    parts.append(
        "## `[cameras]`\n\nOptional names of cameras by number, for layouts, lists and "
        'reports: `317 = "North gate"`. By environment: '
        f"`{variable_for(('cameras', 317))}`.\n"
    )
    for title, table in _BELOW:
        parts.append(
            f"## {title}\n\n| key | type | default | meaning |\n|---|---|---|---|"
        )
        parts += _rows_below(table)
        parts.append("")
    variable = variable_for(("defaults", "source", "poll_interval"))
    return _PAGE.format(tables="\n".join(parts).rstrip(), defaults=variable)


def _rows(
    table: type[values.Table],
    above: tuple[str, ...],
    said: dict[tuple[str, ...], str],
    defaults: dict[tuple[str, ...], str | None],
) -> Iterator[str]:
    hints = get_type_hints(table, include_extras=True)
    for key, field in table.model_fields.items():
        path = (*above, key)
        if key in INTERNAL or path in _OWN_SECTION:
            continue
        default = "" if defaults[path] is None else f"`{defaults[path]}`"
        default = "required" if field.is_required() else default
        variable = variable_for(path)
        cells = (f"`{key}`", kind(hints[key]), default, said[path], f"`{variable}`")
        yield f"| {' | '.join(cells)} |"


def _rows_below(table: type[values.Table]) -> Iterator[str]:
    hints = get_type_hints(table, include_extras=True)
    told = _OF_A_RULE if table is RuleSettings else _attributes(table)
    for key, field in table.model_fields.items():
        default = "required" if field.is_required() else ""
        if field.default not in (None, ()) and not field.is_required():
            default = f"`{str(field.default).lower()}`"
        yield f"| `{key}` | {kind(hints[key])} | {default} | {told[key]} |"


def kind(hint: Any) -> str:
    """Return what a key takes, in words."""
    for known, word in _KINDS:
        if hint == known:
            return word
    origin, args = get_origin(hint), get_args(hint)
    if origin in {Union, types.UnionType}:
        return kind(next(arg for arg in args if arg is not type(None)))
    if origin is Annotated:
        return _annotated(hint, args[0], args[1:])
    if origin is Literal:
        return " or ".join(f'`"{arg}"`' for arg in args)
    if origin is tuple:
        return f"list of: {kind(args[0])}"
    if origin is dict:
        return f"table, {kind(args[0])} = {kind(args[1])}"
    if isinstance(hint, type) and issubclass(hint, values.Table):
        return "table"
    raise LookupError(f"no word for a key of type {hint}")


def _annotated(hint: Any, inner: Any, metadata: tuple[Any, ...]) -> str:
    for known, word in _KINDS:
        least = getattr(known, "__metadata__", ())
        if least and get_args(known)[0] is inner and metadata[: len(least)] == least:
            limits = [
                bound.le
                for extra in metadata[len(least) :]
                for bound in getattr(extra, "metadata", ())
                if isinstance(bound, Le)
            ]
            return word.replace("or more", f"to {limits[0]}") if limits else word
    return kind(inner)


def _defaults() -> dict[tuple[str, ...], str | None]:
    """Return every key there is, with what it is when nobody sets it, as TOML."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "archive-mirror.toml")
        path.write_text(_SMALLEST, "utf-8")
        found = {one.path: one.value for one in explain(path, {})}
    bytes_ = int(found["transfer", "max_file_size"] or 0)
    return found | {("transfer", "max_file_size"): f'"{bytes_ // 2**30}GiB"'}


def _comments() -> dict[tuple[str, ...], str]:
    """Return what the example says above each key, by its place."""
    found: dict[tuple[str, ...], str] = {}
    table: tuple[str, ...] = ()
    text: list[str] = []
    fresh = True
    for line in EXAMPLE.read_text("utf-8").splitlines():
        if header := re.fullmatch(r"\[([a-z.]+)\]", line):
            part, *name = header[1].split(".")
            table, text = (part, _NAME) if name else (part,), []
        elif setting := re.match(
            r"#?(?:\[\[sources\.hq\.)?([a-z_]+)(?: = .|\]\])", line
        ):
            found.setdefault((*table, setting[1]), _sentence(text))
            fresh = True
        elif line.startswith("# "):
            text = [] if fresh else text
            text.append(line.removeprefix("# "))
            fresh = False
        elif not line:
            text = []
    return found


def _sentence(lines: list[str]) -> str:
    text = " ".join(lines)
    return re.sub(r"\s*Example(:.*|\.?)$", "", text).strip().replace("|", "\\|")


def _attributes(table: type[values.Table]) -> dict[str, str]:
    """Return what a class says of its keys."""
    _, _, text = inspect.cleandoc(table.__doc__ or "").partition("Attributes:\n")
    return {
        match[1]: re.sub(r"\s+", " ", match[2]).strip()
        for match in re.finditer(
            r"^ {4}(\w+): (.*(?:\n {8}.*)*)", text, flags=re.MULTILINE
        )
    }
