"""A VMS that can be told to misbehave, for the demo, the tests and the benchmark."""

from mirror.simulator.behaviour import INTERNAL_ORIGIN, Behaviour, Etag, Unmade
from mirror.simulator.exports import Export, Stage, Truth, Version
from mirror.simulator.faults import FAULTS, Chaos, Fault, Kind, Step, fault
from mirror.simulator.footage import CLIPS
from mirror.simulator.journal import Journal, Request
from mirror.simulator.life import Life
from mirror.simulator.server import DEFAULT_TOKEN, Vms

__all__ = [
    "CLIPS",
    "DEFAULT_TOKEN",
    "FAULTS",
    "INTERNAL_ORIGIN",
    "Behaviour",
    "Chaos",
    "Etag",
    "Export",
    "Fault",
    "Journal",
    "Kind",
    "Life",
    "Request",
    "Stage",
    "Step",
    "Truth",
    "Unmade",
    "Version",
    "Vms",
    "fault",
]
