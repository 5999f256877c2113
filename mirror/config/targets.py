"""The settings of a target."""

from typing import Annotated, Final, Literal

from pydantic import AfterValidator, BeforeValidator, ValidationInfo

from mirror.config.values import (
    Context,
    Count,
    DirMode,
    FileMode,
    FilePath,
    Flag,
    SizeOrZero,
    Table,
    Text,
)
from mirror.errors import LayoutError
from mirror.layout import parse_layout

DEFAULT_LAYOUT: Final = "{source}/camera-{camera_id}/{from:%Y/%m/%d}/{id}-{name}"
_LATER_TYPES: Final = ("s3", "sftp", "webdav")


def _type(value: object) -> object:
    if value in _LATER_TYPES:
        raise ValueError(f"type {value} is not available in this version; directory is")
    return value


def _layout(value: str, info: ValidationInfo) -> str:
    try:
        fields = parse_layout(value).fields
    except LayoutError as exc:
        raise ValueError(str(exc)) from exc
    missing = [] if "id" in fields else ["must contain {id}"]
    context: Context | None = info.context
    if context and context.source_count > 1 and "source" not in fields:
        missing.append("must contain {source}, for several sources share the target")
    if missing:
        raise ValueError(f'{" and ".join(missing)}, such as "{DEFAULT_LAYOUT}"')
    return value


class TargetSettings(Table):
    """One directory that keeps copies.

    Attributes:
        name: From the table's name, no key of its own.
        required: An export is saved only once this target holds it.
        mount: Refuse to write unless `path` is a mount point.
        min_free: Bytes to leave free; 0 fills the disk.
        concurrency: Copies at once.
    """

    name: str
    type: Annotated[Literal["directory"], BeforeValidator(_type)]
    path: FilePath
    layout: Annotated[str, AfterValidator(_layout)] = DEFAULT_LAYOUT
    required: Flag = True
    mount: Flag = False
    min_free: SizeOrZero = 0
    file_mode: FileMode = 0o640
    dir_mode: DirMode = 0o750
    group: Text | None = None
    concurrency: Count = 4
