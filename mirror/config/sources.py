"""The settings of a source, its rules and its certificate checks."""

import re
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Literal, Self
from zoneinfo import ZoneInfo

from pydantic import BeforeValidator, Field, field_validator, model_validator

from mirror.config.values import (
    BaseUrl,
    Count,
    DateFormat,
    Duration,
    FilePath,
    Flag,
    HeaderWord,
    Moment,
    Origin,
    ProxyUrl,
    SecretUrl,
    Strings,
    Table,
    Text,
    UrlPath,
    Zone,
    one_or_many,
)


def _fingerprint(value: object) -> bytes:
    if isinstance(value, bytes):
        return value
    kind, _, digits = str(value).partition(":")
    digits = digits.replace(":", "")
    if kind != "sha256" or not re.fullmatch("[0-9A-Fa-f]{64}", digits):
        raise ValueError('must be "sha256:" and the 64 hex digits of the certificate')
    return bytes.fromhex(digits)


def _users(value: object) -> list[object]:
    users = one_or_many(value)
    return [str(user) if type(user) is int else user for user in users]


def _action(value: object) -> object:
    if value in ("high", "low"):
        raise ValueError(
            f'action "{value}" is not available in this version; "exclude" is'
        )
    return value


class TlsSettings(Table):
    """How the certificate of a source is checked.

    Attributes:
        ca_file: Certificates to trust besides the system's.
        fingerprint: SHA-256 digest of the one certificate to accept.
        verify: False accepts any certificate.
    """

    ca_file: FilePath | None = None
    fingerprint: Annotated[bytes, BeforeValidator(_fingerprint)] | None = None
    verify: Flag = True

    @model_validator(mode="after")
    def _at_most_one(self) -> Self:
        ways = (self.ca_file is not None, bool(self.fingerprint), not self.verify)
        if sum(ways) > 1:
            raise ValueError(
                "must hold at most one of ca_file, fingerprint and verify = false"
            )
        return self


class MatchSettings(Table):
    """Which exports a rule applies to: those that match every key set.

    Attributes:
        camera: Ids of cameras.
        stream_type: Globs.
        user: Globs over the id of who asked for the export.
        name: Globs over the name as listed.
        min_age: Only exports this old or older.
        max_age: Only exports this old or newer.
    """

    camera: (
        Annotated[tuple[int, ...], BeforeValidator(one_or_many), Field(min_length=1)]
        | None
    ) = None
    stream_type: Strings | None = None
    user: Annotated[Strings, BeforeValidator(_users)] | None = None
    name: Strings | None = None
    min_age: Duration | None = None
    max_age: Duration | None = None

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if not self.model_fields_set:
            raise ValueError(
                "must have at least one of " + ", ".join(type(self).model_fields)
            )
        if self.min_age and self.max_age and self.min_age > self.max_age:
            raise ValueError("matches nothing: min_age is longer than max_age")
        return self


class RuleSettings(Table):
    """One rule of a source; the first that matches wins."""

    name: Text
    match: MatchSettings
    action: Annotated[Literal["exclude"], BeforeValidator(_action)]


class SourceSettings(Table):
    """One account on one VMS.

    Attributes:
        name: From the table's name, no key of its own.
        credentials_folder: Where systemd keeps our credentials; no key of its own.
        url: Without a trailing slash.
        list_path: Appended to `url`.
        history_start: Where the first sweep begins; None means everything.
        concurrency: Fetches at once per origin.
        file_origins: In normal form, allowed besides the source's own.
        rewrite_origins: In normal form, from the origin listed to the one asked.
        proxy: An address, or `environment`; None means none.
        device_uuid: None means made once, then kept.
        second_look: Look at a fetched file again, by its headers.
    """

    name: str
    credentials_folder: Path | None = None
    url: BaseUrl
    list_path: UrlPath = "/api/v1/downloads"
    token_file: FilePath | None = None
    poll_interval: Duration = timedelta(seconds=60)
    sweep_interval: Duration = timedelta(minutes=30)
    sweep_depth: Duration = timedelta(days=90)
    history_start: Moment | None = None
    lookback: Duration = timedelta(hours=24)
    file_lifetime: Duration = timedelta(hours=3)
    waiting_limit: Duration = timedelta(hours=24)
    concurrency: Count = 4
    per_page: Annotated[Count, Field(le=1000)] = 100
    folder_url: Literal["append_name", "wait"] = "append_name"
    tls: TlsSettings = TlsSettings()
    file_origins: tuple[Origin, ...] = ()
    rewrite_origins: dict[Origin, Origin] = Field(default_factory=dict)
    proxy: ProxyUrl | None = None
    date_format: DateFormat = "%Y-%m-%dT%H:%M:%SZ"
    footage_timezone: Zone = ZoneInfo("UTC")
    client: HeaderWord = "web"
    device_uuid: HeaderWord | None = None
    send_token_to_files: Flag = False
    second_look: Flag = True
    heartbeat_url: SecretUrl | None = None
    rules: tuple[RuleSettings, ...] = ()

    @field_validator("rules")
    @classmethod
    def _names_differ(cls, rules: tuple[RuleSettings, ...]) -> tuple[RuleSettings, ...]:
        if len({rule.name for rule in rules}) < len(rules):
            raise ValueError("must have names that differ; two rules share one")
        return rules

    @model_validator(mode="after")
    def _url_is_the_base(self) -> Self:
        base = str(self.url).removesuffix(self.list_path)
        if base != self.url:
            raise ValueError(
                "has list_path in its url, to which that is appended; write "
                f'url = "{base}"'
            )
        return self

    @property
    def token_path(self) -> Path | None:
        """Where the token is: its file, else the systemd credential, else None."""
        if self.token_file or self.credentials_folder is None:
            return self.token_file
        return self.credentials_folder / f"{self.name}.token"
