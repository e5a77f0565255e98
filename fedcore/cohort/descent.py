"""The steps of one group of workers: forward, gradients, and what a step makes of them.

Letters: K workers of the group, N slots, n workers that still train at a step, m records of a
batch.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fedcore.cohort.anatomy import Anatomy
from fedcore.cohort.batches import Batch, Timetable
from fedcore.cohort.clipping import scales
from fedcore.cohort.fold import reads_records
from fedcore.cohort.forward import Moment
from fedcore.cohort.losses import pads, record_losses, slopes, sums, worker_losses
from fedcore.cohort.low_rank import LowRank, Recurrence, Tabled
from fedcore.cohort.probe import forward_of
from fedcore.cohort.stacked import Stacked
from fedcore.cohort.unfit import Unfit
from fedcore.data.dataset import Dataset
from fedcore.losses import LossFunction
from fedcore.seeds import derive
from fedcore.values import Brief

__all__ = ["Lot", "Trained", "descend"]

Layers = Mapping[str, LowRank | Tabled]
"""By the name of their weight."""


@dataclass(frozen=True, eq=False)
class Lot:
    """A group of workers, laid out by slot: what their steps read."""

    workers: Sequence[str]
    timetable: Timetable
    features: Tensor
    """[K, N, ...]."""
    targets: Tensor
    """[K, N, ...]."""

    @classmethod
    def of(
        cls, workers: Sequence[str], timetable: Timetable, records: Dataset, starts: Tensor
    ) -> "Lot":
        """The group's records, of which each worker's first lies at `starts` [K]."""
        rows = timetable.rows(starts).to(records.features.device)
        flat = rows.flatten()
        return cls(
            workers,
            timetable,
            records.features.index_select(0, flat).view(*rows.shape, *records.inputs),
            records.targets.index_select(0, flat).view(*rows.shape, *records.targets.shape[1:]),
        )


@dataclass(frozen=True, eq=False)
class Trained:
    """A group's weights after its last step, shared layers as they are kept."""

    layers: Layers
    biases: Mapping[str, str | None]
    """The bias that a shared weight has with it, by the weight's name."""
    stacked: Stacked
    shares: Tensor
    """float64 [K]: what is left of the received weights in shared layers."""
    loss: Tensor
    """float64 [K]: sum over batches of loss times records."""

    def add_to(self, sums: Mapping[str, Tensor], weights: Tensor) -> None:
        """Add sum_k weights_k w_k of every parameter to `sums`, float64, in place; `weights`
        float64 [K]."""
        self.stacked.add_to(sums, weights)
        for name, layer in self.layers.items():
            its = self.biases[name]
            bias = None if its is None else sums[its]
            layer.add_to(sums[name], bias, weights=weights, shares=self.shares)

    def each(self) -> dict[str, Tensor]:
        """Every parameter [K, ...]."""
        found = dict(self.stacked.weights)
        for name, layer in self.layers.items():
            weight, bias = layer.each(self.shares)
            found[name], its = weight, self.biases[name]
            if its is not None and bias is not None:
                found[its] = bias
        return found


def descend(
    brief: Brief,
    lot: Lot,
    *,
    anatomy: Anatomy,
    shared: Mapping[str, int],
    loss: LossFunction,
    received: Mapping[str, Tensor],
) -> Trained:
    """Train a group; `shared` are the weights to keep shared, with their rows per record.

    Raises:
        Unfit: it turns out that this model cannot be trained so.
    """
    timetable = lot.timetable
    steps = timetable.steps
    recurrence = Recurrence.of(brief) or _NOTHING_SHARED
    biases = {name: anatomy.linears[name] if anatomy.folds else None for name in shared}
    layers = _layers(lot, anatomy, shared, biases, received, recurrence)
    apart = {
        name: w
        for name, w in received.items()
        if name not in layers and name not in biases.values()
    }
    stacked = Stacked.make(brief, apart, steps)
    shares = recurrence.shares(steps[0])
    streams = [_stream(brief, worker) for worker in lot.workers] if anatomy.draws else []
    tabled = any(isinstance(layer, Tabled) for layer in layers.values())
    # A table has all that the model takes from the records: their shape is enough.
    features = lot.features.new_zeros(()).expand_as(lot.features) if tabled else lot.features
    total = torch.zeros(len(steps), dtype=torch.float64, device=lot.features.device)
    forward = forward_of(anatomy)
    leaves: dict[str, Tensor] = {}
    training = 0
    for batch in timetable.batches():
        if batch.workers != training:
            training = batch.workers
            leaves = stacked.leaves(training)
        moment = Moment(batch, shares[batch.step], leaves, layers, streams)
        outputs = forward(batch.of(features), moment)
        losses, each, weights = _losses(loss, outputs, batch.of(lot.targets), batch)
        inputs = [*(use.products for use in moment.uses), *leaves.values()]
        found = torch.autograd.grad(each, inputs, grad_outputs=weights, allow_unused=True)
        with torch.no_grad():
            total[:training] += losses
            _step(brief, moment, stacked, found, recurrence)
    left = torch.tensor([shares[s] for s in steps], dtype=torch.float64, device=total.device)
    return Trained(layers, biases, stacked, left, total)


