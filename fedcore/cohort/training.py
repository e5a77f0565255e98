"""One round of a cohort: many workers' local training, computed together and exactly.

Letters: K workers, P elements of the flat vector.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from fedcore.cohort.anatomy import Anatomy, anatomy_of
from fedcore.cohort.batches import Timetable
from fedcore.cohort.choice import Choice, choose, refused
from fedcore.cohort.descent import Lot, Trained, descend
from fedcore.cohort.groups import groups
from fedcore.cohort.loop import for_members, train_in_turn
from fedcore.cohort.losses import pads
from fedcore.cohort.memory import most_together
from fedcore.cohort.probe import findings
from fedcore.cohort.unfit import Unfit
from fedcore.cohort.update import CohortUpdate
from fedcore.contributions import Contributions
from fedcore.data.holdings import Holdings
from fedcore.initial import load_into
from fedcore.losses import loss_of
from fedcore.settings.training import Engine
from fedcore.trees import Layout
from fedcore.values import Brief

__all__ = ["train_cohort"]


def train_cohort(
    brief: Brief, holdings: Holdings, members: Sequence[int], *, engine: Engine = "auto"
) -> CohortUpdate:
    """Train the workers at these ascending positions as `train_locally` would train each.

    The numbers are the same to rounding (1e-5 in float32). `auto` takes the cheapest engine that
    is exact for this training; the line `engine` of the answer says which, and why.

    Raises:
        Incompatible: a named engine that cannot do this training exactly.
    """
    members = list(members)
    if not members or engine == "loop":
        why = "as the settings ask" if members else "nobody to train"
        return train_in_turn(brief, holdings, members, why=why)
    anatomy = anatomy_of(brief.blueprint, holdings.records)
    found = findings(brief.blueprint, anatomy, holdings.records)
    sizes = holdings.sizes[members].tolist()
    on_cpu = holdings.records.features.device.type == "cpu"
    choice = choose(brief, anatomy, found, sizes, engine, on_cpu=on_cpu)
    if choice.engine == "loop":
        return train_in_turn(brief, holdings, members, why=choice.why)
    try:
        return _together(brief, holdings, members, sizes, anatomy, choice)
    except Unfit as reason:
        if engine != "auto":
            raise refused(engine, str(reason)) from None
        return train_in_turn(brief, holdings, members, why=str(reason))


def _together(
    brief: Brief,
    holdings: Holdings,
    members: Sequence[int],
    sizes: Sequence[int],
    anatomy: Anatomy,
    choice: Choice,
) -> CohortUpdate:
    records, model = holdings.records, brief.model
    device = records.features.device
    if not anatomy.folds:
        load_into(anatomy.module, model)
    received = {
        name: model.parameters[name].to(device, own.dtype)
        for name, own in anatomy.module.named_parameters()
    }
    loss = loss_of(brief.blueprint.model.loss)
    weights = torch.tensor(sizes, dtype=torch.float64, device=device)
    losses = torch.empty_like(weights)
    seen, steps = torch.empty_like(weights), torch.empty_like(weights)
    answer = _Answer(brief, len(members), device)
    most = {
        size: most_together(brief, anatomy, choice.shared, records, size) for size in set(sizes)
    }
    for group in groups(sizes, pads=anatomy.folds and pads(loss), most=most):
        where = list(group)
        chosen = [members[k] for k in where]
        timetable = Timetable.of(brief, tuple(sizes[k] for k in where), device=device)
        workers = [holdings.workers[k] for k in chosen]
        trained = descend(
            for_members(brief, where),
            Lot.of(workers, timetable, records, holdings.starts[chosen]),
            anatomy=anatomy,
            shared=choice.shared,
            loss=loss,
            received=received,
        )
        counted = _counted(workers, weights[where], trained.loss, timetable)
        losses[where], seen[where] = trained.loss, timetable.seen().to(device)
        steps[where] = counted.measures["steps"].to(device)
        answer.add(trained, where, counted)
    return CohortUpdate(
        ticket=brief.ticket,
        contributions=Contributions(
            tuple(holdings.workers[k] for k in members),
            weights.cpu(),
            {"loss": losses.cpu(), "seen": seen.cpu(), "steps": steps.cpu()},
        ),
        rows=answer.rows,
        sums=answer.sums,
        engine=f"{choice.engine}: {choice.why}",
    )


def _counted(
    workers: Sequence[str], weights: Tensor, losses: Tensor, timetable: Timetable
) -> Contributions:
    """What is known of a group's workers when it has been trained."""
    steps = torch.tensor(timetable.steps, dtype=torch.float64)
    measures = {"loss": losses.cpu(), "seen": timetable.seen().cpu(), "steps": steps}
    return Contributions(tuple(workers), weights.cpu(), measures)


class _Answer:
    """The sums [M, P], or the rows [K, P], filled group by group."""

    def __init__(self, brief: Brief, workers: int, device: torch.device) -> None:
        model = brief.model
        layout = Layout.of(model.averaged)
        # Buffers of a model that is trained here do not change.
        self._kept = {name: b for name, b in model.averaged.items() if name in model.buffers}
        self._shapes = {name: shape for name, shape, _ in layout.entries}
        self._weightings = brief.weightings
        self._sums = self._rows = None
        if brief.answer == "sum":
            shape = (len(brief.weightings), layout.size)
            self._sums = torch.zeros(shape, dtype=torch.float64, device=device)
        else:
            self._rows = torch.empty(workers, layout.size, dtype=layout.dtype, device=device)

    @property
    def sums(self) -> Tensor | None:
        """The sums so far, where they were asked for."""
        return None if self._sums is None else self._sums.cpu()

    @property
    def rows(self) -> Tensor | None:
        """The rows so far, where they were asked for."""
        return None if self._rows is None else self._rows.cpu()

    def add(self, trained: Trained, where: list[int], counted: Contributions) -> None:
        """What a group trained; `where` are its places among the rows."""
        if self._sums is not None:
            for added, weighting in zip(self._sums, self._weightings, strict=True):
                views = {n: part.view(self._shapes[n]) for n, part in self._parts(added).items()}
                each = weighting.each(counted).to(added.device)
                trained.add_to(views, each)
                for name, kept in self._kept.items():
                    views[name].add_(kept.to(each.device), alpha=float(each.sum()))
        if self._rows is not None:
            parts = self._parts(self._rows)
            for name, found in trained.each().items():
                parts[name][where] = found.reshape(len(where), -1).to(self._rows)
            for name, kept in self._kept.items():
                parts[name][where] = kept.flatten().to(self._rows)

    def _parts(self, flat: Tensor) -> dict[str, Tensor]:
        """Views of each tensor's place in flat vectors [..., P]."""
        lengths = [math.prod(shape) for shape in self._shapes.values()]
        return dict(zip(self._shapes, torch.split(flat, lengths, dim=-1), strict=True))
