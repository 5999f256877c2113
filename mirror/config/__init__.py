"""Read, merge and check the configuration; give it as frozen values."""

from mirror.config import permissions
from mirror.config.explanation import Setting, explain
from mirror.config.loader import default_config_path, load
from mirror.config.settings import HttpSettings, Listen, Settings, TransferSettings
from mirror.config.sources import (
    MatchSettings,
    RuleSettings,
    SourceSettings,
    TlsSettings,
)
from mirror.config.targets import TargetSettings

__all__ = [
    "HttpSettings",
    "Listen",
    "MatchSettings",
    "RuleSettings",
    "Setting",
    "Settings",
    "SourceSettings",
    "TargetSettings",
    "TlsSettings",
    "TransferSettings",
    "default_config_path",
    "explain",
    "load",
    "permissions",
]
