"""What is trained in `tests.benchmarks.cohorts`, and the file that the bare loops read.

    python -m tests.benchmarks.workloads NAME FILE

FEDROUNDS_BENCH_DATA names an npz of real digits (`x_train`, `x_test` uint8 [N, 784], `y_train`,
`y_test`); without it, records of the same shapes are generated.
"""

import os
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from fedcore.data import Dataset, Table, deal
from fedcore.federation import found
from fedcore.seeds import derive
from fedcore.selection import select
from fedcore.settings import TrainingConfig, parse
from tests.benchmarks.transformer import TOKENS, VOCABULARY

DATA = "FEDROUNDS_BENCH_DATA"
CLASSES = tuple(str(number) for number in range(10))


@dataclass(frozen=True)
class Workload:
    """`workers` over the records of `source`, of which `test` are for testing."""

    model: str
    workers: int
    a_round: int
    source: str = "images"
    records: int = 10_000
    test: int = 1000
    rounds: int = 20
    batch: int = 10
    learning_rate: float = 0.05
    partition: str = "iid"


WORKLOADS = {
    "W1": Workload("perceptron", 100, 10),
    "W2": Workload("perceptron", 1000, 100),
    "W3": Workload("convolutions", 100, 10),
    # A few large workers at 0.05 leave the accuracy to the rounding of their sum.
    "ragged": Workload("perceptron", 100, 10, partition="quantity_skew", learning_rate=0.02),
    "transformer": Workload("transformer", 100, 10, source="sequences", learning_rate=0.1),
    # Five records each, three steps a round: what is measured is a hundred thousand of them.
    "crowd": Workload(
        "logistic", 100_000, 1000, source="points", records=501_000, rounds=13, batch=2
    ),
    # One record each, one step, a thousand parameters: what a round costs that trains nothing.
    "thousand": Workload(
        "logistic", 1000, 1000, source="spikes", records=1000, test=0, rounds=40, batch=1
    ),
}
MODELS = {
    "perceptron": {"kind": "mlp", "hidden": [200, 200]},
    "convolutions": {"kind": "cnn", "channels": [16, 32]},
    "logistic": {"kind": "logistic"},
    "transformer": {"kind": "custom", "entrypoint": "tests.benchmarks.transformer:Transformer"},
}


def config(name: str, *, hosts: int) -> TrainingConfig:
    """The settings of a workload, its workers spread over so many handles."""
    work = WORKLOADS[name]
    arguments = {"kind": work.source, "records": work.records}
    partition = {"kind": work.partition, **({} if work.partition == "iid" else {"alpha": 1.0})}
    return parse(
        {
            "name": name,
            "rounds": work.rounds,
            "data": {
                "source": {
                    "kind": "custom",
                    "entrypoint": "tests.benchmarks.workloads:table",
                    "arguments": arguments,
                },
                "test_share": work.test / work.records,
            },
            "model": MODELS[work.model],
            "local": {
                "epochs": 1,
                "batch_size": work.batch,
                "optimiser": {"kind": "sgd"},
                "learning_rate": work.learning_rate,
            },
            "workers": {
                "kind": "simulated",
                "count": work.workers,
                "hosts": hosts,
                "partition": partition,
                "engine": "auto",
            },
            "strategy": {"kind": "fedavg"},
            "sampling": {"kind": "uniform", "count": work.a_round},
        }
    )


def table(kind: str, records: int) -> Table:
    """The source of every workload; generated records follow from nothing but their number."""
    stream = np.random.default_rng(1)
    if kind == "images" and DATA in os.environ:
        features, labels = _digits(Path(os.environ[DATA]))
    else:
        labels = stream.integers(0, len(CLASSES), records)
        features = _generated(kind, labels, stream)
    tensors = torch.from_numpy(features.astype(np.float32)), torch.from_numpy(labels)
    return Table(Dataset(*tensors, CLASSES), {})


def _digits(path: Path) -> tuple[np.ndarray, np.ndarray]:
    with np.load(path) as file:
        pixels = np.concatenate([file["x_train"], file["x_test"]])
        labels = np.concatenate([file["y_train"], file["y_test"]])
    return pixels / 255, labels.astype(np.int64)


def _generated(kind: str, labels: np.ndarray, stream: np.random.Generator) -> np.ndarray:
    if kind == "images":
        means = stream.random((len(CLASSES), 784))
        return np.clip(means[labels] + stream.normal(0, 0.8, (len(labels), 784)), 0, 1)
    if kind == "sequences":
        # Half of the tokens are the class's own, the others anybody's.
        own = stream.integers(0, VOCABULARY, (len(CLASSES), 8))
        said = own[labels][np.arange(len(labels))[:, None], stream.integers(0, 8, (1, TOKENS))]
        noise = stream.integers(0, VOCABULARY, said.shape)
        return np.where(stream.random(said.shape) < 0.5, said, noise)
    # 99 features and 10 classes make a logistic model of 1,000 parameters.
    width = 99 if kind == "spikes" else 20
    means = stream.normal(0, 1, (len(CLASSES), width))
    return means[labels] + stream.normal(0, 2, (len(labels), width))


def prepare(name: str, path: Path) -> None:
    """Write what the bare loops need to do exactly what our training does."""
    settings = config(name, hosts=1)
    federation = found(settings)
    dealt = deal(settings.data, settings.workers, settings.model.loss, seed=settings.seed)
    parts = list(dealt.parts.values())
    sizes = np.array([len(part) for part in parts])
    content: dict[str, object] = {
        "model": WORKLOADS[name].model,
        "batch": settings.local.batch_size,
        "learning_rate": settings.local.learning_rate,
        "features": dealt.records.features.numpy(),
        "targets": dealt.records.targets.numpy(),
        "test": dealt.held_out,
        "held": np.concatenate(parts),
        "sizes": sizes,
        "rounds": settings.rounds,
    }
    for number in range(settings.rounds):
        chosen = select(federation.terms, replace(federation.start, round=number)).places
        assert chosen is not None, "every workload samples"
        # All workers draw their order from one stream, as fedcore.local says.
        orders = [
            torch.randperm(size, generator=derive(settings.seed, number + 1, "", "order"))
            for size in sizes[chosen.numpy()].tolist()
        ]
        content[f"chosen_{number}"] = chosen.numpy()
        content[f"orders_{number}"] = torch.cat(orders).numpy()
    weights = [tensor.numpy() for tensor in federation.start.model.parameters.values()]
    content |= {f"weight_{i}": weight for i, weight in enumerate(weights)}
    np.savez(path, weights=len(weights), **content)


if __name__ == "__main__":
    prepare(sys.argv[1], Path(sys.argv[2]))
