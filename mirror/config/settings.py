"""The whole configuration as one frozen value."""

from datetime import timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Final, Literal, NamedTuple, Self
from zoneinfo import ZoneInfo

from pydantic import (
    BeforeValidator,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from mirror.config.sources import SourceSettings
from mirror.config.targets import TargetSettings
from mirror.config.values import (
    Count,
    Duration,
    DurationOrZero,
    FilePath,
    HostName,
    Name,
    Rate,
    SecretUrl,
    Size,
    Table,
    Text,
    Zone,
    one_or_many,
)

_HIGHEST_PORT: Final = 65_535
_LEAST_BATCH_BYTES: Final = 64 * 1024
_MOST_BATCH_BYTES: Final = 512 * 1024
_ALL_TRANSFERS_BYTES: Final = 14 * 1024 * 1024
_CONNECTION_BYTES: Final = 384 * 1024
"""What a transfer over TLS holds besides its two batches.

With 20 MiB and batches of 1 MiB, 8 transfers over TLS came to 100 MiB resident.
"""


class Listen(NamedTuple):
    """Where to listen.

    Attributes:
        host: Without brackets; None means every interface.
        port: 0 means any free one.
    """

    host: str | None
    port: int

    @property
    def is_loopback(self) -> bool:
        """Nobody but this machine reaches it."""
        try:
            return ip_address(self.host or "").is_loopback
        except ValueError:
            return self.host == "localhost"


def _listen(value: object) -> Listen:
    if isinstance(value, Listen):
        return value
    host, colon, port = str(value).rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    host = host[1:-1] if bracketed else host
    is_port = port.isascii() and port.isdecimal() and int(port) <= _HIGHEST_PORT
    is_host = (":" in host) is bracketed and not set(host) & set("[]/ ")
    if not (colon and is_port and is_host):
        raise ValueError(
            'must be host:port, such as "127.0.0.1:9533", "[::1]:9533" or ":9533"'
        )
    return Listen(host or None, int(port))


class HttpSettings(Table):
    """What is served over HTTP, and where.

    Attributes:
        pages: By default all on loopback; elsewhere not the status, which names
            footage.
        hosts: Names or addresses that are answered as Host; on loopback besides its
            own, elsewhere none means all.
    """

    listen: Annotated[Listen, BeforeValidator(_listen)] = Listen("127.0.0.1", 9533)
    hosts: Annotated[tuple[HostName, ...], BeforeValidator(one_or_many)] = ()
    pages: tuple[Literal["metrics", "health", "status"], ...] = Field(
        default=(), validate_default=True
    )

    @field_validator("pages", mode="before")
    @classmethod
    def _pages(cls, value: object, info: ValidationInfo) -> object:
        if value != ():
            if not (pages := one_or_many(value)):
                raise ValueError("must not be an empty list")
            return pages
        listen = info.data.get("listen")
        status = ("status",) if listen is not None and listen.is_loopback else ()
        return ("metrics", "health", *status)


class TransferSettings(Table):
    """How files are fetched, over all sources.

    Attributes:
        min_rate: Bytes per second, averaged over 5 minutes; None means any.
        max_file_size: In bytes.
    """

    concurrency: Count = 16
    stall_timeout: Duration = timedelta(seconds=30)
    first_byte_timeout: Duration = timedelta(seconds=60)
    min_rate: Rate | None = None
    retry_initial: Duration = timedelta(seconds=5)
    retry_max: Duration = timedelta(minutes=10)
    shutdown_grace: DurationOrZero = timedelta(seconds=20)
    max_file_size: Size = 50 * 2**30

    @model_validator(mode="after")
    def _retries_grow(self) -> Self:
        if self.retry_initial > self.retry_max:
            raise ValueError("must have a retry_max of at least retry_initial")
        return self

    @property
    def batch_bytes(self) -> int:
        """Bytes that one transfer writes at once; fewer if many may run.

        It has two batches: one is written while the other is filled.
        """
        share = _ALL_TRANSFERS_BYTES // self.concurrency - _CONNECTION_BYTES
        return max(_LEAST_BATCH_BYTES, min(_MOST_BATCH_BYTES, share // 2))


class Settings(Table):
    """Everything an operator may set; all paths are absolute.

    Attributes:
        spool_dir: None means on the only target if that can be, else in `state_dir`.
        timezone: Of calendars and names; the ledger is UTC.
        on_event: A command and its arguments; empty runs none.
        cameras: Names of cameras by id.
    """

    state_dir: FilePath = Path("/var/lib/archive-mirror")
    spool_dir: FilePath | None = None
    timezone: Zone = ZoneInfo("UTC")
    heartbeat_url: SecretUrl | None = None
    on_event: tuple[Text, ...] = ()
    sources: dict[Name, SourceSettings] = Field(default={}, validate_default=True)
    targets: dict[Name, TargetSettings] = Field(default={}, validate_default=True)
    cameras: dict[int, Text] = Field(default_factory=dict)
    http: HttpSettings = HttpSettings()
    transfer: TransferSettings = TransferSettings()

    @field_validator("sources")
    @classmethod
    def _some_source(
        cls, sources: dict[str, SourceSettings]
    ) -> dict[str, SourceSettings]:
        if not sources:
            raise ValueError("there is none; add a table [sources.NAME] with its url")
        return sources

    @field_validator("targets")
    @classmethod
    def _some_target(
        cls, targets: dict[str, TargetSettings]
    ) -> dict[str, TargetSettings]:
        if not targets:
            raise ValueError(
                'there is none; add a table [targets.NAME] with type = "directory" '
                "and its path"
            )
        paths = [target.path for target in targets.values()]
        if len(set(paths)) < len(paths):
            raise ValueError("two targets share one path; give each its own")
        return targets
