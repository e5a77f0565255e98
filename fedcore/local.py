"""One worker's local training: a brief and records in, an update out."""

import math
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fedcore.data.dataset import Dataset
from fedcore.flat import FlatModule, flatten
from fedcore.heap import keep_freed_memory
from fedcore.initial import load_into
from fedcore.losses import loss_of
from fedcore.models import Blueprint, build
from fedcore.optimisers import stepper
from fedcore.rules import ControlVariate, Plain
from fedcore.seeds import derive, global_stream
from fedcore.values import Brief, Update

__all__ = ["module_for", "train_locally"]


def train_locally(brief: Brief, data: Dataset, *, worker: str) -> Update:
    """Train the brief's model on these records.

    Each step: gradient of the batch loss, corrected by the rule, clipped, then the optimiser
    (which adds the weight decay). The optimiser starts anew every round.
    """
    plan, model = brief.plan, brief.model
    bench = _bench_for(brief.blueprint)
    flat = bench.flat
    if not flat.load(model.tensors):
        load_into(flat.module, model)  # which says what does not fit
    flat.module.train()
    with ExitStack() as alone:
        if _draws(bench, data.features[:2]):
            # Dropout and its like draw from torch's global generator: have it alone.
            stream = derive(plan.seed, brief.ticket.round, worker, "layers")
            alone.enter_context(global_stream(stream))
        loss_times_records, seen, steps = _descend(brief, flat, data)
    return Update(
        ticket=brief.ticket,
        trained=flat.copies(model.averaged),
        weight=float(len(data)),
        measures={"loss": loss_times_records, "seen": float(seen), "steps": float(steps)},
    )


def _descend(brief: Brief, flat: FlatModule, data: Dataset) -> tuple[float, int, int]:
    """Train in place; the loss times records, the records and the steps that it took."""
    plan, rule, module = brief.plan, brief.rule, flat.module
    offsets = [(module.get_parameter(name).grad, o) for name, o in rule.offset.items()]
    loss_function = loss_of(brief.blueprint.model.loss)
    corrected = not isinstance(rule, Plain | ControlVariate)
    received = [w.clone() for w in flat.weights] if corrected else []
    step = stepper(plan.optimiser, learning_rate=plan.learning_rate, weight_decay=plan.weight_decay)
    total, seen, steps = 0.0, 0, 0
    for features, targets in _batches(data, brief, channels_last=flat.channels_last):
        for g in flat.gradients:
            g.zero_()
        loss = loss_function(module(features), targets)
        loss.backward()  # type: ignore[no-untyped-call]
        count = len(features)
        total += loss.item() * count
        seen += count
        steps += 1
        gradients: Sequence[Tensor] = flat.gradients
        if corrected:
            gradients = [
                rule.correct(g, w, w0)
                for g, w, w0 in zip(gradients, flat.weights, received, strict=True)
            ]
            if offsets:  # they are added by name, through the views of the flat gradients
                for g, new in zip(flat.gradients, gradients, strict=True):
                    g.copy_(new)
                gradients = flat.gradients
        for slope, o in offsets:
            if slope is not None:  # a frozen parameter has none
                slope.add_(o)
        if plan.clip_norm is not None:
            gradients = _clipped(gradients, plan.clip_norm)
        step(flat.weights, gradients)
    return total, seen, steps


def _clipped(gradients: Sequence[Tensor], bound: float) -> Sequence[Tensor]:
    """All gradients scaled together to an L2 norm of at most `bound`; zero stays zero."""
    norm = math.hypot(*(g.norm().item() for g in gradients))
    # `not <=` rather than `>`: a norm of NaN must not pass as if it were small. It makes the
    # update NaN, and the coordinator names the worker.
    return gradients if norm <= bound else [g * (bound / norm) for g in gradients]


def _batches(
    data: Dataset, brief: Brief, *, channels_last: bool
) -> Iterator[tuple[Tensor, Tensor]]:
    """The batches of a round, in order.

    The order of records is drawn from a stream that all workers share: each has records of its
    own, so nothing is correlated, and identical workers make identical updates.
    """
    plan = brief.plan
    size = plan.batch_size or len(data)
    generator = derive(plan.seed, brief.ticket.round, "", "order")
    left = plan.steps if plan.steps is not None else plan.epochs * -(-len(data) // size)
    while left > 0:
        features, targets = data.features, data.targets
        if plan.shuffle:
            order = torch.randperm(len(data), generator=generator)
            features, targets = features[order], targets[order]
        if channels_last and features.dim() == 4:
            features = features.contiguous(memory_format=torch.channels_last)
        for start in range(0, len(data), size):
            yield features[start : start + size], targets[start : start + size]
            left -= 1
            if left == 0:
                return


@dataclass
class _Bench:
    """What a thread keeps between trainings of one blueprint."""

    blueprint: Blueprint
    flat: FlatModule
    draws: bool | None = None
    """Whether a forward pass in training draws random numbers; None: not tried yet."""

    def serves(self, blueprint: Blueprint) -> bool:
        """Whether this is the same blueprint. Not `==`, for which 1, 1.0 and True are the same."""
        return self.blueprint is blueprint or repr(self.blueprint) == repr(blueprint)


_mine = threading.local()


def module_for(blueprint: Blueprint) -> nn.Module:
    """A module of this thread's own to load weights into: building one costs more than a round
    of a small model, sharing one between threads would mix their weights."""
    return _bench_for(blueprint).flat.module


def _bench_for(blueprint: Blueprint) -> _Bench:
    kept: _Bench | None = getattr(_mine, "bench", None)
    if kept is None or not kept.serves(blueprint):
        keep_freed_memory()
        module = build(blueprint)
        fast = _takes_channels_last(module, blueprint)
        kept = _Bench(blueprint, flatten(module, channels_last=fast))
        _mine.bench = kept
    return kept


def _draws(bench: _Bench, features: Tensor) -> bool:
    if bench.draws is None:
        probe = torch.Generator().manual_seed(0)
        before = probe.get_state()
        # Batch norm refuses a single record in training, and updates its buffers: use a copy
        # and two records.
        tried = features if len(features) > 1 else features.repeat(2, *[1] * (features.dim() - 1))
        with global_stream(probe), torch.no_grad():
            deepcopy(bench.flat.module)(tried)
        bench.draws = not torch.equal(before, probe.get_state())
    return bench.draws


def _takes_channels_last(module: nn.Module, blueprint: Blueprint) -> bool:
    """Whether a module convolves images, and nothing in it (`view`) insists on the usual order."""
    if not any(isinstance(part, nn.Conv2d) for part in module.modules()):
        return False
    tried = flatten(deepcopy(module), channels_last=True).module
    records = torch.zeros(2, *blueprint.inputs)
    if records.dim() == 4:
        records = records.contiguous(memory_format=torch.channels_last)
    try:
        with global_stream(torch.Generator().manual_seed(0)):
            tried(records).sum().backward()
    except Exception:  # whatever a custom module raises, it is trained in the usual order
        return False
    return True
