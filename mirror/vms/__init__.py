"""The VMS: its list, its files, and the words it uses for them."""

from mirror.vms.client import VmsClient, VmsOptions
from mirror.vms.list_answer import Answered
from mirror.vms.origins import Origins
from mirror.vms.proxy import Proxies, variable_of
from mirror.vms.sessions import Sessions, Tls
from mirror.vms.token import TokenFile

__all__ = [
    "Answered",
    "Origins",
    "Proxies",
    "Sessions",
    "Tls",
    "TokenFile",
    "VmsClient",
    "VmsOptions",
    "variable_of",
]
