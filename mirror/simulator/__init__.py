"""A VMS that can be told to misbehave, for the demo, the tests and the benchmark."""

from mirror.simulator.behaviour import Behaviour, Etag, Unmade
from mirror.simulator.exports import Export, Stage
from mirror.simulator.faults import FAULTS, Chaos, Fault, Kind, Step, fault
from mirror.simulator.journal import Request
from mirror.simulator.life import Life
from mirror.simulator.server import Vms

__all__ = [
    "FAULTS",
    "Behaviour",
    "Chaos",
    "Etag",
    "Export",
    "Fault",
    "Kind",
    "Life",
    "Request",
    "Stage",
    "Step",
    "Unmade",
    "Vms",
    "fault",
]
