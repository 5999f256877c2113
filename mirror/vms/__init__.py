"""The VMS: its list, its files, and the words it uses for them."""

from mirror.vms.client import RawAnswer, VmsClient, VmsOptions
from mirror.vms.origins import Origins
from mirror.vms.proxy import Proxies, variable_of
from mirror.vms.sessions import Sessions, Tls
from mirror.vms.token import TokenFile

__all__ = [
    "Origins",
    "Proxies",
    "RawAnswer",
    "Sessions",
    "Tls",
    "TokenFile",
    "VmsClient",
    "VmsOptions",
    "variable_of",
]
