"""The contract of every strategy."""

from typing import get_args

import pytest
import torch
from pydantic import TypeAdapter

from fedcore.data import Dataset
from fedcore.errors import Diverged
from fedcore.models import blueprint
from fedcore.roster import Roster
from fedcore.servers import adam, momentum
from fedcore.settings import TrainingConfig
from fedcore.settings.strategies import StrategySettings
from fedcore.strategies import (
    ditto,
    fedadagrad,
    fedadam,
    fedavg,
    fedavgm,
    fedbn,
    feddyn,
    fednova,
    fedper,
    fedprox,
    fedsgd,
    fedyogi,
    qfedavg,
    scaffold,
    sequential,
    strategy_of,
)
from fedcore.strategy import Strategy
from fedcore.terms import Terms
from fedcore.totals import Total
from fedcore.trees import Layout, same
from fedcore.values import Contribution, Contributions, Description, ModelState, Sealed, Ticket
from fedcore.weightings import ByRecords

ALL = [
    fedavg(),
    fedsgd(),
    fedprox(mu=0.1),
    scaffold(),
    fednova(),
    feddyn(alpha=0.1),
    fedavgm(),
    fedadagrad(),
    fedadam(),
    fedyogi(),
    qfedavg(q=1.0),
    fedbn(),
    fedper(),
    ditto(pull=0.1),
    sequential(),
]
BY_RECORDS = [fedavg(), fedsgd(), fedprox(mu=0.1), fedbn(), fedper(), ditto(pull=0.1)]

_CONFIG = TrainingConfig()
_SAMPLE = Dataset(torch.zeros(2, 2), torch.tensor([0, 1]), ("a", "b"))
TERMS = Terms.of(
    _CONFIG,
    store="live:test",
    descriptions=[Description(f"w{i}", 10, (2,), {}, "") for i in range(4)],
    roster=Roster(tuple(f"w{i}" for i in range(4)), torch.full((4,), 10.0, dtype=torch.float64)),
    blueprint=blueprint(_CONFIG.model, _SAMPLE),
    test=None,
)


def variants(union):
    return get_args(get_args(union)[0])


def state_of_two(strategy):
    model = ModelState(
        {"w": torch.tensor([1.0, 2.0])},
        {"mean": torch.tensor([0.5]), "count": torch.tensor(7)},
    )
    return strategy.init(model)


MEASURES = {"loss": 1.0, "seen": 1.0, "steps": 2.0, "norm": 1.5, "start_loss": 0.7}


def apply(strategy, state, given):
    return strategy.apply(state, given, terms=TERMS)


def total(*rows, weights=None):
    weights = weights or [1.0] * len(rows)
    who = Contributions.of(
        Contribution(f"w{i}", weight, MEASURES) for i, weight in enumerate(weights)
    )
    sealed = Sealed(Ticket("run", 1), who, rows=torch.tensor(rows))
    return Total.of([sealed], answer="rows", weightings=())


@pytest.mark.parametrize("strategy", ALL, ids=lambda s: s.name)
class TestContract:
    def test_applying_is_pure(self, strategy):
        state, given = state_of_two(strategy), total([1.0, 2.0, 3.0])
        before = {name: t.clone() for name, t in state.model.tensors.items()}
        once, twice = apply(strategy, state, given), apply(strategy, state, given)
        assert once == twice
        assert same(before, state.model.tensors)

    def test_integer_buffers_stay_the_servers(self, strategy):
        after = apply(strategy, state_of_two(strategy), total([1.0, 2.0, 3.0]))
        assert after.model.buffers["count"].item() == 7

    @pytest.mark.parametrize("bad", [float("nan"), float("inf")])
    def test_what_is_not_finite_is_refused(self, strategy, bad):
        state = state_of_two(strategy)
        with pytest.raises(Diverged, match=r"NaN or infinity in .*w.* global model is unchanged"):
            apply(strategy, state, total([1.0, bad, 3.0]))
        assert state == state_of_two(strategy)

    def test_who_counted_is_in_the_state(self, strategy):
        after = apply(strategy, state_of_two(strategy), total([1.0, 2.0, 3.0]))
        assert [c.worker for c in after.counted] == ["w0"]

    def test_it_cites_its_paper(self, strategy):
        import fedcore.strategies as module

        assert " et al. " in getattr(module, strategy.name).__doc__


@pytest.mark.parametrize("strategy", BY_RECORDS, ids=lambda s: s.name)
class TestAverages:
    def test_the_scale_of_weights_is_irrelevant(self, strategy):
        rows = ([1.0, 2.0, 3.0], [4.0, 0.0, 1.0])
        one = apply(strategy, state_of_two(strategy), total(*rows, weights=[1.0, 3.0]))
        two = apply(strategy, state_of_two(strategy), total(*rows, weights=[10.0, 30.0]))
        assert one.model.digest == two.model.digest

    def test_the_mean_is_weighted_by_records(self, strategy):
        after = apply(
            strategy,
            state_of_two(strategy),
            total([0.0, 1.0, 3.0], [4.0, 5.0, 7.0], weights=[3.0, 1.0]),
        )
        assert Layout.of(after.model.averaged).flatten(after.model.averaged).tolist() == [1, 2, 4]

    def test_nothing_to_average_is_refused(self, strategy):
        with pytest.raises(ValueError, match="sum to more than 0"):
            apply(strategy, state_of_two(strategy), total([1.0, 1.0, 1.0], weights=[0.0]))


