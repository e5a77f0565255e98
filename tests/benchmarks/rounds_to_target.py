"""FedAvg against FedSGD: rounds until a perceptron classifies so many digits.

McMahan et al. 2017, Communication-Efficient Learning of Deep Networks from Decentralized Data,
section 3, tables 1 and 2. `python -m tests.benchmarks.baselines mcmahan` runs it.
"""

import os
import statistics
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace

from fedcore.errors import Diverged
from fedcore.federation import Federation, pool
from fedcore.settings import TrainingConfig, parse
from fedcore.simulation import rounds, simulate
from fedcore.values import ServerState
from tests.benchmarks.workloads import DATA

__all__ = ["DIGITS", "MNIST", "Cell", "Setting", "accuracies", "config", "reached", "table"]


@dataclass(frozen=True)
class Cell:
    """A row of the table: E epochs in batches of B, 0 for all records; `most` rounds are tried."""

    epochs: int
    batch: int
    most: int

    @property
    def name(self) -> str:
        """As the paper has it."""
        kind = "FedSGD" if (self.epochs, self.batch) == (1, 0) else "FedAvg"
        return f"{kind} | {self.epochs} | {self.batch or '∞'}"


@dataclass(frozen=True)
class Setting:
    """What is learnt, to which accuracy, by how many workers; a tenth of them is drawn a round."""

    source: Mapping[str, object]
    target: float
    workers: int = 100
    hidden: Sequence[int] = field(default=(200, 200))


MNIST = Setting(
    {
        "kind": "custom",
        "entrypoint": "tests.benchmarks.workloads:table",
        "arguments": {"kind": "images", "records": 10_000},
    },
    target=0.94,
)
DIGITS = Setting({"kind": "digits"}, target=0.9, workers=50, hidden=(64,))
CELLS = [Cell(1, 0, 600), Cell(5, 0, 300), Cell(1, 10, 300), Cell(5, 10, 300)]
PARTITIONS: Mapping[str, Mapping[str, object]] = {
    "IID": {"kind": "iid"},
    "non-IID": {"kind": "shards", "each": 2},
}
# The one that is best most often first: the others then stop early.
RATES = (0.3, 0.1, 1.0)


def config(
    setting: Setting, cell: Cell, partition: str, *, rate: float, seed: int
) -> TrainingConfig:
    """The training of one cell. FedSGD is asked for by its name, not as FedAvg of one step."""
    return parse(
        {
            "seed": seed,
            "rounds": cell.most,
            "data": {"source": dict(setting.source), "test_share": 0.1},
            "model": {"kind": "mlp", "hidden": list(setting.hidden)},
            "local": {
                "epochs": cell.epochs,
                "batch_size": cell.batch,
                "learning_rate": rate,
            },
            "workers": {
                "kind": "simulated",
                "count": setting.workers,
                "partition": dict(PARTITIONS[partition]),
            },
            "sampling": {"kind": "uniform", "count": setting.workers // 10},
            "strategy": {"kind": "fedsgd" if cell.name.startswith("FedSGD") else "fedavg"},
        }
    )


def accuracies(states: Iterator[ServerState]) -> Iterator[float]:
    """Of each round on the test records, up to one that diverges."""
    with suppress(Diverged):
        for state in states:
            assert state.record is not None, "a round that ended has a record"
            yield state.record.metrics["test_accuracy"]


def reached(
    setting: Setting, cell: Cell, partition: str, *, rate: float, seed: int = 0
) -> int | None:
    """The first round whose model is as good as the target; None if none is."""
    found = accuracies(simulate(config(setting, cell, partition, rate=rate, seed=seed)))
    return next((r for r, a in enumerate(found, start=1) if a >= setting.target), None)


def _fewest(setting: Setting, cell: Cell, partition: str, *, seed: int) -> tuple[int, float] | None:
    """Rounds to the target at the best learning rate, and that."""
    best = None
    for rate in RATES:
        # Nothing is learnt of a rate that needs more rounds than one tried before.
        within = cell if best is None else replace(cell, most=best[0] - 1)
        found = reached(setting, within, partition, rate=rate, seed=seed)
        best = best if found is None else (found, rate)
    return best


def table(*, seeds: int = 2) -> None:
    """Print a row for each cell: rounds to the target, and how many fewer than FedSGD's."""
    setting = MNIST if DATA in os.environ else DIGITS
    alone = accuracies(rounds(_pooled(setting)))
    print(f"Target {setting.target:.0%}; on all records at one place: {max(alone):.1%}.\n")
    print("| algorithm | E | B | " + " | ".join(f"{p} | rate" for p in PARTITIONS) + " |")
    print("| --- " * (3 + 2 * len(PARTITIONS)) + "|")
    fedsgd: dict[str, float] = {}
    for cell in CELLS:
        texts = []
        for partition in PARTITIONS:
            tried = [_fewest(setting, cell, partition, seed=seed) for seed in range(seeds)]
            found = [best for best in tried if best is not None]
            if len(found) < seeds:
                texts += [f"more than {cell.most}", "-"]
                continue
            mean = statistics.fmean(needed for needed, _ in found)
            if cell is CELLS[0]:
                fedsgd[partition] = mean
            gain = f" ({fedsgd[partition] / mean:.1f}x)" if partition in fedsgd else ""
            rates = sorted({rate for _, rate in found})
            texts += [f"{mean:.0f}{gain}", ", ".join(f"{rate:g}" for rate in rates)]
        print(f"| {cell.name} | " + " | ".join(texts) + " |", flush=True)


def _pooled(setting: Setting) -> Federation:
    return pool(config(setting, Cell(1, 10, 25), "IID", rate=0.1, seed=0)).named("all", attempt=1)
