"""The types of values that keys take; an error says what would be right."""

import re
import stat
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Final
from urllib.parse import SplitResult, urlsplit
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationInfo,
)

from mirror.config.units import parse_duration, parse_rate, parse_size

_PORTS: Final = {"http": 80, "https": 443}
ENVIRONMENT: Final = "environment"
_CARRIES_USER: Final = (
    "must not carry a user or a password; secrets are only named by file (token_file)"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What the meaning of a value depends on besides the value.

    Attributes:
        folder: Absolute; relative paths start here.
        source_count: How many sources share the targets.
    """

    folder: Path
    source_count: int


class Table(BaseModel):
    """A table of the configuration: frozen, and closed to unknown keys."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        hide_input_in_errors=True,
        arbitrary_types_allowed=True,
    )


def one_or_many(value: object) -> list[object]:
    """Return `value` as a list; a single value becomes a list of one."""
    return list(value) if isinstance(value, list | tuple) else [value]


def base_url(value: str) -> str:
    """Return an http base url without its trailing slash."""
    parts = _split(value)
    if "?" in value or "#" in value:
        raise ValueError(
            'must be the base of the VMS without "?" or "#", such as '
            '"https://vms.example"'
        )
    return parts.geturl().rstrip("/")


def origin(value: str) -> str:
    """Return `scheme://host[:port]` in lower case, a default port left out."""
    parts = _split(value)
    if parts.path not in {"", "/"} or "?" in value or "#" in value:
        raise ValueError(
            'must be an origin without a path, such as "https://s3.example"'
        )
    host = (parts.hostname or "").encode("idna").decode()
    host = f"[{host}]" if ":" in host else host
    default = parts.port is None or parts.port == _PORTS[parts.scheme]
    return f"{parts.scheme}://{host}" + ("" if default else f":{parts.port}")


def _split(value: str) -> SplitResult:
    problem = 'must be an http or https address, such as "https://vms.example"'
    if not value.isprintable() or " " in value:
        raise ValueError(problem)
    try:
        parts = urlsplit(value)
        host, port = parts.hostname, parts.port
        (host or "").encode("idna")
    except ValueError:
        # Chained, the cause would show the text, which may hold a password.
        raise ValueError(problem) from None
    if "@" in parts.netloc:
        raise ValueError(_CARRIES_USER)
    if parts.scheme not in _PORTS or not host or port == 0:
        raise ValueError(problem)
    return parts


def _secret_url(value: object) -> SecretStr:
    if isinstance(value, SecretStr):
        return value
    if not isinstance(value, str):
        raise ValueError('must be an address in quotes, "https://..."')  # noqa: TRY004 -- as for _moment
    _split(value)
    return SecretStr(value)


def _proxy(value: object) -> SecretStr:
    """Return the address of a proxy, or `environment`; it may carry a password."""
    if isinstance(value, SecretStr):
        return value
    problem = 'must be "http://HOST:PORT" or "environment"'
    if not isinstance(value, str):
        raise ValueError(problem)  # noqa: TRY004 -- as for _moment
    if value == ENVIRONMENT:
        return SecretStr(value)
    try:
        parts = urlsplit(value)
        right = bool(parts.scheme == "http" and parts.hostname and parts.port)
    except ValueError:
        # Chained, the cause would show the text, which may hold a password.
        raise ValueError(problem) from None
    if not right or not value.isascii() or not value.isprintable() or " " in value:
        raise ValueError(problem)
    if parts.path not in {"", "/"} or parts.query or parts.fragment:
        raise ValueError(problem)
    return SecretStr(value)


def _path(value: object, info: ValidationInfo) -> Path:
    if not isinstance(value, str | Path) or not str(value) or "\0" in str(value):
        raise ValueError("must be a path in quotes")
    context: Context | None = info.context
    return context.folder / value if context else Path(value)


def _zone(value: object) -> ZoneInfo:
    if isinstance(value, ZoneInfo):
        return value
    try:
        return ZoneInfo(str(value))
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError(
            'must be the name of a time zone, such as "UTC" or "Europe/Berlin"'
        ) from None


def _moment(value: object) -> datetime:
    problem = 'must be a date or a time, such as "2026-01-31" or "2026-01-31T08:00:00Z"'
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value.strip())
        except ValueError:
            raise ValueError(problem) from None
    if isinstance(value, date) and not isinstance(value, datetime):
        value = datetime(value.year, value.month, value.day, tzinfo=UTC)
    if not isinstance(value, datetime):
        raise ValueError(problem)  # noqa: TRY004 -- pydantic collects ValueError only
    try:
        return value.astimezone(UTC) if value.tzinfo else value.replace(tzinfo=UTC)
    except OverflowError:
        raise ValueError(problem) from None


