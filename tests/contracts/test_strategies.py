"""What every strategy and every aggregator must keep, by the settings that name it."""

import re
from dataclasses import replace
from typing import get_args
from uuid import uuid4

import pytest
import torch

import fedcore.aggregators
import fedcore.strategies
from fedcore.admission import admitted
from fedcore.codec import decode, encode
from fedcore.errors import Diverged, Incompatible
from fedcore.federation import found
from fedcore.rounds import publish, reveal, trusted
from fedcore.selection import choose
from fedcore.settings import parse
from fedcore.settings.aggregators import AggregatorSettings
from fedcore.settings.strategies import StrategySettings
from fedcore.simulation import rounds
from fedcore.totals import Total
from fedcore.trees import all_finite
from fedcore.values import Contributions, ServerState


def variants(union):
    return {get_args(v.model_fields["kind"].annotation)[0]: v for v in get_args(get_args(union)[0])}


STRATEGIES = {
    "fedavg": {},
    "fedsgd": {},
    "fedprox": {"mu": 0.5},
    "scaffold": {"server_learning_rate": 0.9},
    "fednova": {"mu": 0.1},
    "feddyn": {"alpha": 0.5},
    "fedavgm": {"server_learning_rate": 0.5},
    "fedadagrad": {"server_learning_rate": 0.03},
    "fedadam": {"server_learning_rate": 0.03},
    "fedyogi": {"server_learning_rate": 0.03},
    "qfedavg": {"q": 2.0},
    "fedbn": {},
    "fedper": {},
    "ditto": {"pull": 0.5},
    "sequential": {},
    "custom": {"entrypoint": "tests.contracts.ours:held", "arguments": {"mu": 0.3}},
}
AGGREGATORS = {
    "weighted_mean": {},
    "coordinate_median": {},
    "trimmed_mean": {"bucket": 2},
    "mean_around_median": {},
    "krum": {},
    "multi_krum": {"mixing": True},
    "bulyan": {},
    "geometric_median": {"iterations": 20},
    "centred_clipping": {"radius": 0.3},
    "norm_bounding": {},
    "fltrust": {"records": 50},
    "custom": {"entrypoint": "tests.contracts.ours:even_mean"},
}
# A kind without a row in the table stops the collection of all tests.
assert STRATEGIES.keys() == variants(StrategySettings).keys()
assert AGGREGATORS.keys() == variants(AggregatorSettings).keys()

CASES = {kind: {"kind": kind, **fields} for kind, fields in STRATEGIES.items()} | {
    f"fedavg-{kind}": {"kind": "fedavg", "aggregator": {"kind": kind, **fields}}
    for kind, fields in AGGREGATORS.items()
}
CASES["fedavg-exchange"] = {"kind": "fedavg", "exchange": ["0.*"]}
REMEMBER = {"scaffold", "feddyn", "fedbn", "fedper", "ditto", "fedavg-exchange"}

pytestmark = pytest.mark.parametrize("case", CASES)


def federation(case, *, workers="virtual", memories="live:", run=None, **changes):
    """Of 8 workers with records of their own, of whom 7 are drawn: bulyan needs as many."""
    normed = {"kind": "custom", "entrypoint": "tests.contracts.ours:normed"}
    mlp = {"kind": "mlp", "hidden": [4]}
    engine = changes.pop("engine", None)
    dealt = {"kind": workers, "count": 8, "partition": {"kind": "dirichlet", "alpha": 2.0}}
    local = {"learning_rate": 0.05, "steps": 3, "batch_size": 16, **changes.pop("local", {})}
    given = {
        "rounds": 4,
        "data": {"source": {"kind": "breast_cancer"}, "test_share": 0.2},
        "model": normed if case == "fedbn" else mlp,
        "workers": dealt if engine is None else {**dealt, "engine": engine},
        "sampling": {"kind": "uniform", "count": 7},
        "local": local,
        "strategy": CASES[case],
    }
    return found(parse({**given, **changes}), memories=memories).named(
        run or uuid4().hex, attempt=1
    )


@pytest.fixture
def begun(case):
    """A federation, the state after a round, and what the next wave's workers answer."""
    ready = federation(case)
    state = next(rounds(ready))
    brief = ready.strategy.brief(state, ready.terms)
    (wave, *_) = ready.strategy.waves(choose(ready.workers, ready.terms, state))
    sent = publish(brief, terms=ready.terms, wave="contract")
    answers = [w.fetch(w.train(w.send(sent))) for w in wave]
    told = {worker.id: answer for worker, answer in zip(wave, answers, strict=True)}
    arrived = admitted(told, brief, ready.terms, asked=len(wave), missing={})
    root = trusted(ready.strategy, brief, ready.terms)
    return Begun(ready, state, brief, arrived, root)


class Begun:
    def __init__(self, ready, state, brief, arrived, root):
        self.ready, self.state, self.brief = ready, state, brief
        self.arrived, self.root = arrived, root

    def total(self, change=lambda sealed: sealed):
        return reveal(replace(self.arrived, sealed=change(self.arrived.sealed)), self.brief)

    def apply(self, total):
        return self.ready.strategy.apply(
            self.state, total, terms=self.ready.terms, trusted=self.root
        )


