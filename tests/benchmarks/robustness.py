"""Each aggregator under each attack: the tables of docs/robustness.md.

    python -m tests.benchmarks.robustness [--seeds 2]

Ten workers learn the digits for 60 rounds; two of them, the last, attack in every round. Prints
for equal and for unequal workers a table in markdown: test accuracy in percent, the mean over the
last five rounds and over seeds. About seven minutes on one core.
"""

import argparse
import statistics
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fedcore.aggregators import (
    Aggregator,
    Context,
    bucketing,
    bulyan,
    centred_clipping,
    coordinate_median,
    fltrust,
    geometric_median,
    krum,
    mean_around_median,
    multi_krum,
    nearest_neighbour_mixing,
    needs_trusted,
    norm_bounding,
    trimmed_mean,
    weighted_mean,
)
from fedcore.aggregators.aggregator import NOTHING
from fedcore.byzantine import (
    Attack,
    a_little_is_enough,
    attacked,
    flip_labels,
    gaussian,
    inner_product_manipulation,
    mimic,
    sign_flip,
)
from fedcore.data import deal
from fedcore.errors import Diverged
from fedcore.federation import Federation, found_with
from fedcore.settings import parse
from fedcore.simulation import rounds
from fedcore.strategies import Strategy
from fedcore.workers import VirtualWorker

WORKERS, ATTACKERS, ROUNDS = 10, (8, 9), 60
ROOT_RECORDS = 100
"""What the coordinator holds for FLTrust: neither in a worker's hands nor in the test."""

RULES: Mapping[str, Aggregator] = {
    "weighted_mean": weighted_mean,
    "norm_bounding": norm_bounding(),
    "coordinate_median": coordinate_median(),
    "trimmed_mean": trimmed_mean(faulty=2),
    "mean_around_median": mean_around_median(faulty=2),
    "geometric_median": geometric_median(),
    "centred_clipping": centred_clipping(radius=1, iterations=3),
    "krum": krum(faulty=2),
    "multi_krum": multi_krum(faulty=2),
    "bulyan, told 1": bulyan(faulty=1),
    "mixing, trimmed_mean": nearest_neighbour_mixing(trimmed_mean(faulty=2), faulty=2),
    "mixing, geometric_median": nearest_neighbour_mixing(geometric_median(), faulty=2),
    "buckets of 2, coordinate_median": bucketing(coordinate_median(), size=2),
    "fltrust": fltrust(),
}
FLIPPED_LABELS = "flipped labels"
ATTACKS: Mapping[str, Attack | None] = {
    "none": None,
    FLIPPED_LABELS: None,
    "sign flip x 10": sign_flip(scale=10),
    "IPM 2": inner_product_manipulation(tau=2),
    "ALIE 1.5": a_little_is_enough(tau=1.5),
    "gaussian": gaussian(deviation=1),
    "mimic": mimic(),
}
PARTITIONS: Mapping[str, Mapping[str, object]] = {
    "iid": {"kind": "iid"},
    "dirichlet(0.3)": {"kind": "dirichlet", "alpha": 0.3},
}


@dataclass
class Informed:
    """Fills the context: the last row is the coordinator's own, if the aggregator needs one."""

    aggregator: Aggregator
    seed: int
    previous: Tensor | None = None

    def __call__(self, rows: Tensor, weights: Tensor, context: Context = NOTHING) -> Tensor:
        own = rows[-1] if needs_trusted(self.aggregator) else None
        last = len(rows) if own is None else len(rows) - 1
        context = Context(context.round, self.seed, self.previous, own)
        self.previous = self.aggregator(rows[:last], weights[:last], context)
        return self.previous


def reached(rule: str, attack: str, partition: str, *, seed: int = 0) -> float:
    """Test accuracy, the mean over the last five rounds, or over those before one that diverges:
    that one leaves the model as it was."""
    found = []
    with suppress(Diverged):
        for state in rounds(federation(rule, attack, partition, seed=seed)):
            assert state.record is not None, "a round that ended has a record"
            found.append(state.record.metrics["test_accuracy"])
    return statistics.fmean(found[-5:])


def federation(rule: str, attack: str, partition: str, *, seed: int) -> Federation:
    """Ten workers, and the coordinator as one more if the rule asks for its update."""
    config = parse(
        {
            "seed": seed,
            "rounds": ROUNDS,
            "data": {"test_share": 0.25},
            "model": {"kind": "mlp", "hidden": [32]},
            "local": {"epochs": 2, "batch_size": 16, "learning_rate": 0.2},
            "workers": {"kind": "virtual", "count": WORKERS, "partition": PARTITIONS[partition]},
        }
    )
    dealt = deal(config.data, config.workers, config.model.loss, seed=seed)
    assert dealt.test is not None, "a quarter of the records is held out"
    root, test = (
        dealt.test.take(part) for part in np.split(np.arange(len(dealt.test)), [ROOT_RECORDS])
    )
    records = dict(dealt.workers)
    if attack == FLIPPED_LABELS:
        for id in [sorted(records)[place] for place in ATTACKERS]:
            records[id] = flip_labels(records[id])
    aggregator, sent = RULES[rule], ATTACKS[attack]
    if sent is not None:
        aggregator = attacked(aggregator, sent, attackers=ATTACKERS)
    if needs_trusted(aggregator):
        # Rows are sorted by worker: this one comes after worker-10.
        records["z-coordinator"] = root
    workers = [VirtualWorker.holding(id, data) for id, data in records.items()]
    strategy = Strategy(rule, aggregator=Informed(aggregator, seed))
    found = found_with(config, workers, strategy, sample=dealt.sample, test=test)
    return found.named(f"{rule}, {attack}, {partition}, {seed}", attempt=1)


def table(partition: str, *, seeds: int) -> None:
    """Print as it comes: rules down, attacks across."""
    print(f"\n| {partition} | " + " | ".join(ATTACKS) + " |")
    print("| --- " * (len(ATTACKS) + 1) + "|")
    for rule in RULES:
        cells = []
        for attack in ATTACKS:
            found = [reached(rule, attack, partition, seed=seed) for seed in range(seeds)]
            cells.append(f"{100 * statistics.fmean(found):.1f}")
        print(f"| {rule} | " + " | ".join(cells) + " |", flush=True)


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=2)
    seeds = parser.parse_args().seeds
    torch.set_num_threads(1)
    started = time.process_time()
    for partition in PARTITIONS:
        table(partition, seeds=seeds)
    print(f"\n{time.process_time() - started:.0f} s of CPU")


if __name__ == "__main__":
    main()
