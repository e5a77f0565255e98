"""How long it takes until something happens, and what a round costs in which nothing is learnt."""

import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tests.benchmarks.processes import Servers, environment, measure

COMMAND = Path(sys.executable).with_name("fedrounds")


def report(folder: Path, cores: Sequence[int], serving: Servers) -> None:
    """Print each figure beside its goal."""
    print("\nstart-up")
    thousand = measure(
        "ours", "thousand", "fedrounds", "1", folder=folder, cores=cores, serving=serving
    )
    text = "a warm round of 1,000 workers on one host, 1,000 parameters, one record and step each"
    print(f"  {thousand.seconds:6.3f} s (goal 0.1)  {text}")
    print(f"  {help_seconds(serving):6.2f} s (goal 0.5)   fedrounds --help")
    seconds = first_round_seconds(folder, serving)
    print(f"  {seconds:6.2f} s (goal 6)     fedrounds train to its first round, servers running")


def help_seconds(serving: Servers) -> float:
    """Of three times the middle one: the first may read the disk."""

    def once() -> float:
        began = time.perf_counter()
        command = [COMMAND, "--help"]
        subprocess.run(
            command, env=environment(serving, threads=1), stdout=subprocess.DEVNULL, check=True
        )
        return time.perf_counter() - began

    return statistics.median(once() for _ in range(3))


def first_round_seconds(folder: Path, serving: Servers) -> float:
    """From starting the command to the line that tells of round 1."""
    began = time.perf_counter()
    with subprocess.Popen(
        [COMMAND, "train", "digits", "--set", "rounds=2"],
        cwd=folder,
        env=environment(serving, threads=1),
        stdout=subprocess.PIPE,
        text=True,
    ) as training:
        assert training.stdout is not None, "it is a pipe"
        for line in training.stdout:
            if line.startswith("round 1 of"):
                seconds = time.perf_counter() - began
                training.communicate()
                return seconds
    raise RuntimeError(f"fedrounds train ended with status {training.returncode} before a round")
