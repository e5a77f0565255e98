"""Which engine trains a cohort, and which weights it shares: the cheapest of the exact ones.

The costs are microseconds of one CPU core for one step of one worker, from a model with a few
constants that were fitted by measurement. They decide between paths that compute the same, so an
error costs time and never changes a number.

Letters: K workers, T steps, m records of a batch, r rows of a layer in a batch, S rows of all
steps, N records of a worker.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from fedcore.cohort.anatomy import Anatomy
from fedcore.cohort.fold import reads_records
from fedcore.cohort.losses import pads
from fedcore.cohort.low_rank import Recurrence
from fedcore.cohort.probe import Findings
from fedcore.errors import Incompatible
from fedcore.losses import loss_of
from fedcore.settings.training import Engine
from fedcore.values import Brief

__all__ = ["Choice", "Work", "choose", "refused"]

# Fitted on one core of a Xeon with AVX-512, float32, over perceptrons of 115 to 1.5 million weights
# and transformers of 7 thousand to 1.6 million, 2 to 1000 workers, 1 to 45 steps.
ARITHMETIC = 80_000.0
"""Floating-point operations per microsecond in the products of a step."""
APART = 50_000.0
"""The same in the small products of each worker alone that correct a shared layer."""
TRAFFIC = 0.0006
"""Microseconds for each weight that a step of the loop reads, differentiates and moves."""
UNCACHED = 0.0011
"""The same of a model of more than CACHE weights, which leave the cache between steps."""
CACHE = 2**19
STACKED = 0.0016
"""The same of a stacked weight."""
MOVING = {"sgd": 1.0, "momentum": 1.3, "adam": 2.0}
"""How many times dearer those are with an optimiser that keeps something for each weight."""
OPERATION = 20.0
"""Microseconds of one layer's forward, backward and step in the loop, at any size."""
TOGETHER = 60.0
"""The same for all workers at once."""
SHARING = 45.0
"""What a shared layer costs on top of that."""
VMAP = 2.0
"""How many times dearer TOGETHER is under vmap."""
WORKER = 150.0
"""Microseconds of the loop to begin and end one worker's round."""


@dataclass(frozen=True)
class Choice:
    """An engine; the weights it shares between workers, with their rows per record; and why."""

    engine: Literal["low_rank", "stacked", "loop"]
    shared: Mapping[str, int]
    why: str


@dataclass(frozen=True)
class Work:
    """What a typical worker of a cohort does in a round."""

    together: float
    """Workers that are computed at once."""
    records: float
    """N."""
    batch: float
    """m."""
    steps: float
    """T."""

    @classmethod
    def of(cls, brief: Brief, sizes: Sequence[int], *, pads: bool) -> "Work":
        """The mean worker; without padding only workers of one size are computed at once."""
        plan = brief.plan
        together = float(len(sizes) if pads else len(sizes) / len(set(sizes)))
        records = sum(sizes) / len(sizes)
        batch = min(plan.batch_size or records, records)
        steps = plan.steps or plan.epochs * max(1.0, records / batch)
        return cls(together, records, batch, float(steps))


def choose(
    brief: Brief,
    anatomy: Anatomy,
    found: Findings,
    sizes: Sequence[int],
    engine: Engine,
    *,
    on_cpu: bool,
) -> Choice:
    """The engine that was asked for, or for `auto` the cheapest.

    Raises:
        Incompatible: the engine asked for cannot do this training exactly.
    """
    if found.obstacle:
        if engine != "auto":
            raise refused(engine, found.obstacle)
        return Choice("loop", {}, found.obstacle)
    linear = Recurrence.of(brief) is not None
    if engine == "low_rank" and not (linear and found.per_record):
        raise refused(engine, _not_linear(brief) if not linear else "no linear layer can be shared")
    loss = loss_of(brief.blueprint.model.loss)
    work = Work.of(brief, sizes, pads=anatomy.folds and pads(loss))
    costs = _Costs(brief, anatomy, work, found.per_record)
    possible = found.per_record if linear and engine != "stacked" else {}
    shared = {name: rows for name, rows in possible.items() if costs.gain(name) > 0}
    if engine == "low_rank" and not shared:
        shared = dict(possible)
    together: Literal["low_rank", "stacked"] = "low_rank" if shared else "stacked"
    if engine == "auto" and on_cpu:  # elsewhere a launch costs more than what it computes
        here, loop = costs.together(shared), costs.loop()
        if anatomy.convolves:
            return Choice("loop", {}, "on a CPU convolutions of many workers gain nothing together")
        if loop <= here:
            why = f"one by one about {loop:.0f} us a step, together {here:.0f}"
            return Choice("loop", {}, why)
    return Choice(together, shared, _described(anatomy, shared))


