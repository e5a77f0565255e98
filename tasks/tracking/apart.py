"""A process beside this one for what must not run beside a training in the same process.

torch.export changes torch's modules for every thread while it works: a convolutional net that was
trained in another thread came out with other weights.

The process is started by the first call and ends with this one, whose pipe it reads. Not one of
multiprocessing's, which would import the user's script once more.
"""

import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ParamSpec, TypeVar, cast

__all__ = ["ProcessLost", "alone_in_process", "apart", "serve"]

P = ParamSpec("P")
T = TypeVar("T")


class ProcessLost(Exception):
    """The process beside this one died during a call."""


@dataclass
class _Beside:
    """The process, if it runs; it answers one call at a time."""

    process: subprocess.Popen[bytes] | None = None
    guard: threading.Lock = field(default_factory=threading.Lock)

    def call(self, content: bytes) -> object:
        with self.guard:
            if self.process is None or self.process.poll() is not None:
                self.process = _start()
            sent, answered = self.process.stdin, self.process.stdout
            assert sent is not None, "it was started with pipes"
            assert answered is not None, "it was started with pipes"
            try:
                sent.write(content)
                sent.flush()
                return pickle.load(answered)  # noqa: S301 - from our own process
            except (OSError, EOFError) as error:
                self.process.kill()
                raise ProcessLost from error


_beside = _Beside()


def alone_in_process() -> bool:
    """Whether no other training can run in this process: flows in other threads have company."""
    return threading.current_thread() is threading.main_thread()


def apart(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call a module's function in the process; what it raises is raised here.

    Raises:
        ProcessLost: the process died; the next call starts another one.
    """
    answer = _beside.call(pickle.dumps((function, args, kwargs)))
    if isinstance(answer, Exception):
        raise answer
    return cast("T", answer)


def _start() -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-P", "-c", "from tasks.tracking.apart import serve; serve()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        # Ctrl-C on a terminal is for this process, which ends the other one by its pipe.
        start_new_session=True,
    )


def serve() -> None:
    """Be that process: answer calls until the other end of the pipe is closed."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what a model prints is no answer
    while True:
        try:
            function, args, kwargs = pickle.load(sys.stdin.buffer)  # noqa: S301 - our own parent
        except EOFError:
            return
        try:
            answer = function(*args, **kwargs)
        except Exception as error:
            answer = error
        pickle.dump(answer, answers)
        answers.flush()