def held(total: Total) -> torch.Tensor:
    return total.rows if total.rows is not None else total.sums


def test_applying_is_pure(begun):
    total = begun.total()
    state, numbers = encode(begun.state), held(total).clone()
    once = begun.apply(total)
    assert once != begun.state
    assert begun.apply(total) == once
    assert encode(begun.state) == state
    assert torch.equal(held(total), numbers)


def test_the_order_in_which_workers_answer_is_irrelevant(begun):
    once, twice = begun.apply(begun.total()), begun.apply(begun.total(lambda s: s[::-1]))
    assert twice.counted == once.counted
    exact = begun.brief.answer == "rows"
    near = {"rtol": 0, "atol": 0} if exact else {"rtol": 1e-6, "atol": 1e-9}
    for name, tensor in once.model.tensors.items():
        torch.testing.assert_close(twice.model.tensors[name], tensor, **near)


def test_the_scale_of_weights_is_irrelevant(begun):
    def scaled(sealed):
        return [replace(part, contributions=sixteenfold(part.contributions)) for part in sealed]

    # Times a power of 2: not a bit may change.
    once, twice = begun.apply(begun.total()), begun.apply(begun.total(scaled))
    assert twice.model.digest == once.model.digest
    assert twice.slots.keys() == once.slots.keys()


def sixteenfold(counted):
    return Contributions(counted.workers, counted.weights * 16, counted.measures)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_is_refused_and_the_state_unchanged(begun, bad):
    total, before = begun.total(), encode(begun.state)
    held(total)[-1, 2] = bad
    with pytest.raises(Diverged, match="global model is unchanged"):
        begun.apply(total)
    assert encode(begun.state) == before


def test_a_state_survives_the_journey_to_bytes(case):
    for state in rounds(federation(case, rounds=2)):
        found = decode(encode(state), ServerState)
        assert found == state
        assert encode(found) == encode(state)


@pytest.mark.parametrize("workers", ["virtual", "simulated"])
def test_a_resumed_training_goes_on_with_the_same_bits(case, workers, tmp_path):
    """After round 2 nothing is left but the state's bytes and the folder of memories."""
    if case == "sequential" and workers == "simulated":
        pytest.skip("cannot be simulated")
    memories, run = f"file://{tmp_path}/", uuid4().hex
    straight = list(rounds(federation(case, workers=workers)))
    first = rounds(federation(case, workers=workers, memories=memories, run=run))
    next(first)
    kept = encode(next(first))
    del first
    assert any(tmp_path.rglob("*.safetensors")) == (case in REMEMBER)
    again = federation(case, workers=workers, memories=memories, run=run)
    again = replace(again.named(run, attempt=2), start=decode(kept, ServerState))
    resumed = list(rounds(again))
    assert [state.round for state in resumed] == [3, 4]
    for state, wanted in zip(resumed, straight[2:], strict=True):
        assert state.model.digest == wanted.model.digest
        assert state.record.contributions == wanted.record.contributions


@pytest.mark.parametrize("engine", ["loop", "auto"])
def test_workers_trained_together_are_workers_trained_apart(case, engine):
    if case == "sequential":
        with pytest.raises(Incompatible, match="visits one worker after the other"):
            federation(case, workers="simulated", engine=engine)
        return
    apart = list(rounds(federation(case)))
    together = list(rounds(federation(case, workers="simulated", engine=engine)))
    for one, two in zip(apart, together, strict=True):
        assert two.record.contributions.workers == one.record.contributions.workers
        for name, tensor in one.model.tensors.items():
            torch.testing.assert_close(two.model.tensors[name], tensor, rtol=1e-4, atol=1e-5)
    assert apart[-1].model.digest != federation(case).start.model.digest


def test_a_round_at_learning_rate_0_leaves_finite_numbers(case):
    """The last round of a cosine schedule. Nothing is learnt in it, and nothing is broken."""
    ready = federation(case, rounds=3, local={"schedule": {"kind": "cosine", "floor": 0.0}})
    *_, before, after = rounds(ready)
    brief = ready.strategy.brief(after, ready.terms)
    memories = [m for w in ready.workers for m in w.memory.recall(brief, [w.id])]
    kept = [tensors for memory in memories for tensors in (memory.rule, memory.own)]
    for tensors in (after.model.averaged, after.slots, after.shared, *kept):
        assert all(all_finite(tensor) for tensor in tensors.values())
    if not after.slots and case not in ("feddyn", "fedavg-centred_clipping"):  # these go on
        for name, tensor in before.model.parameters.items():
            torch.testing.assert_close(after.model.parameters[name], tensor, rtol=1e-6, atol=1e-7)


def test_it_cites_its_paper(case):
    strategy, _, aggregator = case.partition("-")
    union, module = StrategySettings, fedcore.strategies
    name = strategy
    if aggregator in AGGREGATORS:
        union, module, name = AggregatorSettings, fedcore.aggregators, aggregator
    if name == "custom":
        pytest.skip("whoever brings it cites it")
    for named in (variants(union)[name], getattr(module, name)):
        assert re.search(r"[A-Z]\w+ et al\.\s(19|20)\d\d", named.__doc__), named
