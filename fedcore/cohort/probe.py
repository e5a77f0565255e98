"""Two small forward passes that show whether a model can be trained for many workers at once.

What they find is kept for the model: a round does not try again.
"""

import threading
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from fedcore.cohort.anatomy import Anatomy
from fedcore.cohort.batches import Batch
from fedcore.cohort.fold import fold
from fedcore.cohort.forward import Forward, Moment
from fedcore.cohort.losses import pads, worker_losses
from fedcore.cohort.low_rank import LowRank, Recurrence
from fedcore.cohort.unfit import Unfit
from fedcore.cohort.vectorised import NotLinear, vectorised
from fedcore.data.dataset import Dataset
from fedcore.losses import LossFunction, loss_of
from fedcore.models import Blueprint

__all__ = ["Findings", "findings", "forward_of"]


@dataclass(frozen=True)
class Findings:
    """What the passes found."""

    per_record: Mapping[str, int]
    """Weights that can be shared, with the rows that their layer has for each record."""
    obstacle: str
    """Why only the loop can train the model; empty if others may."""


def forward_of(anatomy: Anatomy) -> Forward:
    """The faster forward pass that the model allows."""
    return fold(anatomy) if anatomy.folds else vectorised(anatomy)


_mine = threading.local()


def findings(blueprint: Blueprint, anatomy: Anatomy, records: Dataset) -> Findings:
    """What is found for a blueprint; a thread keeps the one it asked for last."""
    kept: dict[str, Findings] = _mine.__dict__.setdefault("findings", {})
    key = repr(blueprint)
    if key not in kept:
        kept.clear()
        kept[key] = _found(anatomy, loss_of(blueprint.model.loss), records)
    return kept[key]


def _found(anatomy: Anatomy, loss: LossFunction, records: Dataset) -> Findings:
    if anatomy.obstacle:
        return Findings({}, anatomy.obstacle)
    candidates = set(anatomy.linears)
    while True:
        try:
            # A layer whose rows do not grow with the batch is stacked: two sizes tell.
            two, three = (_rows(anatomy, loss, records, candidates, size=m) for m in (2, 3))
        except NotLinear as refusal:
            candidates.remove(refusal.name)
        except Unfit as reason:
            return Findings({}, str(reason))
        else:
            same = [w for w in two if two[w] and two[w] * 3 == three[w] * 2]
            return Findings({name: two[name] // 2 for name in same}, "")


def _rows(
    anatomy: Anatomy, loss: LossFunction, records: Dataset, candidates: set[str], *, size: int
) -> dict[str, int]:
    """How many rows each candidate has in one pass of two workers with so many records each."""
    parameters = {name: p.detach() for name, p in anatomy.module.named_parameters()}
    nothing = Recurrence(learning_rate=0, decay=0, mu=0, momentum=0, nesterov=False)
    layers = {
        name: LowRank.make(
            parameters[name], None, workers=2, records=0, per_record=0, recurrence=nothing
        )
        for name in sorted(candidates)
    }
    leaves = {
        name: p.expand(2, *p.shape).clone().requires_grad_()
        for name, p in parameters.items()
        if name not in layers
    }
    counts = torch.tensor([size, size])
    batch = Batch(2, size, 0, 0, slice(0, size), counts, padded=False)
    streams = [torch.Generator().manual_seed(k) for k in range(2)]
    moment = Moment(batch, 1.0, leaves, layers, streams)
    which = torch.arange(2 * size).view(2, size) % len(records)
    outputs = forward_of(anatomy)(records.features[which], moment)
    if outputs.shape[:2] != which.shape:
        raise Unfit("the model does not return one output for each record")
    if not pads(loss):
        try:
            worker_losses(loss, outputs, records.targets[which])
        except Exception as error:
            first = (str(error).strip().splitlines() or [""])[0]
            raise Unfit(f"vmap refuses its loss ({type(error).__name__}: {first[:120]})") from error
    found = dict.fromkeys(layers, 0)
    for use in moment.uses:
        found[use.layer] += use.inputs.shape[1]
    return found
