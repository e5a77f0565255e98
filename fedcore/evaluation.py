"""What a model reaches: on the coordinator's test records, and at every worker on its own.

Letters: K workers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from fedcore.contributions import Contributions
from fedcore.errors import CheckpointError
from fedcore.fairness import fairness
from fedcore.metrics import Measured, meter
from fedcore.models import Blueprint
from fedcore.store import fetch
from fedcore.strategy import Strategy
from fedcore.terms import Terms
from fedcore.values import Brief, Ref, ServerState

__all__ = ["Findings", "due", "evaluation_brief", "findings"]


@dataclass(frozen=True, eq=False)
class Findings:
    """What was measured of one model. What was not measured is absent, never zero."""

    central: Mapping[str, float] = field(default_factory=dict)
    """`test_loss` and others, on the central test records."""
    overall: Mapping[str, float] = field(default_factory=dict)
    """`workers_loss` and others, over all workers' records, and how evenly it serves them."""
    workers: Contributions = field(default_factory=Contributions)
    """`loss` and others of each of K workers, as values, not sums; `weights` are records."""
    missing: Mapping[str, str] = field(default_factory=dict)
    """Workers that were asked and did not measure it, and why."""


def due(every: int, *, round: int, rounds: int) -> bool:
    """Whether something done every so many rounds is done in this one; always in the last, and
    never if `every` is 0.

    >>> [round for round in range(1, 8) if due(3, round=round, rounds=7)]
    [3, 6, 7]
    """
    return every > 0 and (round % every == 0 or round == rounds)


def evaluation_brief(
    strategy: Strategy, state: ServerState, terms: Terms, *, round: int, purpose: str = "evaluate"
) -> Brief:
    """What all workers are told in order to measure the model of `state`, which came of `round`.

    A worker that remembers uses what it learnt in the round that it last counted in. The ticket
    is another one than that of the round's training, whose work is done.
    """
    brief = strategy.brief(state, terms)
    return replace(brief, ticket=terms.ticket(round, purpose=purpose), chosen=None)


def findings(
    arrived: Sequence[Ref],
    blueprint: Blueprint,
    *,
    central: Mapping[str, float],
    missing: Mapping[str, str],
) -> Findings:
    """What the sums that arrived from workers amount to.

    `workers_<metric>` is over all records of these workers together. `workers_accuracy_worst`,
    `_spread` and `_jain` (of the loss where there are no classes) are over workers; a loss that
    is a sum counts by its mean over a worker's records there, or size alone would be unfair.
    """
    missing, parts = dict(missing), list[Contributions]()
    for ref in arrived:
        try:
            parts.append(fetch(ref, Contributions))
        except CheckpointError as error:
            missing[ref.owner] = f"its answer cannot be read ({error})"
    sums = Contributions.joined(parts)
    if not len(sums):
        return Findings(central, missing=missing)
    sums = sums.taken(sums.order())  # bits must not follow from the order of arrival
    settings = blueprint.model
    chosen = meter(settings.loss, settings.metrics, classes=blueprint.classes)
    seen = sums.measures["seen"]
    each = {name: column for name, column in sums.measures.items() if name != "seen"}
    together = Measured({name: float(c.sum()) for name, c in each.items()}, int(seen.sum()))
    means = {name: column / seen for name, column in each.items()}
    by, better = _judged_by(blueprint)
    overall = {
        **chosen.values(together),
        **{f"{by}_{name}": v for name, v in fairness(means[by], better=better).items()},
    }
    values = {**means, "loss": each["loss"]} if chosen.loss.reduction == "sum" else means
    return Findings(
        central,
        {f"workers_{name}": value for name, value in overall.items()},
        Contributions(sums.workers, sums.weights, values),
        missing,
    )


def _judged_by(blueprint: Blueprint) -> tuple[str, Literal["higher", "lower"]]:
    """What says how well the model serves a worker."""
    return ("accuracy", "higher") if blueprint.classes else ("loss", "lower")
