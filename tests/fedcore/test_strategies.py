"""The contract of every strategy."""

import pytest
import torch
from pydantic import TypeAdapter

from fedcore.errors import Diverged
from fedcore.settings.training import StrategySettings
from fedcore.strategies import fedavg, fedprox, fedsgd, sequential, strategy_of
from fedcore.trees import Layout, same
from fedcore.values import Contribution, Contributions, ModelState, Sealed, Ticket, Total

ALL = [fedavg(), fedsgd(), fedprox(mu=0.1), sequential()]
AVERAGING = ALL[:3]


def state_of_two(strategy):
    model = ModelState(
        {"w": torch.tensor([1.0, 2.0])},
        {"mean": torch.tensor([0.5]), "count": torch.tensor(7)},
    )
    return strategy.init(model)


def total(*rows, weights=None):
    weights = weights or [1.0] * len(rows)
    who = Contributions.of(
        Contribution(f"w{i}", weight, {"loss": 1.0, "seen": 1.0})
        for i, weight in enumerate(weights)
    )
    sealed = Sealed(Ticket("run", 1), who, rows=torch.tensor(rows))
    return Total.of([sealed], answer="rows", sources=())


@pytest.mark.parametrize("strategy", ALL, ids=lambda s: s.name)
class TestContract:
    def test_applying_is_pure(self, strategy):
        state, given = state_of_two(strategy), total([1.0, 2.0, 3.0])
        before = {name: t.clone() for name, t in state.model.tensors.items()}
        once, twice = strategy.apply(state, given), strategy.apply(state, given)
        assert once == twice
        assert same(before, state.model.tensors)

    def test_integer_buffers_stay_the_servers(self, strategy):
        after = strategy.apply(state_of_two(strategy), total([1.0, 2.0, 3.0]))
        assert after.model.buffers["count"].item() == 7

    @pytest.mark.parametrize("bad", [float("nan"), float("inf")])
    def test_an_update_that_is_not_finite_is_refused_with_its_worker(self, strategy, bad):
        state = state_of_two(strategy)
        with pytest.raises(
            Diverged, match=r"NaN or infinity in .*w from w0\. The global model is unchanged"
        ):
            strategy.apply(state, total([1.0, bad, 3.0]))
        assert state == state_of_two(strategy)

    def test_who_counted_is_in_the_state(self, strategy):
        after = strategy.apply(state_of_two(strategy), total([1.0, 2.0, 3.0]))
        assert [c.worker for c in after.counted] == ["w0"]

    def test_it_cites_its_paper(self, strategy):
        import fedcore.strategies as module

        assert " et al. " in getattr(module, strategy.name).__doc__


@pytest.mark.parametrize("strategy", AVERAGING, ids=lambda s: s.name)
class TestAverages:
    def test_the_scale_of_weights_is_irrelevant(self, strategy):
        rows = ([1.0, 2.0, 3.0], [4.0, 0.0, 1.0])
        one = strategy.apply(state_of_two(strategy), total(*rows, weights=[1.0, 3.0]))
        two = strategy.apply(state_of_two(strategy), total(*rows, weights=[10.0, 30.0]))
        assert one.model.digest == two.model.digest

    def test_the_mean_is_weighted_by_records(self, strategy):
        after = strategy.apply(
            state_of_two(strategy), total([0.0, 1.0, 3.0], [4.0, 5.0, 7.0], weights=[3.0, 1.0])
        )
        assert Layout.of(after.model.averaged).flatten(after.model.averaged).tolist() == [1, 2, 4]

    def test_nothing_to_average_is_refused(self, strategy):
        with pytest.raises(ValueError, match="sum to more than 0"):
            strategy.apply(state_of_two(strategy), total([1.0, 1.0, 1.0], weights=[0.0]))


def sealed(*names, rows=None, sum=None, weight=1.0):
    who = Contributions.of(Contribution(n, weight, {"loss": 0.0, "seen": 1.0}) for n in names)
    return Sealed(Ticket("run", 1), who, rows=rows, sum=sum)


def test_rows_are_sorted_by_worker_whatever_arrives_first():
    parts = {n: sealed(n, rows=torch.tensor([[float(i)]])) for i, n in enumerate("abc")}
    one = Total.of([parts[n] for n in "abc"], answer="rows", sources=())
    two = Total.of([parts[n] for n in "cab"], answer="rows", sources=())
    assert one.contributions.workers == two.contributions.workers == ("a", "b", "c")
    assert torch.equal(one.rows, two.rows)


def test_a_sum_is_the_sum_of_weighted_rows_and_of_other_sums():
    parts = [
        sealed("a", rows=torch.tensor([[1.0, 2.0]]), weight=3.0),
        sealed("b", "c", sum=torch.tensor([10.0, 20.0], dtype=torch.float64)),
    ]
    total = Total.of(parts, answer="sum", sources=())
    assert total.rows is None
    assert total.sum.tolist() == [13.0, 26.0]
    assert total.contributions.weights.tolist() == [3.0, 1.0, 1.0]


@pytest.mark.parametrize("strategy", AVERAGING, ids=lambda s: s.name)
def test_a_mean_of_sums_is_the_mean_of_rows(strategy):
    rows = torch.tensor([[1.0, 2.0, 3.0], [4.0, 0.0, 1.0], [-3.0, 5.0, 2.5]])
    parts = [sealed(f"w{i}", rows=row[None], weight=i + 1.0) for i, row in enumerate(rows)]
    assert strategy.answer == "sum"
    one, two = (
        strategy.apply(state_of_two(strategy), Total.of(parts, answer=answer, sources=()))
        for answer in ("rows", "sum")
    )
    assert one.model.digest == two.model.digest


def test_a_sum_that_is_not_finite_names_whose_loss_shows_it():
    who = Contributions.of(
        Contribution(n, 1.0, {"loss": loss, "seen": 1.0})
        for n, loss in (("a", 0.5), ("b", float("nan")))
    )
    bad = Sealed(Ticket("run", 1), who, sum=torch.tensor([float("nan"), 1.0, 1.0]).double())
    with pytest.raises(Diverged, match=r"NaN or infinity in .* from b\."):
        fedavg().apply(state_of_two(fedavg()), Total.of([bad], answer="sum", sources=()))


def test_a_strategy_that_needs_rows_is_not_given_a_sum():
    with pytest.raises(ValueError, match="must be given rows; given: a sum"):
        Total.of([sealed("a", sum=torch.zeros(1).double())], answer="rows", sources=())


def test_a_worker_cannot_count_twice():
    one = sealed("a", rows=torch.zeros(1, 1))
    with pytest.raises(ValueError, match="disjoint workers; given: a twice"):
        Total.of([one, one], answer="rows", sources=())


def test_every_strategy_of_the_settings_can_be_built():
    for kind in ("sequential", "fedavg", "fedsgd", "fedprox"):
        settings = TypeAdapter(StrategySettings).validate_python({"kind": kind})
        assert strategy_of(settings).name == kind


def test_sequential_goes_in_waves_of_one_and_the_others_in_one_wave():
    assert sequential().waves(["bob", "alice"]) == [["bob"], ["alice"]]
    assert fedavg().waves(["bob", "alice"]) == [["bob", "alice"]]
