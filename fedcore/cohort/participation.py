"""A cohort's part in a round: trained together, with what each of its workers remembers."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from fedcore.cohort.choice import refused
from fedcore.cohort.loop import add_member
from fedcore.cohort.training import train_cohort
from fedcore.cohort.update import CohortUpdate
from fedcore.contributions import Contribution, Contributions
from fedcore.data.holdings import Holdings
from fedcore.participation import blank, moved_norm, participate, start_loss
from fedcore.remembering import Remembered, Step
from fedcore.settings.training import Engine
from fedcore.totals import add_rows
from fedcore.trees import Layout
from fedcore.values import Brief

__all__ = ["participate_together"]


def participate_together(
    brief: Brief,
    holdings: Holdings,
    members: Sequence[int],
    *,
    engine: Engine = "auto",
    remembered: Sequence[Remembered] = (),
) -> tuple[CohortUpdate, list[Remembered]]:
    """Each member's part in the round as `participate` would play it; `remembered` is as long as
    `members` where the brief has them remember something.

    Raises:
        Incompatible: a named engine that cannot do this training exactly.
    """
    if not members or not (brief.remembers or brief.needs):
        return train_cohort(brief, holdings, members, engine=engine), []
    if brief.personal is not None:
        why = "each worker starts from tensors of its own"
        if engine not in ("auto", "loop"):
            raise refused(engine, why)
        return _in_turn(brief, holdings, members, remembered, why=why)
    memory = _stacked(brief, remembered)
    rule = brief.rule if brief.remembering is None else brief.remembering.completed(memory)
    asked = replace(brief, rule=rule, remembering=None, answer="rows")
    made = train_cohort(asked, holdings, members, engine=engine)
    assert made.rows is not None, "rows were asked for"
    counted = _measured(brief, holdings, members, made)
    learnt = _learnt(brief, memory, made.rows, counted)
    if brief.answer == "rows":
        return replace(made, contributions=counted), learnt
    sums = torch.zeros(len(brief.weightings), made.rows.shape[1], dtype=torch.float64)
    for to, weighting in zip(sums, brief.weightings, strict=True):
        add_rows(to, made.rows, weighting.each(counted))
    return replace(made, contributions=counted, rows=None, sums=sums), learnt


def _in_turn(
    brief: Brief,
    holdings: Holdings,
    members: Sequence[int],
    remembered: Sequence[Remembered],
    *,
    why: str,
) -> tuple[CohortUpdate, list[Remembered]]:
    layout = Layout.of(brief.model.averaged)
    sums = torch.zeros(len(brief.weightings), layout.size, dtype=torch.float64)
    rows, counted, learnt = [], [], []
    for k, before in zip(members, remembered, strict=True):
        worker = holdings.workers[k]
        update, after = participate(brief, holdings.of(k), worker=worker, remembered=before)
        row = layout.flatten(update.trained)
        counted.append(Contribution(worker, update.weight, update.measures))
        learnt.append(after)
        if brief.answer == "rows":
            rows.append(row)
        else:
            add_member(sums, row, counted[-1], brief.weightings)
    update_of_all = CohortUpdate(
        ticket=brief.ticket,
        contributions=Contributions.of(counted),
        rows=torch.stack(rows) if rows else None,
        sums=sums if brief.answer == "sum" else None,
        engine=f"loop: {why}",
    )
    return update_of_all, learnt


def _stacked(brief: Brief, remembered: Sequence[Remembered]) -> dict[str, Tensor]:
    """What the members' rules remember, [K, ...]; zeros for those that are new."""
    fresh = blank(brief.remembering, brief.model)
    return {
        name: torch.stack([each.rule.get(name, zero) for each in remembered])
        for name, zero in fresh.items()
    }


def _measured(
    brief: Brief, holdings: Holdings, members: Sequence[int], made: CohortUpdate
) -> Contributions:
    """The contributions with what the weightings need."""
    assert made.rows is not None, "rows were asked for"
    more = {}
    if "start_loss" in brief.needs:
        losses = [start_loss(brief, holdings.of(k)) for k in members]
        more["start_loss"] = torch.tensor(losses, dtype=torch.float64)
    if "norm" in brief.needs:
        layout = Layout.of(brief.model.averaged)
        norms = [moved_norm(layout.unflatten(row), brief.model) for row in made.rows]
        more["norm"] = torch.tensor(norms, dtype=torch.float64)
    known = made.contributions
    return Contributions(known.workers, known.weights, {**known.measures, **more})


def _learnt(
    brief: Brief, memory: dict[str, Tensor], rows: Tensor, counted: Contributions
) -> list[Remembered]:
    if brief.remembering is None:
        return []
    layout = Layout.of(brief.model.averaged)
    trained = {name: part.to(kind) for name, part, kind in _columns(layout, rows)}
    steps = counted.measures["steps"]
    step = Step(brief.model.parameters, trained, steps, brief.plan.learning_rate)
    learnt = brief.remembering.learnt(memory, step)
    return [
        Remembered({name: tensor[k].clone() for name, tensor in learnt.items()})
        for k in range(len(rows))
    ]


def _columns(layout: Layout, rows: Tensor) -> list[tuple[str, Tensor, torch.dtype]]:
    """Each tensor's part of the rows, [K, ...]."""
    lengths = [torch.Size(shape).numel() for _, shape, _ in layout.entries]
    parts = torch.split(rows, lengths, dim=1)
    return [
        (name, part.reshape(len(rows), *shape), kind)
        for part, (name, shape, kind) in zip(parts, layout.entries, strict=True)
    ]
