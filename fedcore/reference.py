"""All of federated learning as nested loops: slow, plain, the oracle that tests compare with.

Written from the papers, not from the rest of fedcore: it shares the settings and the derivation
of random streams (or no two programs could draw the same batches) and nothing else. Read it to
know what a training should compute.
"""

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fedcore.data.dataset import Dataset
from fedcore.seeds import derive
from fedcore.settings import TrainingConfig
from fedcore.settings.participation import Uniform
from fedcore.settings.strategies import Fedprox, Fedsgd, Sequential
from fedcore.settings.training import (
    Adam,
    Cosine,
    Exponential,
    Momentum,
    StepDecay,
)

__all__ = ["Reference", "reference_training"]


@dataclass(frozen=True)
class Reference:
    """What the oracle found: the model, and each round's losses by worker."""

    tensors: dict[str, Tensor]
    losses: list[dict[str, float]]


def reference_training(
    config: TrainingConfig,
    model: nn.Module,
    workers: Mapping[str, Dataset],
    loss: nn.Module,
    *,
    drifts: Mapping[str, Mapping[str, Tensor]] | None = None,
) -> Reference:
    """Train `model` (a copy of it) over the workers as the settings say.

    `drifts`: each worker's control variate c - c_k by parameter name, the same in every round.
    """
    drifts = drifts or {}
    model = copy.deepcopy(model)
    losses: list[dict[str, float]] = []
    for round in range(1, config.rounds + 1):
        names = list(workers)
        if isinstance(config.sampling, Uniform):
            order = torch.randperm(
                len(names), generator=derive(config.seed, round, "", "sampling")
            ).tolist()
            names = [names[i] for i in sorted(order[: config.sampling.count])]
        if isinstance(config.strategy, Sequential):
            found = {}
            for name in names:
                found[name] = _train(config, model, workers[name], loss, round, {})
        else:
            found, copies = {}, {}
            for name in names:
                copies[name] = copy.deepcopy(model)
                found[name] = _train(
                    config, copies[name], workers[name], loss, round, drifts.get(name, {})
                )
            _average(model, copies, {name: len(workers[name]) for name in names})
        losses.append(found)
    return Reference({k: v.detach().clone() for k, v in model.state_dict().items()}, losses)


def _average(model: nn.Module, copies: Mapping[str, nn.Module], records: Mapping[str, int]) -> None:
    """w = sum_k n_k / n w_k. Integer buffers stay as they were."""
    total = sum(records.values())
    states = {name: module.state_dict() for name, module in copies.items()}
    with torch.no_grad():
        for key, value in model.state_dict().items():
            if value.is_floating_point():
                mean = sum(
                    states[name][key].double() * (records[name] / total) for name in sorted(states)
                )
                assert isinstance(mean, Tensor)
                value.copy_(mean)


def _train(
    config: TrainingConfig,
    model: nn.Module,
    data: Dataset,
    loss: nn.Module,
    round: int,
    drift: Mapping[str, Tensor],
) -> float:
    """Train in place; return the mean of the batch losses, weighted by records."""
    local, strategy = config.local, config.strategy
    one_step = isinstance(strategy, Fedsgd)
    lr = _learning_rate(config, round)
    received = [p.detach().clone() for p in model.parameters()]
    slots: list[dict[str, Tensor]] = [{} for _ in received]
    model.train()
    total, seen = 0.0, 0
    for count, batch in enumerate(_batches(config, len(data), round), start=1):
        model.zero_grad()
        value = loss(model(data.features[batch]), data.targets[batch])
        value.backward()
        total, seen = total + value.item() * len(batch), seen + len(batch)
        with torch.no_grad():
            gradients = [
                torch.zeros_like(p) if p.grad is None else p.grad.clone()
                for p in model.parameters()
            ]
            if isinstance(strategy, Fedprox):
                for g, p, p0 in zip(gradients, model.parameters(), received, strict=True):
                    g += strategy.mu * (p - p0)
            for g, (name, _) in zip(gradients, model.named_parameters(), strict=True):
                g += drift.get(name, 0.0)
            if local.clip_norm is not None:
                norm = math.sqrt(sum(float((g.double() ** 2).sum()) for g in gradients))
                if norm > local.clip_norm:
                    gradients = [g * (local.clip_norm / norm) for g in gradients]
            for p, g, slot in zip(model.parameters(), gradients, slots, strict=True):
                g = g + local.weight_decay * p
                step = g if one_step else _direction(config, g, slot, count)
                p.sub_(lr * step)
    return total / seen


def _direction(config: TrainingConfig, g: Tensor, slot: dict[str, Tensor], count: int) -> Tensor:
    optimiser = config.local.optimiser
    if isinstance(optimiser, Momentum):
        slot["v"] = optimiser.momentum * slot["v"] + g if "v" in slot else g
        return g + optimiser.momentum * slot["v"] if optimiser.nesterov else slot["v"]
    if isinstance(optimiser, Adam):
        b1, b2 = optimiser.beta1, optimiser.beta2
        slot["m"] = b1 * slot.get("m", torch.zeros_like(g)) + (1 - b1) * g
        slot["s"] = b2 * slot.get("s", torch.zeros_like(g)) + (1 - b2) * g * g
        m, s = slot["m"] / (1 - b1**count), slot["s"] / (1 - b2**count)
        return m / (s.sqrt() + optimiser.epsilon)
    return g


def _learning_rate(config: TrainingConfig, round: int) -> float:
    base, schedule = config.local.learning_rate, config.local.schedule
    if isinstance(schedule, StepDecay):
        return base * schedule.factor ** math.floor((round - 1) / schedule.every)
    if isinstance(schedule, Exponential):
        return base * schedule.factor ** (round - 1)
    if isinstance(schedule, Cosine):
        share = (round - 1) / max(config.rounds - 1, 1)
        return base * (
            schedule.floor + (1 - schedule.floor) * 0.5 * (1 + math.cos(math.pi * share))
        )
    return base


def _batches(config: TrainingConfig, records: int, round: int) -> list[list[int]]:
    local = config.local
    if isinstance(config.strategy, Fedsgd):
        return [list(range(records))]
    generator = derive(config.seed, round, "", "order")
    size = local.batch_size or records
    batches: list[list[int]] = []
    passes = 0
    while True:
        order = list(range(records))
        if local.shuffle:
            order = torch.randperm(records, generator=generator).tolist()
        batches += [order[i : i + size] for i in range(0, records, size)]
        passes += 1
        if local.steps is not None and len(batches) >= local.steps:
            return batches[: local.steps]
        if local.steps is None and passes == local.epochs:
            return batches
