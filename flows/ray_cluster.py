"""Processes of a Ray cluster: one that runs already, or one of the training's own."""

import os
import tempfile
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

# Read when Ray is imported: it reports nothing to anybody, leaves CUDA_VISIBLE_DEVICES alone
# (it warns of that change otherwise), and a verb that comes too late starts no other cluster.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")

import ray
from ray.exceptions import RayError, RayTaskError

from fedcore.errors import ConfigError
from fedcore.settings.backend import Ray
from fedcore.values import Ref

__all__ = ["RayProcesses", "ray_processes"]

LOOPBACK = "127.0.0.1"
# Only handles and pointers pass through it; this is the least that Ray takes.
OBJECT_STORE_BYTES = 80 * 2**20


@dataclass(frozen=True)
class RayProcesses:
    """See `fedcore.workers.placed.Processes`."""

    waiting: set[Future[Ref]] = field(default_factory=set)

    @property
    def count(self) -> int:
        """Verbs that run at a time."""
        return int(ray.cluster_resources().get("CPU", 1))

    def call(self, verb: Callable[[Ref], Ref], ref: Ref) -> Ref:
        """What the verb makes of `ref`, in a process of the cluster."""
        try:
            answer: Future[Ref] = _perform.remote(verb, ref).future()
            self.waiting.add(answer)
            try:
                return answer.result()
            finally:
                self.waiting.discard(answer)
        except RayTaskError as error:
            raise error.cause from None
        except (RayError, CancelledError) as error:
            raise ConnectionError(f"Ray lost it ({type(error).__name__})") from error

    def close(self) -> None:
        """Wait for nothing any more: who waits for Ray when it ends would wait for ever."""
        for answer in list(self.waiting):
            answer.cancel()
        ray.shutdown()


# What dies is asked again by Prefect, where it is seen, and not by Ray behind its back.
@ray.remote(max_retries=0)
def _perform(verb: Callable[[Ref], Ref], ref: Ref) -> Ref:
    return verb(ref)


@contextmanager
def ray_processes(settings: Ray) -> Iterator[RayProcesses]:
    """The processes that the settings name.

    Raises:
        ConfigError: the cluster does not answer.
    """
    with ExitStack() as stack:
        if settings.address is None:
            # Each of its sessions leaves a folder of logs behind, in a place of its choice.
            folder = tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True)
            ray.init(
                num_cpus=settings.processes,
                include_dashboard=False,
                object_store_memory=OBJECT_STORE_BYTES,
                _node_ip_address=LOOPBACK,
                _temp_dir=stack.enter_context(folder),
                log_to_driver=False,
                configure_logging=False,
            )
        else:
            try:
                with warnings.catch_warnings(action="ignore"):  # of what the error then says
                    ray.init(settings.address, log_to_driver=False, configure_logging=False)
            except (OSError, RuntimeError, ValueError) as error:
                raise ConfigError(
                    f"backend.address must be a Ray cluster that answers; given: "
                    f"{settings.address} ({type(error).__name__}); start it, or leave it out."
                ) from None
        processes = RayProcesses()
        stack.callback(processes.close)
        yield processes