def refused(engine: Engine, why: str) -> Incompatible:
    """The error of an engine that was asked for and cannot do it."""
    return Incompatible(
        f"The engine {engine} must train exactly as each worker alone; given: a training that it "
        f"cannot ({why}); choose engine auto or loop."
    )


def _not_linear(brief: Brief) -> str:
    if brief.rule.offset:
        return "control variates: each worker steps along an offset of its own"
    if brief.plan.clip_norm is not None:
        return "clip_norm together with a rule or optimiser whose steps are not linear"
    return "a rule or optimiser whose steps are not linear in the weights"


def _described(anatomy: Anatomy, shared: Mapping[str, int]) -> str:
    every = len(anatomy.linears)
    if not shared:
        return "every parameter stacked"
    return (
        f"{len(shared)} of {every} linear layers as shared weight plus low rank, "
        f"{every - len(shared)} stacked"
    )


class _Costs:
    """Microseconds of one worker's step."""

    def __init__(
        self, brief: Brief, anatomy: Anatomy, work: Work, per_record: Mapping[str, int]
    ) -> None:
        self.work = work
        self.first = reads_records(anatomy)
        self.shapes = {n: tuple(brief.model.parameters[n].shape) for n in anatomy.linears}
        self.rows = {name: work.batch * per_record.get(name, 1) for name in anatomy.linears}
        self.parameters = sum(p.numel() for p in brief.model.parameters.values())
        leaves = sum(1 for part in anatomy.module.modules() if not list(part.children()))
        self.operations = leaves + 1  # one for the loss
        self.dispatch = TOGETHER * (1.0 if anatomy.folds else VMAP) / work.together
        self.keeping = MOVING[brief.plan.optimiser.kind]
        linear = Recurrence.of(brief)
        self.moving = linear is not None and bool(linear.pull or linear.momentum)

    def loop(self) -> float:
        """One worker after the other."""
        moved = self.parameters * (TRAFFIC if self.parameters <= CACHE else UNCACHED) * self.keeping
        return self._products() + moved + self.operations * OPERATION + WORKER / self.work.steps

    def together(self, shared: Mapping[str, int]) -> float:
        """All at once, with these weights shared."""
        return (
            self._products()
            + self.parameters * STACKED * self.keeping
            + self.operations * self.dispatch
            - sum(self.gain(name) for name in shared)
        )

    def gain(self, name: str) -> float:
        """What sharing one weight saves: its copies, less the products with the rows of earlier
        steps, on average half of all."""
        (out, wide), work, rows = self.shapes[name], self.work, self.rows[name]
        if name == self.first:
            past = min(work.records, rows * work.steps / 2)
            table = 2 * work.records**2 * wide / work.steps / ARITHMETIC
            corrections = 2 * rows * past * out / APART + table
        else:
            past = rows * work.steps / 2
            corrections = 4 * rows * past * (out + wide) / APART
        if self.moving:
            corrections += past * out * TRAFFIC
        return out * wide * STACKED * self.keeping - corrections - SHARING / work.together

    def _products(self) -> float:
        flops = 0.0
        for name, (out, wide) in self.shapes.items():
            flops += (4 if name == self.first else 6) * self.rows[name] * out * wide
        return flops / ARITHMETIC
