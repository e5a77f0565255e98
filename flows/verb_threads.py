"""Threads for the workers' verbs, in which one that hangs for good holds up nobody.

Those of Python's own pool are waited for at the end of the flow, and again at the end of the
process; and as many hanging workers as there are threads would leave none for the others.
"""

import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Self, TypeVar, cast

from prefect.futures import PrefectFuture
from prefect.task_runners import ThreadPoolTaskRunner

__all__ = ["VerbPool", "VerbThreads"]

R = TypeVar("R")


class _Call(Future[object]):
    """A call and its result. To cancel one that runs is to give it up: it goes on, unwaited for,
    and another thread takes the place of its own."""

    def __init__(self, run: Callable[[], object], pool: "VerbPool") -> None:
        super().__init__()
        self.run, self.pool = run, pool
        self.thread: threading.Thread | None = None

    def cancel(self) -> bool:
        cancelled = super().cancel()
        if not cancelled and not self.done():
            self.pool.give_up(self.thread)
        return cancelled

    def perform(self) -> None:
        self.thread = threading.current_thread()
        if not self.set_running_or_notify_cancel():
            return
        try:
            result = self.run()
        except BaseException as error:  # even SystemExit is the caller's to judge
            self.set_exception(error)
        else:
            self.set_result(result)


class VerbPool(Executor):
    """At most `width` threads at work, beside those that were given up: to cancel a call that runs
    is to give it up."""

    def __init__(self, width: int) -> None:
        self.width = width
        self.calls: SimpleQueue[_Call | None] = SimpleQueue()
        self.threads: set[threading.Thread] = set()
        self.open = 0
        """Calls that wait or run, less those that were given up."""
        self.guard = threading.Lock()

    # The arguments are those of the class that it stands in for.
    def submit(self, fn, /, *args, **kwargs):  # type: ignore[no-untyped-def]
        """The future of a call."""
        call = _Call(lambda: fn(*args, **kwargs), self)
        self.calls.put(call)
        with self.guard:
            self.open += 1
            if len(self.threads) < min(self.open, self.width):
                self._start()
        return call

    def give_up(self, thread: threading.Thread | None) -> None:
        """Let another thread take the place of this one, which ends when its call does."""
        with self.guard:
            if thread in self.threads:
                self.threads.discard(thread)
                self.open -= 1
                self._start()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Wait for what runs, but not for what was given up."""
        with suppress(Empty):  # never waiting for one, for the threads take them, too
            while cancel_futures:
                if (call := self.calls.get_nowait()) is not None:
                    call.cancel()
        with self.guard:
            threads = list(self.threads)
        for _ in threads:
            self.calls.put(None)
        for thread in threads if wait else ():
            thread.join()

    def _start(self) -> None:
        # A daemon, or the process could not end while it hangs.
        thread = threading.Thread(target=self._work, name="verb", daemon=True)
        self.threads.add(thread)
        thread.start()

    def _work(self) -> None:
        while True:
            call = self.calls.get()
            if call is None:
                return
            call.perform()
            del call  # what it holds may be large, and the next may be long in coming
            with self.guard:
                if threading.current_thread() not in self.threads:
                    return
                self.open -= 1


class VerbThreads(ThreadPoolTaskRunner[PrefectFuture[R]]):
    """Prefect's runner of tasks in threads, with these threads."""

    def __enter__(self) -> Self:
        super().__enter__()
        self._executor = cast(ThreadPoolExecutor, VerbPool(self._max_workers))
        return self
