"""Federated learning as values and functions: no orchestrator, no tracking server.

from fedcore import Dataset, VirtualWorker, parse, simulate
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fedcore.data import Dataset
    from fedcore.settings import TrainingConfig, parse
    from fedcore.simulation import simulate
    from fedcore.workers import VirtualWorker

__all__ = ["Dataset", "TrainingConfig", "VirtualWorker", "parse", "simulate"]

_WHERE = {
    "Dataset": "fedcore.data",
    "TrainingConfig": "fedcore.settings",
    "VirtualWorker": "fedcore.workers",
    "parse": "fedcore.settings",
    "simulate": "fedcore.simulation",
}


def __getattr__(name: str) -> object:
    # Importing torch takes over a second; who only checks settings should not wait for it.
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_WHERE[name]), name)