STATISTICS = {
    "momentum": Strategy("ours", server=momentum()),
    "adam": Strategy("ours", server=adam()),
    "fairness": qfedavg(q=2.0),
}


@pytest.mark.parametrize("strategy", STATISTICS.values(), ids=STATISTICS)
def test_statistics_are_averaged_and_not_optimised(strategy):
    state = strategy.init(ModelState({"w": torch.zeros(1)}, {"variance": torch.tensor([1.0])}))
    for _ in range(3):
        # In the order of names: the variance that the worker found, then its weight.
        state = apply(strategy, state, total([0.25, 1.0]))
        state = state.finish({}, timestamp_ms=0, missing={})
        assert state.model.buffers["variance"].item() == 0.25
    assert not any("variance" in name for name in state.slots)
    assert state.model.parameters["w"].item() != 1.0


def sealed(*names, rows=None, sum=None, weight=1.0):
    who = Contributions.of(Contribution(n, weight, {"loss": 0.0, "seen": 1.0}) for n in names)
    return Sealed(Ticket("run", 1), who, rows=rows, sums=sum)


def test_rows_are_sorted_by_worker_whatever_arrives_first():
    parts = {n: sealed(n, rows=torch.tensor([[float(i)]])) for i, n in enumerate("abc")}
    one = Total.of([parts[n] for n in "abc"], answer="rows", weightings=())
    two = Total.of([parts[n] for n in "cab"], answer="rows", weightings=())
    assert one.contributions.workers == two.contributions.workers == ("a", "b", "c")
    assert torch.equal(one.rows, two.rows)


def test_a_sum_is_the_sum_of_weighted_rows_and_of_other_sums():
    parts = [
        sealed("a", rows=torch.tensor([[1.0, 2.0]]), weight=3.0),
        sealed("b", "c", sum=torch.tensor([[10.0, 20.0]], dtype=torch.float64)),
    ]
    total = Total.of(parts, answer="sum", weightings=[ByRecords()])
    assert total.rows is None
    assert total.sums.tolist() == [[13.0, 26.0]]
    assert total.contributions.weights.tolist() == [3.0, 1.0, 1.0]


AVERAGING = [strategy for strategy in ALL if not strategy.sequential]


@pytest.mark.parametrize("strategy", AVERAGING, ids=lambda s: s.name)
def test_a_mean_of_sums_is_the_mean_of_rows(strategy):
    rows = torch.tensor([[1.0, 2.0, 3.0], [4.0, 0.0, 1.0], [-3.0, 5.0, 2.5]])
    who = [Contributions.of([Contribution(f"w{i}", i + 1.0, MEASURES)]) for i in range(3)]
    parts = [Sealed(Ticket("run", 1), who[i], rows=row[None]) for i, row in enumerate(rows)]
    assert strategy.answer == "sum"
    weightings = strategy.weightings(TERMS, round=1)
    one, two = (
        apply(
            strategy,
            state_of_two(strategy),
            Total.of(parts, answer=answer, weightings=weightings),
        )
        for answer in ("rows", "sum")
    )
    for name, tensor in one.model.averaged.items():
        torch.testing.assert_close(tensor, two.model.averaged[name], rtol=1e-6, atol=1e-7)


def test_a_strategy_that_needs_rows_is_not_given_a_sum():
    with pytest.raises(ValueError, match="must be given rows; given: a sum"):
        Total.of([sealed("a", sum=torch.zeros(1, 1).double())], answer="rows", weightings=())


def test_a_worker_cannot_count_twice():
    one = sealed("a", rows=torch.zeros(1, 1))
    with pytest.raises(ValueError, match="disjoint workers; given: a twice"):
        Total.of([one, one], answer="rows", weightings=())


def test_every_strategy_of_the_settings_can_be_built_and_is_in_the_contract():
    kinds = [get_args(v.model_fields["kind"].annotation)[0] for v in variants(StrategySettings)]
    assert sorted(s.name for s in ALL) == sorted(set(kinds) - {"custom"})
    for kind in set(kinds) - {"custom"}:
        settings = TypeAdapter(StrategySettings).validate_python({"kind": kind})
        assert strategy_of(settings).name == kind


def test_sequential_goes_in_waves_of_one_and_the_others_in_one_wave():
    assert sequential().waves(["bob", "alice"]) == [["bob"], ["alice"]]
    assert fedavg().waves(["bob", "alice"]) == [["bob", "alice"]]