def _no_flag(value: object) -> object:
    # Python takes true for 1.
    if isinstance(value, bool):
        raise ValueError("must be a whole number")  # noqa: TRY004 -- as for _moment
    return value


def _flag(value: object) -> object:
    # Variables of the environment are text; what else stands for true is a guess.
    if not isinstance(value, bool) and str(value).lower() not in {"true", "false"}:
        raise ValueError("must be true or false")
    return value


def _positive(value: timedelta) -> timedelta:
    if value <= timedelta(0):
        raise ValueError("must be longer than zero")
    return value


def _rate(value: object, info: ValidationInfo) -> float:
    if isinstance(value, float) and info.context is None:
        return value
    return parse_rate(value)


def _mode(value: object, info: ValidationInfo) -> int:
    if isinstance(value, int) and info.context is None:
        return value
    # In a file, 640 without quotes would be decimal, and not what was meant.
    octal = re.fullmatch("0?[0-7]{3}|[0-7]{4}", str(value), re.ASCII)
    if isinstance(value, int) or octal is None:
        raise ValueError('must be octal in quotes, such as "0640"')
    return int(str(value), 8)


def _file_mode(value: int) -> int:
    if not value & stat.S_IRUSR:
        raise ValueError('must let the owner read, such as "0640"')
    return value


def _dir_mode(value: int) -> int:
    if value & stat.S_IRWXU != stat.S_IRWXU:
        raise ValueError('must let the owner read, write and enter, such as "0750"')
    return value


def _text(value: str) -> str:
    if not value.strip() or not value.isprintable():
        raise ValueError("must be text of one line, not empty")
    return value


def _header_word(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9._:-]{1,128}", value):
        raise ValueError('must be one word of letters, digits, ".", "_", ":" and "-"')
    return value


def _host_name(value: str) -> str:
    bare = value.removeprefix("[").removesuffix("]")
    try:
        return ip_address(bare).compressed
    except ValueError:
        if not re.fullmatch(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*\.?", value):
            raise ValueError(
                'must be a name or an address without a port, such as "mirror.example"'
            ) from None
    return value


def _url_path(value: str) -> str:
    plain = value.isprintable() and not set(" ?#") & set(value)
    if not plain or not value.startswith("/") or value.startswith("//"):
        raise ValueError(
            'must be a path that begins with "/" and has no "?" or "#", such as '
            '"/api/v1/downloads"'
        )
    return value


def _date_format(value: str) -> str:
    moment = datetime(2019, 9, 24, 13, 54, 44, tzinfo=UTC)
    try:
        read = datetime.strptime(moment.strftime(value), value).replace(tzinfo=UTC)
    except ValueError:
        read = None
    if read != moment:
        raise ValueError(
            'must write date and time to the second, such as "%Y-%m-%dT%H:%M:%SZ"'
        )
    return value


Flag = Annotated[bool, BeforeValidator(_flag)]
Count = Annotated[int, BeforeValidator(_no_flag), Field(ge=1)]
Name = Annotated[str, Field(pattern=r"\A[a-z0-9_]+\z")]
Text = Annotated[str, AfterValidator(_text)]
HostName = Annotated[str, AfterValidator(_host_name)]
HeaderWord = Annotated[str, AfterValidator(_header_word)]
BaseUrl = Annotated[str, AfterValidator(base_url)]
UrlPath = Annotated[str, AfterValidator(_url_path)]
SecretUrl = Annotated[SecretStr, BeforeValidator(_secret_url)]
ProxyUrl = Annotated[SecretStr, BeforeValidator(_proxy)]
Origin = Annotated[str, AfterValidator(origin)]
FilePath = Annotated[Path, BeforeValidator(_path)]
Zone = Annotated[ZoneInfo, BeforeValidator(_zone)]
Moment = Annotated[datetime, BeforeValidator(_moment)]
DateFormat = Annotated[str, AfterValidator(_date_format)]
Duration = Annotated[
    timedelta, BeforeValidator(parse_duration), AfterValidator(_positive)
]
DurationOrZero = Annotated[timedelta, BeforeValidator(parse_duration)]
Size = Annotated[int, BeforeValidator(parse_size), Field(gt=0)]
SizeOrZero = Annotated[int, BeforeValidator(parse_size)]
Rate = Annotated[float, BeforeValidator(_rate)]
FileMode = Annotated[int, BeforeValidator(_mode), AfterValidator(_file_mode)]
DirMode = Annotated[int, BeforeValidator(_mode), AfterValidator(_dir_mode)]
Strings = Annotated[tuple[Text, ...], BeforeValidator(one_or_many), Field(min_length=1)]
