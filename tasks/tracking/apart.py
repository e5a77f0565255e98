"""A process beside this one for what must not run beside a training in the same process.

torch.export changes torch's modules for every thread while it works: a convolutional net that was
trained in another thread came out with other weights.
"""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import ParamSpec, TypeVar

__all__ = ["BrokenProcessPool", "alone_in_process", "apart"]

P = ParamSpec("P")
T = TypeVar("T")

_guard = threading.Lock()
_processes: list[ProcessPoolExecutor] = []


def alone_in_process() -> bool:
    """Whether no other training can run in this process: flows in other threads have company."""
    return threading.current_thread() is threading.main_thread()


def apart(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call a module's function in the process, which is started by the first call and stays.

    Raises:
        BrokenProcessPool: the process died; the next call starts another one.
    """
    with _guard:
        if not _processes:
            context = multiprocessing.get_context("spawn")
            _processes.append(ProcessPoolExecutor(1, context, initializer=_end_with_parent))
        process = _processes[0]
    try:
        return process.submit(function, *args, **kwargs).result()
    except BrokenProcessPool:
        with _guard:
            if process in _processes:
                _processes.remove(process)
        raise


def _end_with_parent() -> None:
    # Ctrl-C on a terminal reaches every process; the parent ends this one in order.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None, "this runs in a child"

    def watch() -> None:
        parent.join()
        os._exit(0)

    threading.Thread(target=watch, daemon=True, name="parent").start()
