"""Our rounds beside bare loops of torch that do exactly the same work.

    python -m tests.benchmarks.cohorts [--minutes 7] [--only W1 W3]

On one core and again on both: `bare-tight` and `bare-naive` (tests/benchmarks/bare.py), `engine`
(a loop over fedcore) and `fedrounds` (the flow, with a Prefect and an MLflow server on the other
core). Every system trains the same participants on the same records in the same order from the
same weights, so their accuracies must agree in every round. Each measurement is a process of its
own; everything is measured once, then what time remains goes into repetitions. Prints a table and
writes `benchmarks.json`; the status is 1 where accuracies differ.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.benchmarks import startup
from tests.benchmarks.processes import ROOT, Measured, Servers, measure, servers

NAMES = ("W1", "W2", "W3", "ragged", "transformer", "crowd")
SYSTEMS = ("bare-tight", "bare-naive", "engine", "fedrounds")
ONE_IMAGE = 1 / 1000
"""Of a thousand test records: sums in another order may turn the class of one."""


@dataclass(frozen=True)
class Job:
    """One thing to measure."""

    workload: str
    system: str
    cores: tuple[int, ...]


Found = dict[Job, list[Measured]]


def jobs(names: Sequence[str]) -> Iterator[Job]:
    """Everything once, side by side; then, again and again, what the ratios are made of."""
    available = sorted(os.sched_getaffinity(0))
    one, both = (available[-1],), tuple(available[-2:])
    for name in names:
        yield from (Job(name, system, one) for system in SYSTEMS)
    for name in names:
        yield from (Job(name, system, both) for system in SYSTEMS if system != "bare-naive")
    yield from (Job(name, "bare-naive", both) for name in names)
    while True:
        for cores in (one, both):
            for name in names:
                yield from (Job(name, system, cores) for system in ("bare-tight", "engine"))


def measured(job: Job, folder: Path, serving: Servers) -> Measured:
    """Do one job, the servers on whatever cores it leaves."""
    others = sorted(os.sched_getaffinity(0) - set(job.cores))
    serving.move(others or job.cores)
    if job.system.startswith("bare-"):
        variant = job.system.removeprefix("bare-")
        arguments = ["bare", f"{job.workload}.npz", variant, str(len(job.cores))]
    else:
        arguments = ["ours", job.workload, job.system, str(len(job.cores))]
    return measure(*arguments, folder=folder, cores=job.cores, serving=serving)


def all_measured(names: Sequence[str], minutes: float, folder: Path, serving: Servers) -> Found:
    """As many jobs as fit."""
    for name in names:
        subprocess.run(
            [sys.executable, "-m", "tests.benchmarks.workloads", name, folder / f"{name}.npz"],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            check=True,
        )
    began = time.monotonic()
    found: Found = {}
    for job in jobs(names):
        if time.monotonic() - began > 60 * minutes:
            return found
        found.setdefault(job, []).append(measured(job, folder, serving))
        seconds = time.monotonic() - began
        text = f"{seconds:5.0f} s: {job.workload} {job.system} on {len(job.cores)}"
        print(text, file=sys.stderr, flush=True)
    return found


@dataclass(frozen=True)
class Row:
    """One line of `benchmarks.json`: medians over repetitions, the ratio within this run."""

    workload: str
    system: str
    cores: int
    s_per_round: float
    cpu_s_per_round: float
    ratio: float
    peak_mb: float
    accuracy: float


def rows(found: Found) -> list[Row]:
    """What was found, one row for each job."""
    made = []
    for job, several in found.items():
        cpu = statistics.median(m.cpu_seconds for m in several)
        tight = found[Job(job.workload, "bare-tight", job.cores)]
        made.append(
            Row(
                workload=job.workload,
                system=job.system,
                cores=len(job.cores),
                s_per_round=statistics.median(m.seconds for m in several),
                cpu_s_per_round=cpu,
                ratio=cpu / statistics.median(m.cpu_seconds for m in tight),
                peak_mb=statistics.median(m.peak_mb for m in several),
                accuracy=several[-1].accuracies[-1],
            )
        )
    return made


def print_table(found: Found) -> None:
    """The rows, and beside them what the servers took, and memory over the rounds."""
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    print(
        f"{'workload':<12}{'system':<11}{'cores':>6}{'times':>6}{'ms':>9}{'cpu ms':>9}{'ratio':>7}"
        f"{'servers ms':>11}{'1st round s':>12}{'MB early':>9}{'end':>6}{'peak':>6}{'accuracy':>9}"
    )
    for several, row in zip(found.values(), rows(found), strict=True):
        last = several[-1]
        served = 1e3 * last.server_cpu_seconds if row.system == "fedrounds" else 0.0
        print(
            f"{row.workload:<12}{row.system:<11}{row.cores:>6}{len(several):>6}"
            f"{1e3 * row.s_per_round:>9.1f}{1e3 * row.cpu_s_per_round:>9.1f}{row.ratio:>7.2f}"
            f"{served:>11.1f}{last.first_round_s:>12.1f}{last.early_mb:>9.0f}{last.end_mb:>6.0f}"
            f"{row.peak_mb:>6.0f}{row.accuracy:>9.3f}"
        )


def agree(found: Found) -> bool:
    """Print the largest difference between accuracies, round by round, and whether it is small."""
    worst, where = 0.0, "nothing"
    for job, several in found.items():
        tight = found[Job(job.workload, "bare-tight", job.cores)][0].accuracies
        for each in several:
            pairs = enumerate(zip(tight, each.accuracies, strict=True), start=1)
            for round, (wanted, got) in pairs:
                if abs(wanted - got) > worst:
                    worst = abs(wanted - got)
                    where = f"{job.workload} {job.system}, round {round}"
    fine = worst <= ONE_IMAGE + 1e-9
    verdict = "as good as equal" if fine else "MORE THAN ONE TEST RECORD IN A THOUSAND"
    print(f"largest difference in accuracy: {worst:.4f} ({where}): {verdict}")
    return fine


def main() -> None:
    """Measure, print, write; the status says whether all trained the same."""
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--minutes", type=float, default=7.0)
    arguments.add_argument("--only", nargs="+", choices=NAMES, default=NAMES)
    given = arguments.parse_args()
    with tempfile.TemporaryDirectory() as name, servers(Path(name)) as serving:
        folder = Path(name)
        found = all_measured(given.only, given.minutes, folder, serving)
        print_table(found)
        fine = agree(found)
        startup.report(folder, sorted(os.sched_getaffinity(0)), serving)
    Path("benchmarks.json").write_text(json.dumps([asdict(row) for row in rows(found)], indent=2))
    sys.exit(0 if fine else 1)


if __name__ == "__main__":
    main()
