"""What a strategy is: frozen parts, and pure functions from one state to the next.

The same state and the same total give the same next state, bit for bit. Nothing is remembered
outside ServerState.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeVar

import torch
from torch import Tensor

from fedcore.aggregators import (
    Aggregator,
    Context,
    fewest_rows,
    needs_previous,
    needs_trusted,
    weighted_mean,
)
from fedcore.drift import Correction, Counted
from fedcore.errors import Diverged
from fedcore.personal import Everything, Exchange
from fedcore.remembering import Remembering
from fedcore.rules import Plain, Rule
from fedcore.schedules import learning_rate
from fedcore.selection import select
from fedcore.servers import ServerOptimiser, sgd
from fedcore.settings.training import LocalSettings, Sgd
from fedcore.terms import Terms
from fedcore.totals import Total
from fedcore.trees import Layout, Params, not_finite
from fedcore.values import Brief, ModelState, Personal, Plan, ServerState
from fedcore.weightings import ByRecords, Weighting

__all__ = ["Strategy"]

W = TypeVar("W")


def _by_records(plan: Plan) -> Weighting:
    return ByRecords()


@dataclass(frozen=True)
class Strategy:
    """A federated algorithm.

    `rule` corrects local gradients. `weighting` says, from the round's plan, how much each worker
    counts; `aggregator` makes one step of what they changed; `server` moves the model along it.
    `correction` shares something against drift. `exchange` says which tensors travel; with
    `anchor`, each worker also trains a model of its own, held so near the common one.
    `sequential`: workers are visited one after the other and each one's model is taken as it is.
    `one_step`: local training is one plain gradient step on all records, whatever `local` says.
    """

    name: str
    rule: Rule = Plain()
    weighting: Callable[[Plan], Weighting] = _by_records
    aggregator: Aggregator = weighted_mean
    server: ServerOptimiser = sgd()
    correction: Correction | None = None
    exchange: Exchange = Everything()
    anchor: float | None = None
    sequential: bool = False
    one_step: bool = False

    def init(self, model: ModelState, *, personal: Sequence[str] = ()) -> ServerState:
        """The state before the first round; `personal` are the tensors that never travel."""
        state = ServerState(round=0, model=model, personal=tuple(personal))
        shared = self.correction.start(state.travelling.parameters) if self.correction else {}
        return replace(state, slots=self.server.init(state.travelling.parameters), shared=shared)

    @property
    def answer(self) -> Literal["rows", "sum"]:
        """What it must be told of the workers: a mean needs no more than their sum."""
        return "sum" if self.aggregator is weighted_mean and not self.sequential else "rows"

    @property
    def least(self) -> int:
        """Fewest workers that must count in a round."""
        return 1 if self.sequential else fewest_rows(self.aggregator)

    @property
    def trusts(self) -> bool:
        """Whether the coordinator trains on records of its own beside the workers."""
        return needs_trusted(self.aggregator)

    def waves(self, chosen: Sequence[W]) -> list[list[W]]:
        """Who trains at the same time, wave by wave."""
        return [[worker] for worker in chosen] if self.sequential else [list(chosen)]

    def weightings(self, terms: Terms, *, round: int) -> tuple[Weighting, ...]:
        """The sums that the workers are asked for: the step's own first."""
        more = self.correction.sums if self.correction else ()
        return (self.weighting(self.plan(terms, round=round)), *more)

    def brief(self, state: ServerState, terms: Terms) -> Brief:
        """What the workers of the next wave are told."""
        round = state.round + 1
        apart = bool(state.personal) or self.anchor is not None
        return Brief(
            ticket=terms.ticket(round),
            model=state.travelling,
            blueprint=terms.blueprint,
            rule=self.rule,
            plan=self.plan(terms, round=round),
            answer=self.answer,
            weightings=self.weightings(terms, round=round),
            chosen=select(terms, state).places,
            remembering=self._remembering(state),
            personal=Personal(self.anchor) if apart else None,
            recall=state.recall,
        )

    def _remembering(self, state: ServerState) -> Remembering | None:
        if self.correction is None:
            return None
        return self.correction.remembering(state.shared, state.travelling.parameters)

    def plan(self, terms: Terms, *, round: int) -> Plan:
        """Local training in a round."""
        local = terms.local
        if self.one_step:
            local = _one_step(local)
        return Plan(
            epochs=local.epochs,
            steps=local.steps,
            batch_size=local.batch_size,
            shuffle=local.shuffle,
            optimiser=local.optimiser,
            learning_rate=learning_rate(
                local.learning_rate, local.schedule, round=round, rounds=terms.rounds
            ),
            weight_decay=local.weight_decay,
            clip_norm=local.clip_norm,
            seed=terms.seed,
        )

    def apply(
        self, state: ServerState, total: Total, *, terms: Terms, trusted: Tensor | None = None
    ) -> ServerState:
        """The state after a wave. `trusted` [P] is what the coordinator's own training changed,
        for an aggregator that goes by it.

        Raises:
            Diverged: an update or the new model is not finite; `state` stays as it was.
        """
        travelling = state.travelling.averaged
        layout = Layout.of(travelling)
        if not total.finite:
            raise Diverged(round=state.round + 1, tensors=_broken(total, layout))
        slots, shared, aggregate = dict(state.slots), dict(state.shared), None
        if self.sequential:
            assert total.rows is not None, "a strategy is given what its `answer` asks for"
            moved = layout.unflatten(total.rows[0])
        else:
            start = layout.flatten(travelling).double()
            step = self._step(state, total, start, terms=terms, trusted=trusted)
            aggregate = step if needs_previous(self.aggregator) else None
            steps: Params = layout.unflatten(step, dtype=torch.float64)
            if self.correction is not None:
                shared, steps = self._corrected(state, total, start, steps, terms=terms)
            moved, slots = self.server.apply(steps, slots, state.travelling.parameters)
            moved |= self._statistics(state, total, step, terms=terms)
        if broken := not_finite(moved):
            raise Diverged(round=state.round + 1, tensors=broken)
        return replace(
            state,
            model=state.model.replaced(moved),
            slots=slots,
            shared=shared,
            aggregate=aggregate,
            counted=state.counted + total.contributions,
            recall=self._recall(state, total),
        )

    def _step(
        self,
        state: ServerState,
        total: Total,
        start: Tensor,
        *,
        terms: Terms,
        trusted: Tensor | None,
    ) -> Tensor:
        """What the workers' training amounts to, [P]."""
        round = state.round + 1
        weighting = self.weighting(self.plan(terms, round=round))
        if self.answer == "sum":
            return total.mean(start, weighting, place=0)
        assert total.rows is not None, "a strategy is given what its `answer` asks for"
        each, divisor = weighting.each(total.contributions), weighting.total(total.contributions)
        context = Context(round, terms.seed, previous=state.aggregate, trusted=trusted)
        step = self.aggregator(total.rows.double() - start, each, context)
        return step * (each.sum() / divisor)

    def _statistics(
        self, state: ServerState, total: Total, step: Tensor, *, terms: Terms
    ) -> dict[str, Tensor]:
        """Float buffers: what the workers found, on average.

        They are estimates and have no gradient. A step that is longer than the mean, or a server
        optimiser that overshot, would make a variance negative.
        """
        model = state.travelling
        weighting = self.weighting(self.plan(terms, round=state.round + 1))
        each, divisor = weighting.each(total.contributions), weighting.total(total.contributions)
        mean = Layout.of(model.averaged).unflatten(
            step * (divisor / each.sum()), dtype=torch.float64
        )
        buffers = {n: b for n, b in model.averaged.items() if n not in model.parameters}
        return sgd().apply(mean, {}, buffers)[0]

    def _corrected(
        self, state: ServerState, total: Total, start: Tensor, steps: Params, *, terms: Terms
    ) -> tuple[dict[str, Tensor], Params]:
        assert self.correction is not None, "only a strategy with a correction is corrected"
        layout = Layout.of(state.travelling.averaged)
        means = [
            layout.unflatten(total.mean(start, weighting, place=place), dtype=torch.float64)
            for place, weighting in enumerate(self.correction.sums, start=1)
        ]
        plan = self.plan(terms, round=state.round + 1)
        counted = Counted(len(total.contributions), terms.workers, plan.learning_rate)
        return self.correction.apply(state.shared, means, steps, counted)

    def _recall(self, state: ServerState, total: Total) -> dict[str, int]:
        """Who counted when, where workers go by what they learnt then."""
        if not (self.correction or self.anchor is not None or state.personal):
            return {}
        return {**state.recall, **dict.fromkeys(total.contributions.workers, state.round + 1)}


def _one_step(local: LocalSettings) -> LocalSettings:
    return local.but(epochs=1, steps=None, batch_size=0, shuffle=False, optimiser=Sgd())


def _broken(total: Total, layout: Layout) -> list[str]:
    """The tensors in which somebody's numbers are not finite."""
    held = total.rows if total.rows is not None else total.sums
    assert held is not None, "a total has rows or sums"
    return sorted({name for row in held for name in not_finite(layout.unflatten(row))})
