"""What published studies found, repeated: the tables of docs/baselines.md.

    python -m tests.benchmarks.baselines [synthetic|mcmahan] [--picture FILE.png]

Without a name, both. `synthetic` takes about eleven minutes of a core, `mcmahan` five. This one
reads real digits where FEDROUNDS_BENCH_DATA says (tests/benchmarks/workloads.py), and learns
scikit-learn's small ones where it does not. `--picture` draws the curves of `synthetic`.
"""

import argparse
import time
from collections.abc import Mapping
from pathlib import Path

import torch

from tests.benchmarks import heterogeneity, rounds_to_target

PANELS = {
    "0 %, (0, 0)": ["(0, 0) fedavg 0 %", "(0, 0) fedprox, mu = 1 0 %"],
    "0 %, (0.5, 0.5)": ["(0.5, 0.5) fedavg 0 %", "(0.5, 0.5) fedprox, mu = 1 0 %"],
    "0 %, (1, 1)": ["(1, 1) fedavg 0 %", "(1, 1) fedprox, mu = 1 0 %"],
    "50 %, (1, 1)": [
        "(1, 1) fedavg 50 %, dropped",
        "(1, 1) fedprox, mu = 0 50 %",
        "(1, 1) fedprox, mu = 1 50 %",
    ],
    "90 %, (1, 1)": [
        "(1, 1) fedavg 90 %, dropped",
        "(1, 1) fedprox, mu = 0 90 %",
        "(1, 1) fedprox, mu = 1 90 %",
    ],
}
COLOURS = {"fedavg": "tab:orange", "mu = 0": "tab:green", "mu = 1": "tab:blue"}


def draw(curves: Mapping[str, heterogeneity.Curve], path: Path) -> None:
    """Training loss by round, a panel for each share of stragglers and data."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 2.8), layout="constrained")
    axes = figure.subplots(1, len(PANELS), sharey=True)
    for axis, (title, names) in zip(axes, PANELS.items(), strict=True):
        for name in names:
            label = next(known for known in COLOURS if known in name)
            losses = [point.loss for point in curves[name]]
            axis.plot(range(1, len(losses) + 1), losses, COLOURS[label], label=label, lw=1)
        axis.set(title=title, xlabel="round", ylim=(0, 3))
        axis.legend(fontsize="small")
    axes[0].set_ylabel("training loss")
    figure.savefig(path, dpi=100)


def main() -> None:
    """Print the tables that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("study", nargs="?", choices=["synthetic", "mcmahan"])
    parser.add_argument("--picture", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    started = time.process_time()
    if given.study != "mcmahan":
        curves = heterogeneity.table()
        if given.picture:
            draw(curves, given.picture)
    if given.study != "synthetic":
        rounds_to_target.table()
    print(f"\n{time.process_time() - started:.0f} s of CPU")


if __name__ == "__main__":
    main()
