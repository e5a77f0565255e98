"""Strategies: named compositions of a rule, an aggregator and a server optimiser.

A strategy is frozen and its functions are pure: the same state and the same total give the same
next state, bit for bit. Nothing is remembered outside ServerState.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeVar

import torch
from torch import Tensor

from fedcore.aggregators import Aggregator, Context, positive_sum, weighted_mean
from fedcore.errors import Diverged
from fedcore.rules import Plain, Proximal, Rule
from fedcore.sampling import drawn
from fedcore.schedules import learning_rate
from fedcore.servers import ServerOptimiser, sgd
from fedcore.settings.training import (
    Fedavg,
    Fedprox,
    Fedsgd,
    LocalSettings,
    Sequential,
    Sgd,
    StrategySettings,
)
from fedcore.terms import Terms
from fedcore.trees import Layout, all_finite, not_finite
from fedcore.values import Brief, ModelState, Plan, ServerState, Total

__all__ = ["Strategy", "centralised", "fedavg", "fedprox", "fedsgd", "sequential", "strategy_of"]

W = TypeVar("W")


@dataclass(frozen=True)
class Strategy:
    """A federated algorithm.

    `sequential`: workers are visited one after the other and each one's model is taken as it is.
    `one_step`: local training is one plain gradient step on all records, whatever `local` says.
    """

    name: str
    rule: Rule = Plain()
    aggregator: Aggregator = weighted_mean
    server: ServerOptimiser = sgd()
    sequential: bool = False
    one_step: bool = False

    def init(self, model: ModelState) -> ServerState:
        """The state before the first round."""
        return ServerState(round=0, model=model, slots=self.server.init(model.averaged))

    @property
    def answer(self) -> Literal["rows", "sum"]:
        """What it must be told of the workers: a mean needs no more than their sum."""
        return "sum" if self.aggregator is weighted_mean and not self.sequential else "rows"

    def waves(self, chosen: Sequence[W]) -> list[list[W]]:
        """Who trains at the same time, wave by wave."""
        return [[worker] for worker in chosen] if self.sequential else [list(chosen)]

    def brief(self, state: ServerState, terms: Terms) -> Brief:
        """What the workers of the next wave are told."""
        round = state.round + 1
        return Brief(
            ticket=terms.ticket(round),
            model=state.model,
            blueprint=terms.blueprint,
            rule=self.rule,
            plan=self._plan(terms.local, round=round, terms=terms),
            answer=self.answer,
            chosen=drawn(terms, round=round),
        )

    def _plan(self, local: LocalSettings, *, round: int, terms: Terms) -> Plan:
        if self.one_step:
            local = local.but(epochs=1, steps=None, batch_size=0, shuffle=False, optimiser=Sgd())
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

    def apply(self, state: ServerState, total: Total) -> ServerState:
        """The state after a wave.

        Raises:
            Diverged: an update or the new model is not finite; `state` stays as it was.
        """
        layout = Layout.of(state.model.averaged)
        _refuse_not_finite(state, total, layout)
        if self.sequential:
            assert total.rows is not None, "a strategy is given what its `answer` asks for"
            moved, slots = layout.unflatten(total.rows[0]), dict(state.slots)
        else:
            start = layout.flatten(state.model.averaged).double()
            step = self._step(total, start, Context(round=state.round + 1))
            steps = layout.unflatten(step, dtype=torch.float64)
            moved, slots = self.server.apply(steps, state.slots, state.model.averaged)
        if broken := not_finite(moved):
            raise Diverged(round=state.round + 1, tensors=broken)
        return replace(
            state,
            model=state.model.replaced(moved),
            slots=slots,
            counted=state.counted + total.contributions,
        )

    def _step(self, total: Total, start: Tensor, context: Context) -> Tensor:
        """What the workers' training amounts to, [P]."""
        weights = total.contributions.weights
        if total.sum is not None:
            return total.sum.div(positive_sum(weights)).sub_(start)
        assert total.rows is not None, "a total has rows or a sum"
        return self.aggregator(total.rows.double() - start, weights, context)


def _refuse_not_finite(state: ServerState, total: Total, layout: Layout) -> None:
    """Raises Diverged with the tensors that are not finite, and whose they are."""
    rows = total.rows if total.sum is None else total.sum.unsqueeze(0)
    assert rows is not None, "a total has rows or a sum"
    if all_finite(rows):
        return
    names = {name for row in rows for name in not_finite(layout.unflatten(row))}
    raise Diverged(round=state.round + 1, tensors=sorted(names), workers=list(total.broken))


def fedavg() -> Strategy:
    """Local training, then the mean weighted by records. McMahan et al. 2017, algorithm 1."""
    return Strategy("fedavg")


def fedsgd() -> Strategy:
    """One gradient step on all records, then the mean weighted by records: a step of gradient
    descent on the pooled data. McMahan et al. 2017, section 2 (FederatedSGD)."""
    return Strategy("fedsgd", one_step=True)


def fedprox(*, mu: float) -> Strategy:
    """FedAvg with mu/2 |w - w0|^2 added to every worker's loss; mu = 0 is FedAvg.
    Li et al. 2020, Federated Optimization in Heterogeneous Networks, algorithm 2."""
    return Strategy("fedprox", rule=Proximal(mu))


def sequential() -> Strategy:
    """The model visits one worker after the other. Sheller et al. 2019 (cyclic institutional
    incremental learning); the PySyft tutorial, part 2."""
    return Strategy("sequential", sequential=True)


def centralised(strategy: Strategy) -> Strategy:
    """The baseline without federation: one worker holds all records and its model is taken as it
    is; local training is as under `strategy`, less what only makes sense for several workers."""
    return Strategy("centralised", sequential=True, one_step=strategy.one_step)


def strategy_of(settings: StrategySettings) -> Strategy:
    """The strategy that the settings name."""
    match settings:
        case Sequential():
            return sequential()
        case Fedavg():
            return fedavg()
        case Fedsgd():
            return fedsgd()
        case Fedprox(mu=mu):
            return fedprox(mu=mu)
