"""Processes of a Dask cluster: one that runs already, or one of the training's own."""

import logging
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import dask
from distributed import Client, KilledWorker, LocalCluster, WorkerPlugin
from distributed.client import ClosedClientError

from fedcore.errors import ConfigError
from fedcore.settings.backend import Dask
from fedcore.values import Ref

__all__ = ["DaskProcesses", "dask_processes"]

LOOPBACK = "127.0.0.1"
# The process died; the cluster ended or cannot be reached.
LOST = (KilledWorker, CancelledError, ClosedClientError, OSError)
OURS = {
    # What dies is asked again by Prefect, where it is seen, and not by Dask behind its back.
    "distributed.scheduler.allowed-failures": 0,
    # Dask has malloc give memory back at once, and torch then gets every tensor's anew: a
    # convolutional net trained half as fast.
    "distributed.nanny.pre-spawn-environ.MALLOC_TRIM_THRESHOLD_": None,
    "distributed.worker.profile.enabled": False,
}


@dataclass(frozen=True)
class DaskProcesses:
    """See `fedcore.workers.placed.Processes`."""

    client: Client

    @property
    def count(self) -> int:
        """Verbs that run at a time."""
        return sum(self.client.nthreads().values())

    def call(self, verb: Callable[[Ref], Ref], ref: Ref) -> Ref:
        """What the verb makes of `ref`, in a process of the cluster."""
        try:
            made: Ref = self.client.submit(verb, ref, pure=False).result()
        except LOST as error:
            raise ConnectionError(f"Dask lost it ({type(error).__name__})") from error
        return made


class _Undisturbed(WorkerPlugin):
    """Ctrl-C on a terminal reaches every process; the training's own ends the others in order."""

    def setup(self, worker: object) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)


@contextmanager
def dask_processes(settings: Dask) -> Iterator[DaskProcesses]:
    """The processes that the settings name.

    Raises:
        ConfigError: the scheduler does not answer.
    """
    with ExitStack() as stack:
        if settings.address is None:
            stack.enter_context(dask.config.set(OURS))
            cluster = stack.enter_context(
                LocalCluster(
                    n_workers=settings.processes,
                    threads_per_worker=1,
                    memory_limit=0,  # the records are ours: Dask knows nothing of their size
                    host=LOOPBACK,
                    dashboard_address=f"{LOOPBACK}:0",
                    silence_logs=logging.CRITICAL,
                )
            )
            client = stack.enter_context(Client(cluster, set_as_default=False))
            client.register_plugin(_Undisturbed())
            yield DaskProcesses(client)
            return
        try:
            client = Client(settings.address, set_as_default=False, timeout="10s")
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"backend.address must be a Dask scheduler that answers; given: "
                f"{settings.address} ({type(error).__name__}); start it, or leave the address out."
            ) from None
        yield DaskProcesses(stack.enter_context(client))