_NOTHING_SHARED = Recurrence(learning_rate=0.0, decay=0.0, mu=0.0, momentum=0.0, nesterov=False)


def _stream(brief: Brief, worker: str) -> torch.Generator:
    return derive(brief.plan.seed, brief.ticket.round, worker, "layers")


def _layers(
    lot: Lot,
    anatomy: Anatomy,
    shared: Mapping[str, int],
    biases: Mapping[str, str | None],
    received: Mapping[str, Tensor],
    recurrence: Recurrence,
) -> dict[str, LowRank | Tabled]:
    timetable = lot.timetable
    first = reads_records(anatomy)
    found: dict[str, LowRank | Tabled] = {}
    for name, per_record in shared.items():
        its = biases[name]
        weight, bias = received[name], None if its is None else received[its]
        if name == first and per_record == 1:
            found[name] = Tabled.make(
                weight,
                bias,
                lot.features.flatten(2),
                several_passes=timetable.several_passes,
                recurrence=recurrence,
            )
        else:
            found[name] = LowRank.make(
                weight,
                bias,
                workers=len(lot.workers),
                records=timetable.records,
                per_record=per_record,
                recurrence=recurrence,
            )
    return found


def _losses(
    loss: LossFunction, outputs: Tensor, targets: Tensor, batch: Batch
) -> tuple[Tensor, Tensor, Tensor]:
    """float64 [n], loss times records; what to differentiate; and with which weights."""
    if pads(loss):
        each = record_losses(loss, outputs.flatten(0, 1), targets.flatten(0, 1))
        return sums(loss, each.detach(), batch), each, slopes(loss, batch, each)
    each = worker_losses(loss, outputs, targets)
    return each.detach().double() * batch.counts, each, torch.ones_like(each)


def _step(
    brief: Brief,
    moment: Moment,
    stacked: Stacked,
    found: Sequence[Tensor | None],
    recurrence: Recurrence,
) -> None:
    """Rule, clipping, optimiser: in this order, as in `fedcore.local`."""
    n = moment.batch.workers
    products = _products(moment, found)
    gradients = [
        torch.zeros_like(leaf) if g is None else g
        for g, leaf in zip(found[len(moment.uses) :], moment.leaves.values(), strict=True)
    ]
    gradients = stacked.correct(gradients, n)
    if brief.plan.clip_norm is not None:
        factors = [
            (a, d, moment.layers[name].bias is not None) for name, (a, d) in products.items()
        ]
        scale = scales(brief.plan.clip_norm, factors, gradients)
        products = {name: (a, _scaled(d, scale)) for name, (a, d) in products.items()}
        gradients = [_scaled(g, scale) for g in gradients]
    for name, (a, d) in products.items():
        moment.layers[name].learn(a, d, moment.batch, recurrence)
    stacked.step(gradients, n)


def _products(moment: Moment, found: Sequence[Tensor | None]) -> dict[str, tuple[Tensor, Tensor]]:
    """Inputs a [n, r, in] and dLoss/dz [n, r, out] of every shared layer in this step."""
    batch = moment.batch
    inputs: dict[str, list[Tensor]] = {name: [] for name in moment.layers}
    gradients: dict[str, list[Tensor]] = {name: [] for name in moment.layers}
    for use, d in zip(moment.uses, found, strict=False):
        if use.inputs._version != use.version:
            # Plain autograd refuses that, too: the loop says so in its words.
            raise Unfit(f"the model changes the inputs of {use.layer} in place")
        inputs[use.layer].append(use.inputs)
        out = len(moment.layers[use.layer].weight)
        unused = use.inputs.new_zeros(*use.inputs.shape[:2], out) if d is None else d
        gradients[use.layer].append(unused)
    products = {}
    for name, layer in moment.layers.items():
        rows = sum(a.shape[1] for a in inputs[name])
        if rows != batch.size * layer.per_record:
            raise Unfit(f"the model uses {name} differently from step to step")
        products[name] = (_joined(inputs[name]), _joined(gradients[name]))
    return products


def _joined(parts: Sequence[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(list(parts), dim=1)


def _scaled(g: Tensor, scale: Tensor) -> Tensor:
    return g * scale.to(g.dtype).view(-1, *[1] * (g.dim() - 1))
