"""Processes that live exactly as long as the process that started them.

Parent and child hold the two ends of a socket, the child's on its standard input. The child
says over it that it is ready; its end of file tells the child to stop. The kernel closes the
parent's end however the parent dies, so not even `kill -9` leaves an orphan.
"""

import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from fedcore.errors import FedroundsError

__all__ = ["ChildProcess", "ParentLine", "start_child"]

READY = b"ready\n"
# How long an orderly stop may take before the child and all it started are killed.
GRACE_SECONDS = 8.0


@dataclass(frozen=True)
class ChildProcess:
    """A running child, seen from its parent. `name` is what error messages call it."""

    name: str
    process: "subprocess.Popen[bytes]"
    line: socket.socket
    log: Path

    def wait_ready(self, *, timeout: float = 120.0) -> None:
        """Return once the child has said that it is ready.

        Raises:
            FedroundsError: it ended, or said nothing in `timeout` seconds; names its log.
        """
        readable, _, _ = select.select([self.line], [], [], timeout)
        if readable and self.line.recv(len(READY), socket.MSG_PEEK) == READY:
            return
        given = f"it said nothing for {timeout:.0f} s"
        if readable:
            given = f"it ended with status {self.process.wait()}"
        self.stop(timeout=0)
        raise FedroundsError(f"{self.name} must start; {given}; read {self.log} for the reason.")

    def stop(self, *, timeout: float = GRACE_SECONDS + 2) -> None:
        """End the child in order, or by force after `timeout` seconds. Twice does no harm."""
        self.line.close()
        try:
            self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            _kill_group(self.process.pid)
            self.process.wait()


def start_child(
    module: str,
    *arguments: str,
    name: str,
    log: Path,
    environment: Mapping[str, str],
    inherit: Sequence[socket.socket] = (),
) -> ChildProcess:
    """Start `python -m module` at once, without waiting for it to be ready."""
    log.parent.mkdir(parents=True, exist_ok=True)
    ours, theirs = socket.socketpair()
    with theirs, log.open("ab") as out:
        process = subprocess.Popen(  # noqa: S603 - one of our own modules, no shell
            [sys.executable, "-m", module, *arguments],
            stdin=theirs.fileno(),
            stdout=out,
            stderr=subprocess.STDOUT,
            env={**environment, **_same_modules()},
            pass_fds=[each.fileno() for each in inherit],
            # Its own group: Ctrl-C on the terminal reaches the parent alone, which then stops
            # its children in order; and one signal ends the child with all that it started.
            start_new_session=True,
        )
    return ChildProcess(name, process, ours, log)


def _same_modules() -> dict[str, str]:
    """Environment under which a child imports the modules that this process imports.

    The working folder may hold packages called `flows`, `tasks` or `deployments` of its own;
    `python -m` would put that folder first.
    """
    path = [os.path.abspath(entry) for entry in sys.path]
    return {"PYTHONPATH": os.pathsep.join(path), "PYTHONSAFEPATH": "1"}


def _kill_group(leader: int) -> None:
    with suppress(ProcessLookupError):  # all of them are gone already
        os.killpg(leader, signal.SIGKILL)


@dataclass(frozen=True)
class ParentLine:
    """The child's side of the bond with its parent."""

    line: socket.socket
    parent: int

    @classmethod
    def open(cls) -> "ParentLine":
        """Take the line over from standard input; the first thing a child does."""
        return cls(socket.socket(fileno=os.dup(0)), os.getppid())

    def ready(self) -> None:
        """Tell the parent that the child does its work now."""
        with suppress(OSError):  # the parent is gone, which `watch` notices
            self.line.sendall(READY)

    def watch(self, stop: Callable[[], None]) -> None:
        """Call `stop` when the parent ends or asks for it; kill what is left after the grace."""
        threading.Thread(target=self._watch, args=(stop,), daemon=True, name="parent").start()

    def _watch(self, stop: Callable[[], None]) -> None:
        # A process that the parent forked may hold a copy of the parent's end and so keep the
        # line open after the parent's death: the parent's id is asked for, too.
        while os.getppid() == self.parent and not self._closed():
            pass
        stop()
        time.sleep(GRACE_SECONDS)
        _kill_group(os.getpgrp())

    def _closed(self) -> bool:
        readable, _, _ = select.select([self.line], [], [], 1.0)
        try:
            return bool(readable) and self.line.recv(1) == b""
        except OSError:
            return True
