"""What a measured process notes of itself: seconds, CPU seconds, memory and accuracy by round."""

import json
import os
import time
from pathlib import Path

STARTED = "FEDROUNDS_BENCH_STARTED"
"""Environment: the time at which the process was asked for."""


class Laps:
    """One lap for each round, begun where the one before ended."""

    def __init__(self) -> None:
        self.walls: list[float] = []
        self.cpus: list[float] = []
        self.mb: list[float] = []
        self.accuracies: list[float] = []
        self.first_round_s = 0.0
        self.start()

    def start(self) -> None:
        """The next lap begins now."""
        self.wall, self.cpu = time.perf_counter(), time.process_time()

    def lap(self, accuracy: float) -> None:
        """A round ended; `accuracy` is its model's on the test records."""
        self.walls.append(time.perf_counter() - self.wall)
        self.cpus.append(time.process_time() - self.cpu)
        self.first_round_s = self.first_round_s or time.time() - float(os.environ[STARTED])
        self.mb.append(_memory_mb("VmRSS"))
        self.accuracies.append(accuracy)
        self.start()

    def report(self) -> None:
        """Print everything as the process's last line."""
        # Not ru_maxrss, which a child inherits from the process that started it.
        print(json.dumps({**vars(self), "peak_mb": _memory_mb("VmHWM")}), flush=True)


def _memory_mb(name: str) -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1]) / 1024
    raise LookupError(name)
