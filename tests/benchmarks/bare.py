"""Federated averaging in plain torch, as fast as a loop gets (tight) and as tutorials do (naive).

    python -m tests.benchmarks.bare FILE tight|naive THREADS

FILE is what `tests.benchmarks.workloads` prepared: records, participants, batch orders, initial
weights. Knows nothing of fedcore.
"""

import copy
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from tests.benchmarks.laps import Laps
from tests.benchmarks.transformer import Transformer

Participant = tuple[int, Tensor]
"""A worker's number and the order of its records in this round."""


@dataclass(frozen=True)
class Work:
    """A prepared workload, loaded."""

    model: str
    batch: int
    learning_rate: float
    workers: list[tuple[Tensor, Tensor]]
    test: tuple[Tensor, Tensor]
    rounds: list[list[Participant]]
    initial: list[Tensor]

    def module(self) -> nn.Module:
        """The model with its initial weights."""
        module = make(self.model)
        with torch.no_grad():
            for parameter, value in zip(module.parameters(), self.initial, strict=True):
                parameter.copy_(value)
        return module

    def shares(self, participants: list[Participant]) -> list[float]:
        """Each one's share of the records."""
        sizes = [len(order) for _, order in participants]
        return [size / sum(sizes) for size in sizes]


def make(model: str) -> nn.Module:
    """The architectures of the workloads."""
    if model == "perceptron":
        widths = [nn.Linear(784, 200), nn.ReLU(), nn.Linear(200, 200), nn.ReLU()]
        return nn.Sequential(*widths, nn.Linear(200, 10))
    if model == "convolutions":
        first = [nn.Unflatten(1, (1, 28, 28)), nn.Conv2d(1, 16, 3, padding=1)]
        second = [nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(16, 32, 3, padding=1)]
        last = [nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(1568, 10)]
        return nn.Sequential(*first, *second, *last)
    return Transformer() if model == "transformer" else nn.Linear(20, 10)


def load(path: Path) -> Work:
    """Read a prepared workload; the workers' records become tensors of their own."""
    with np.load(path) as file:
        kept = {name: torch.from_numpy(file[name]) for name in file.files if name != "model"}
        model = str(file["model"])
    sizes = kept["sizes"].tolist()
    features, targets = kept["features"], kept["targets"]
    workers = [
        (x[where], y[where])
        for where in kept["held"].split(sizes)
        for x, y in [(features, targets)]
    ]
    rounds = []
    for number in range(int(kept["rounds"])):
        chosen = kept[f"chosen_{number}"].tolist()
        orders = kept[f"orders_{number}"].split([sizes[worker] for worker in chosen])
        rounds.append(list(zip(chosen, orders, strict=True)))
    weights = [kept[f"weight_{i}"] for i in range(int(kept["weights"]))]
    test = (features[kept["test"]], targets[kept["test"]])
    return Work(
        model, int(kept["batch"]), float(kept["learning_rate"]), workers, test, rounds, weights
    )


def tight(work: Work, laps: Laps) -> None:
    """Records as tensors, weights and gradients as views of two vectors, a step is one addition."""
    module = work.module()
    weights, gradients = as_vectors(module)
    server, added = weights.clone(), torch.empty_like(weights)
    laps.start()
    for participants in work.rounds:
        added.zero_()
        for (worker, order), share in zip(participants, work.shares(participants), strict=True):
            weights.copy_(server)
            features, targets = (tensor[order] for tensor in work.workers[worker])
            batches = zip(features.split(work.batch), targets.split(work.batch), strict=True)
            for x, y in batches:
                gradients.zero_()
                functional.cross_entropy(module(x), y).backward()
                weights.add_(gradients, alpha=-work.learning_rate)
            added.add_(weights, alpha=share)
        server.copy_(added)
        weights.copy_(server)
        laps.lap(accuracy(module, work.test))


def as_vectors(module: nn.Module) -> tuple[Tensor, Tensor]:
    """Two vectors that the module's weights and gradients become views of."""
    weights = torch.cat([p.detach().reshape(-1) for p in module.parameters()])
    gradients = torch.zeros_like(weights)
    start = 0
    for parameter in module.parameters():
        end = start + parameter.numel()
        parameter.data = weights[start:end].view_as(parameter)
        parameter.grad = gradients[start:end].view_as(parameter)
        start = end
    return weights, gradients


def naive(work: Work, laps: Laps) -> None:
    """A copy of the model, an optimiser and a DataLoader for every worker; state dicts averaged."""
    server = work.module()
    sets = [TensorDataset(*records) for records in work.workers]
    criterion = nn.CrossEntropyLoss()
    laps.start()
    for participants in work.rounds:
        mean: dict[str, Tensor] = {}
        for (worker, order), share in zip(participants, work.shares(participants), strict=True):
            module = copy.deepcopy(server)
            optimiser = torch.optim.SGD(module.parameters(), lr=work.learning_rate)
            loader = DataLoader(sets[worker], batch_size=work.batch, sampler=Order(order))
            for x, y in loader:
                optimiser.zero_grad()
                criterion(module(x), y).backward()
                optimiser.step()
            for name, value in module.state_dict().items():
                mean[name] = mean[name] + value * share if name in mean else value * share
        server.load_state_dict(mean)
        laps.lap(accuracy(server, work.test))


class Order(torch.utils.data.Sampler[int]):
    """The records in a given order, where others would say shuffle=True."""

    def __init__(self, order: Tensor) -> None:
        self.order = order.tolist()

    def __iter__(self) -> Iterator[int]:
        return iter(self.order)

    def __len__(self) -> int:
        return len(self.order)


@torch.no_grad()
def accuracy(module: nn.Module, test: tuple[Tensor, Tensor]) -> float:
    """Share of the test records whose class is the largest output."""
    features, targets = test
    return (module(features).argmax(dim=1) == targets).double().mean().item()


SYSTEMS: dict[str, Callable[[Work, Laps], None]] = {"tight": tight, "naive": naive}


def main() -> None:
    """Measure in this process."""
    path, system, threads = sys.argv[1:]
    torch.set_num_threads(int(threads))
    laps = Laps()
    SYSTEMS[system](load(Path(path)), laps)
    laps.report()


if __name__ == "__main__":
    main()
