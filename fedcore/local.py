"""One worker's local training: a brief and records in, an update out."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from copy import deepcopy

import torch
from torch import Tensor, nn

from fedcore.data.dataset import Dataset
from fedcore.initial import load_into
from fedcore.losses import LossFunction, loss_of
from fedcore.models import Blueprint, build
from fedcore.optimisers import stepper
from fedcore.rules import Plain
from fedcore.seeds import derive, global_stream
from fedcore.values import Brief, Plan, Update

__all__ = ["module_for", "train_locally"]


def train_locally(brief: Brief, data: Dataset, *, worker: str) -> Update:
    """Train the brief's model on these records.

    Each step: gradient of the batch loss, corrected by the rule, clipped, then the optimiser
    (which adds the weight decay). The optimiser starts anew every round.
    """
    plan, model = brief.plan, brief.model
    module = module_for(brief.blueprint)
    load_into(module, model)
    module.train()
    with ExitStack() as alone:
        if _draws(brief.blueprint, module, data.features[:2]):
            # Dropout and its like draw from torch's global generator: have it alone.
            stream = derive(plan.seed, brief.ticket.round, worker, "layers")
            alone.enter_context(global_stream(stream))
        loss_times_records, seen = _descend(brief, module, data)
    after = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    return Update(
        ticket=brief.ticket,
        trained={name: after[name].detach().clone() for name in model.averaged},
        weight=float(len(data)),
        measures={"loss": loss_times_records, "seen": float(seen)},
    )


def _descend(brief: Brief, module: nn.Module, data: Dataset) -> tuple[float, int]:
    plan = brief.plan
    loss_function = loss_of(brief.blueprint.model.loss)
    names = [name for name, _ in module.named_parameters()]
    weights = list(module.parameters())
    received = [brief.model.parameters[name] for name in names]
    step = stepper(plan.optimiser, learning_rate=plan.learning_rate, weight_decay=plan.weight_decay)
    total, seen = 0.0, 0
    for features, targets in _batches(data, brief):
        loss, gradients = _gradients(module, loss_function, weights, features, targets)
        total += loss * len(features)
        seen += len(features)
        with torch.no_grad():
            if not isinstance(brief.rule, Plain):
                gradients = [
                    brief.rule.correct(g, w, w0)
                    for g, w, w0 in zip(gradients, weights, received, strict=True)
                ]
            if plan.clip_norm is not None:
                gradients = _clipped(gradients, plan.clip_norm)
            step(weights, gradients)
    return total, seen


def _gradients(
    module: nn.Module,
    loss_function: LossFunction,
    weights: Sequence[nn.Parameter],
    features: Tensor,
    targets: Tensor,
) -> tuple[float, list[Tensor]]:
    loss = loss_function(module(features), targets)
    found = torch.autograd.grad(loss, weights, allow_unused=True)
    return loss.item(), [
        torch.zeros_like(w) if g is None else g for g, w in zip(found, weights, strict=True)
    ]


def _clipped(gradients: Sequence[Tensor], bound: float) -> list[Tensor]:
    """All gradients scaled together to an L2 norm of at most `bound`; zero stays zero."""
    norm = torch.stack([g.norm() for g in gradients]).norm().item()
    # `not <=` rather than `>`: a norm of NaN must not pass as if it were small. It makes the
    # update NaN, and the coordinator names the worker.
    return list(gradients) if norm <= bound else [g * (bound / norm) for g in gradients]


def _batches(data: Dataset, brief: Brief) -> Iterator[tuple[Tensor, Tensor]]:
    """The batches of a round, in order.

    The order of records is drawn from a stream that all workers share: each has records of its
    own, so nothing is correlated, and identical workers make identical updates.
    """
    plan: Plan = brief.plan
    size = plan.batch_size or len(data)
    generator = derive(plan.seed, brief.ticket.round, "", "order")
    left = plan.steps if plan.steps is not None else plan.epochs * -(-len(data) // size)
    while left > 0:
        features, targets = data.features, data.targets
        if plan.shuffle:
            order = torch.randperm(len(data), generator=generator)
            features, targets = features[order], targets[order]
        for start in range(0, len(data), size):
            yield features[start : start + size], targets[start : start + size]
            left -= 1
            if left == 0:
                return


_mine = threading.local()


def module_for(blueprint: Blueprint) -> nn.Module:
    """A module of this thread's own to load weights into: building one costs more than a round
    of a small model, sharing one between threads would mix their weights."""
    kept: dict[str, nn.Module] = _mine.__dict__.setdefault("modules", {})
    key = repr(blueprint)
    if key not in kept:
        kept.clear()
        kept[key] = build(blueprint)
    return kept[key]


_draws_random_numbers: dict[str, bool] = {}


def _draws(blueprint: Blueprint, module: nn.Module, features: Tensor) -> bool:
    """Whether a forward pass in training draws random numbers; tried once per blueprint."""
    key = repr(blueprint)
    if key not in _draws_random_numbers:
        probe = torch.Generator().manual_seed(0)
        before = probe.get_state()
        # Batch norm refuses a single record in training, and updates its buffers: use a copy
        # and two records.
        tried = features if len(features) > 1 else features.repeat(2, *[1] * (features.dim() - 1))
        with global_stream(probe), torch.no_grad():
            deepcopy(module)(tried)
        _draws_random_numbers[key] = not torch.equal(before, probe.get_state())
    return _draws_random_numbers[key]
