"""Server optimisers and aggregators beside Flower 1.41.0: the same numbers where it does as the
papers say, and where it does not, what exactly it does instead."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import repeat

import numpy as np
import pytest
import torch

from fedcore.aggregators import bulyan, coordinate_median, krum, multi_krum, trimmed_mean
from fedcore.federation import found
from fedcore.servers import adagrad, adam, momentum, sgd, yogi
from fedcore.settings import TrainingConfig
from fedcore.strategy import Strategy
from fedcore.totals import Total
from fedcore.values import (
    Contribution,
    Contributions,
    ModelState,
    Sealed,
    ServerState,
    Ticket,
)

T, K, P = 8, 11, 6
F = 2
ETA, BETA1, BETA2, TAU = 0.1, 0.9, 0.99, 0.01

# Flower's class and arguments, and what they are here: to be the same to 1e-6.
SAME = {
    "mean": ("FedAvg", {}, Strategy("ours")),
    "momentum": (
        "FedAvgM",
        {"server_learning_rate": 0.5, "server_momentum": 0.9},
        Strategy("ours", server=momentum(lr=0.5, momentum=0.9)),
    ),
    "rate alone": ("FedAvgM", {"server_learning_rate": 0.5}, Strategy("ours", server=sgd(lr=0.5))),
    "median": ("FedMedian", {}, Strategy("ours", aggregator=coordinate_median())),
    "trimmed mean": (
        "FedTrimmedAvg",
        {"beta": F / K},
        Strategy("ours", aggregator=trimmed_mean(faulty=F)),
    ),
    "krum": ("Krum", {"num_malicious_nodes": F}, Strategy("ours", aggregator=krum(faulty=F))),
}
# To be different in the way that a test below names.
OTHER = {
    "adagrad": (
        "FedAdagrad",
        {"eta": ETA, "tau": TAU},
        Strategy("ours", server=adagrad(lr=ETA, tau=TAU)),
    ),
    "adam": (
        "FedAdam",
        {"eta": ETA, "beta_1": BETA1, "beta_2": BETA2, "tau": TAU},
        Strategy("ours", server=adam(lr=ETA, beta1=BETA1, beta2=BETA2, tau=TAU)),
    ),
    "yogi": (
        "FedYogi",
        {"eta": ETA, "beta_1": BETA1, "beta_2": BETA2, "tau": TAU},
        Strategy("ours", server=yogi(lr=ETA, beta1=BETA1, beta2=BETA2, tau=TAU)),
    ),
}


@pytest.fixture(scope="module")
def given():
    """Steps much shorter than tau, as long, and much longer; weights of 1 to 11 records."""
    stream = np.random.default_rng(5)
    lengths = TAU * np.array([0.01, 0.1, 1.0, 10.0, 100.0, 1000.0])
    return {
        "start": stream.normal(size=P),
        "changes": stream.normal(0.3, 1.0, size=(T, K, P)) * lengths,
        "losses": stream.uniform(0.1, 2.0, size=(T, K)),
        "weights": stream.permutation(np.arange(1.0, K + 1)),
    }


@pytest.fixture(scope="module")
def theirs(flower, given):
    jobs = {name: (kind, arguments) for name, (kind, arguments, _) in {**SAME, **OTHER}.items()}
    return flower(jobs, given)


def ours(
    strategies: Iterable[Strategy],
    given,
    *,
    started: Callable[[ServerState], ServerState] = lambda state: state,
):
    """The model after each round, [T, P], of the strategies of the rounds."""
    who = Contributions.of(
        Contribution(f"w{k:02}", float(weight), {"loss": 1.0, "seen": 1.0})
        for k, weight in enumerate(given["weights"])
    )
    state, after, terms = None, [], found(TrainingConfig()).terms
    for strategy, changes in zip(strategies, given["changes"], strict=False):
        if state is None:
            state = started(strategy.init(ModelState({"w": torch.from_numpy(given["start"])})))
        rows = state.model.parameters["w"] + torch.from_numpy(changes)
        sealed = Sealed(Ticket("run", state.round + 1), who, rows=rows)
        weightings = strategy.weightings(terms, round=1)
        total = Total.of([sealed], answer=strategy.answer, weightings=weightings)
        state = strategy.apply(state, total, terms=terms)
        state = state.finish({}, timestamp_ms=0, missing={})
        after.append(state.model.parameters["w"].numpy())
    return np.stack(after)


def v_from_zero(state: ServerState) -> ServerState:
    """v = 0 before the first round, where Reddi et al. 2021, algorithm 2, line 1, has
    v_{-1} >= tau^2."""
    return replace(state, slots={**state.slots, "v/w": torch.zeros_like(state.slots["v/w"])})


@pytest.mark.parametrize("name", SAME)
def test_the_same_numbers(name, theirs, given):
    found = ours(repeat(SAME[name][2]), given)
    np.testing.assert_allclose(found, theirs[name], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", ["adagrad", "yogi"])
def test_flower_starts_v_at_zero_and_that_is_all(name, theirs, given):
    strategy = OTHER[name][2]
    found = ours(repeat(strategy), given, started=v_from_zero)
    np.testing.assert_allclose(found, theirs[name], rtol=1e-9, atol=1e-9)
    assert np.abs(ours(repeat(strategy), given) - theirs[name]).max() > 1e-3


def test_flower_corrects_adam_for_a_bias_one_round_ahead_and_starts_v_at_zero(theirs, given):
    """Algorithm 2 has eta in its last line, whatever the round. Flower has the rate of Kingma and
    Ba 2015, section 2, with t + 1 in place of t."""

    def rate(t: int) -> float:
        return ETA * (1 - BETA2 ** (t + 1)) ** 0.5 / (1 - BETA1 ** (t + 1))

    corrected = [
        Strategy("ours", server=adam(lr=rate(t), beta1=BETA1, beta2=BETA2, tau=TAU))
        for t in range(1, T + 1)
    ]
    found = ours(corrected, given, started=v_from_zero)
    np.testing.assert_allclose(found, theirs["adam"], rtol=1e-9, atol=1e-9)
    paper = OTHER["adam"][2]
    for mended in (ours(repeat(paper), given, started=v_from_zero), ours(corrected, given)):
        assert np.abs(mended - theirs["adam"]).max() > 1e-3


def test_flower_weighs_what_multi_krum_keeps_by_records(flower, given):
    """Blanchard et al. 2017, section 6, has 1/m sum of the m vectors that are kept, whoever has
    how many records. With as many each, both are the same."""
    jobs = {"theirs": ("MultiKrum", {"num_malicious_nodes": F, "num_nodes_to_select": 5})}
    strategy = Strategy("ours", aggregator=multi_krum(faulty=F, keep=5))
    even = {**given, "weights": np.ones(K)}
    found = ours(repeat(strategy), even)
    np.testing.assert_allclose(found, flower(jobs, even)["theirs"], rtol=1e-6, atol=1e-6)
    assert np.abs(found[0] - flower(jobs, given)["theirs"][0]).max() > 1e-3


def test_flower_selects_for_bulyan_at_once_what_the_paper_selects_one_by_one(flower, given):
    """El Mhamdi et al. 2018, section 4: Krum is run theta = K - 2f times, each time without those
    selected before. Flower takes the theta best of one run, by the same mean around the median."""
    theta, beta = K - 2 * F, K - 4 * F

    def at_once(rows, weights, context):
        kept = multi_krum_order(rows)[:theta]
        chosen = rows[kept]
        away = (chosen - chosen.median(dim=0).values).abs()
        near = away.argsort(dim=0, stable=True)[:beta]
        return chosen.gather(0, near).mean(dim=0)

    def multi_krum_order(rows):
        squares = torch.cdist(rows, rows) ** 2
        nearest = squares.sort(dim=1).values[:, 1 : K - F - 1]
        return nearest.sum(dim=1).argsort(stable=True)

    theirs = flower({"theirs": ("Bulyan", {"num_malicious_nodes": F})}, given)["theirs"]
    found = ours(repeat(Strategy("ours", aggregator=at_once)), given)
    np.testing.assert_allclose(found[0], theirs[0], rtol=1e-6, atol=1e-6)
    paper = ours(repeat(Strategy("ours", aggregator=bulyan(faulty=F))), given)
    assert np.abs(paper[0] - theirs[0]).max() > 1e-6
