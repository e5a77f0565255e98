"""Workers: who holds data and lends computation."""

from fedcore.workers.cohort import CohortWorker
from fedcore.workers.group import GroupWorker
from fedcore.workers.virtual import VirtualWorker
from fedcore.workers.worker import Worker

__all__ = ["CohortWorker", "GroupWorker", "VirtualWorker", "Worker"]
