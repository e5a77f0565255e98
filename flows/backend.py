"""Where the verbs of a training run, as its setting `backend` says.

Prefect's task runs are always those of threads in the flow's own process: 5 ms each. With Dask or
Ray such a thread waits while the worker's verb runs in another process, which needs neither
Prefect nor its server (docs/decisions/0006).
"""

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import cast
from urllib.parse import urlsplit

from prefect.context import FlowRunContext
from prefect.futures import PrefectFuture
from prefect.task_runners import TaskRunner

from fedcore.checkpoint import home
from fedcore.errors import ConfigError
from fedcore.federation import Federation
from fedcore.scratch import folder_at, own_folder
from fedcore.settings.backend import Backend, Dask, Ray, Threads
from fedcore.store import LIVE
from fedcore.workers.placed import Placed, Processes
from flows.verb_threads import VerbThreads

__all__ = ["Place", "check_backend", "opened", "threads"]

# A few more than cores do no harm; without a bound Prefect starts a thread for every worker.
WIDTH = max(4, os.cpu_count() or 4)


def threads(width: int = WIDTH) -> TaskRunner[PrefectFuture[object]]:
    """A task runner that has as many workers train at a time as there are cores."""
    # The decorator asks for a runner of any future; the thread runner says which it makes.
    return cast("TaskRunner[PrefectFuture[object]]", VerbThreads(max_workers=width))


@dataclass(frozen=True)
class Place:
    """What the URLs of the workers' stores begin with, and those of what they remember, which
    outlives this process; and who runs their verbs; None: we do."""

    stores: str = LIVE
    memories: str = LIVE
    processes: Processes | None = None

    def settle(self, federation: Federation) -> Federation:
        """The same federation with its workers in this place."""
        if self.processes is None:
            return federation
        workers = [Placed(worker, self.processes) for worker in federation.workers]
        terms = replace(federation.terms, shared=f"{self.stores}coordinator")
        return replace(federation, workers=workers, terms=terms)


def check_backend(settings: Backend) -> None:
    """What can be known before anything is started.

    Raises:
        ConfigError: the extra is missing, or the store cannot serve this cluster.
    """
    if isinstance(settings, Threads):
        return
    module = "distributed" if isinstance(settings, Dask) else "ray"
    if find_spec(module) is None:
        raise ConfigError(
            f"The backend {settings.kind} needs {module}; given: an installation without it; "
            f"pip install 'fedrounds[{settings.kind}]'."
        )
    if settings.address is not None and settings.store is None and not _here(settings.address):
        raise ConfigError(
            f"backend.store must be a folder that the cluster can reach; given: none, with the "
            f"cluster at {settings.address}; name one, like s3://bucket/fedrounds."
        )


@contextmanager
def opened(settings: Backend) -> Iterator[Place]:
    """The place that the settings name; what was started for it ends with the block.

    Raises:
        ConfigError: as `check_backend`, or the cluster or the store does not answer.
    """
    check_backend(settings)
    if isinstance(settings, Threads):
        yield Place(memories=f"{home()}/")
        return
    context = FlowRunContext.get()
    assert context is not None, "a training runs in a flow"
    with ExitStack() as started:
        if settings.store is None:
            store, memories = started.enter_context(own_folder(home() / "values")), f"{home()}/"
        else:
            store = started.enter_context(folder_at(settings.store))
            memories = f"{settings.store.rstrip('/')}/memories/"
        processes = started.enter_context(_processes(settings))
        # Twice as many threads as processes: while one verb runs, the next is on its way. They
        # end last, for they may still wait for a verb that ends with its process.
        with (
            threads(2 * processes.count) as runner,
            started.pop_all(),
            context.model_copy(update={"task_runner": runner}),
        ):
            yield Place(f"{store}/", memories, processes)


def _processes(settings: Dask | Ray) -> AbstractContextManager[Processes]:
    # Either is an extra, which may be missing.
    if isinstance(settings, Dask):
        from flows.dask_cluster import dask_processes

        return dask_processes(settings)
    from flows.ray_cluster import ray_processes

    return ray_processes(settings)


def _here(address: str) -> bool:
    """Whether an address is one of this machine."""
    return urlsplit(address).hostname in ("localhost", "127.0.0.1", "::1")
