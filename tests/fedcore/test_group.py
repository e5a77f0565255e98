"""Groups: workers that coordinate workers, beside no groups and beside nested loops."""

import pickle
from dataclasses import dataclass, fields, is_dataclass, replace
from itertools import pairwise
from uuid import uuid4

import pytest
import torch
from torch.nn.functional import cross_entropy

from fedcore.admission import admitted
from fedcore.data import Dataset, deal
from fedcore.errors import (
    FedroundsError,
    Incompatible,
    WorkerFailed,
    WorkerUnreachable,
)
from fedcore.federation import found, found_with
from fedcore.models import build
from fedcore.rounds import publish, reveal
from fedcore.seeds import derive
from fedcore.settings import parse
from fedcore.simulation import rounds, simulate
from fedcore.store import fetch, open_store
from fedcore.strategies import strategy_of
from fedcore.trees import Layout
from fedcore.values import Contributions, Ref, Sealed
from fedcore.workers import CohortWorker, GroupWorker, VirtualWorker
from fedcore.workers.placed import Placed

BASE = {
    "rounds": 3,
    "model": {"kind": "mlp", "hidden": [6]},
    "local": {"epochs": 2, "batch_size": 16, "learning_rate": 0.2},
}
MEMBERS = {"count": 9, "partition": {"kind": "dirichlet", "alpha": 0.7}}


def config(kind="grouped", **changes):
    own = {"groups": 4} if kind == "grouped" else {}
    workers = {"kind": kind, **MEMBERS, **own, **changes.pop("workers", {})}
    return parse({**BASE, "workers": workers, **changes})


def flat(model):
    return Layout.of(model.averaged).flatten(model.averaged)


def last(config):
    *_, state = simulate(config)
    return state


@pytest.mark.parametrize(
    "strategy",
    [
        {"kind": "fedavg"},
        {"kind": "fedprox", "mu": 0.5},
        {"kind": "fedsgd"},
        {"kind": "fedadam"},
        {"kind": "fedavgm"},
    ],
    ids=lambda strategy: strategy["kind"],
)
def test_with_one_inner_round_groups_learn_what_their_members_would_learn_apart(strategy):
    """A mean of means, both by records, is the mean over all."""
    optimiser = {"kind": "momentum"}
    changes = {"strategy": strategy, "local": {**BASE["local"], "optimiser": optimiser}}
    grouped, apart = (list(simulate(config(kind, **changes))) for kind in ("grouped", "virtual"))
    for one, other in zip(grouped, apart, strict=True):
        torch.testing.assert_close(flat(one.model), flat(other.model), rtol=1e-5, atol=1e-6)
        mine, theirs = one.record.metrics, other.record.metrics
        assert mine["train_loss"] == pytest.approx(theirs["train_loss"], rel=1e-5)
        assert mine["test_accuracy"] == theirs["test_accuracy"]


def sgd(config, module, data, number):
    """One member's epochs of plain gradient steps, in place; the sum of its records' losses."""
    order_of = derive(config.seed, number, "", "order")
    total = 0.0
    for _ in range(config.local.epochs):
        order = torch.randperm(len(data), generator=order_of)
        for batch in order.split(config.local.batch_size):
            module.zero_grad()
            loss = cross_entropy(module(data.features[batch]), data.targets[batch])
            loss.backward()
            total += loss.item() * len(batch)
            with torch.no_grad():
                for p in module.parameters():
                    p -= config.local.learning_rate * p.grad
    return total


def nested(config):
    """Liu et al. 2020, algorithm 1, in loops: members within inner rounds within groups within
    rounds. Returns the weights and each round's train loss."""
    settings = config.workers
    held = deal(config.data, settings, config.model.loss, seed=config.seed).workers
    federation = found(config)
    module = build(federation.terms.blueprint)
    w = {name: tensor.double() for name, tensor in federation.start.model.tensors.items()}
    names, losses = list(held), []
    cut = [len(names) * g // settings.groups for g in range(settings.groups + 1)]
    for round in range(config.rounds):
        above, total = [], 0.0
        for first, end in pairwise(cut):
            v = w
            for inner in range(settings.inner_rounds):
                below = []
                for name in names[first:end]:
                    module.load_state_dict(v)
                    number = round * settings.inner_rounds + inner + 1
                    total += sgd(config, module, held[name], number)
                    state = {n: t.double() for n, t in module.state_dict().items()}
                    below.append((len(held[name]), state))
                v = mean(below)
            above.append((sum(n for n, _ in below), v))
        w = mean(above)
        records = sum(n for n, _ in above)
        losses.append(total / (records * config.local.epochs * settings.inner_rounds))
    return w, losses


def mean(weighted):
    whole = sum(n for n, _ in weighted)
    return {name: sum(n * state[name] for n, state in weighted) / whole for name in weighted[0][1]}


@pytest.mark.parametrize("inner_rounds", [1, 3])
def test_groups_train_as_hierarchical_averaging_in_nested_loops_does(inner_rounds):
    made = config(workers={"inner_rounds": inner_rounds}, local={**BASE["local"], "epochs": 1})
    states = list(simulate(made))
    tensors, losses = nested(made)
    for name, tensor in states[-1].model.tensors.items():
        torch.testing.assert_close(tensor.double(), tensors[name], rtol=1e-5, atol=1e-5)
    assert [s.record.metrics["train_loss"] for s in states] == pytest.approx(losses, rel=1e-5)
    apart = last(config("virtual", local=made.local))
    near = torch.allclose(flat(states[-1].model), flat(apart.model), atol=1e-3)
    assert near == (inner_rounds == 1)


def test_what_crosses_between_groups_and_coordinator_is_that_of_groups():
    state, apart = last(config()), last(config("virtual"))
    for name in ("bytes_up", "bytes_down", "workers_arrived"):
        assert state.record.metrics[name] * 9 == apart.record.metrics[name] * 4
    assert sum(state.record.contributions.weights) == sum(apart.record.contributions.weights)


# What the coordinator learns.


def strings(value):
    """All text in a value, wherever it lies."""
    if isinstance(value, str):
        yield value
    elif is_dataclass(value):
        for field in fields(value):
            yield from strings(getattr(value, field.name))
    elif isinstance(value, dict):
        yield from (text for pair in value.items() for item in pair for text in strings(item))
    elif isinstance(value, tuple | list):
        yield from (text for item in value for text in strings(item))


def asked(federation):
    """A published brief of the first round, with all that the groups answer to it."""
    brief = federation.strategy.brief(federation.start, federation.terms)
    told = publish(brief, terms=federation.terms, wave="all")
    sealed = [group.fetch(group.train(group.send(told))) for group in federation.workers]
    sums = [group.evaluate(group.send(told)) for group in federation.workers]
    return brief, sealed, sums


@pytest.mark.parametrize("inner_rounds", [1, 3])
def test_the_coordinator_learns_nothing_of_a_single_member(inner_rounds):
    made = config(workers={"inner_rounds": inner_rounds})
    federation = found(made).named("quiet", attempt=1)
    held = deal(made.data, made.workers, made.model.loss, seed=made.seed).workers
    brief, refs, sums = asked(federation)
    told = {ref.owner: ref for ref in refs}
    came = admitted(told, brief, federation.terms, asked=len(told), missing={})
    total = reveal(came, brief)
    learnt = [
        *federation.descriptions, *refs, *sums, total.contributions,
        *(fetch(ref, Sealed) for ref in refs), *(fetch(ref, Contributions) for ref in sums),
    ]  # fmt: skip
    said = list(strings(learnt))
    assert any("group-2" in text for text in said)
    assert not [text for text in said for member in held if member in text]
    assert not [text for text in said for data in held.values() if data.fingerprint in text]
    assert [len(fetch(ref, Sealed).contributions) for ref in refs] == [1] * 4
    for group, description, ref, found_there in zip(
        federation.workers, federation.descriptions, refs, sums, strict=True
    ):
        mine = [held[member.id] for member in group.members]
        records = sum(len(data) for data in mine)
        assert (description.workers, description.members) == (1, {})
        assert description.records == records
        assert sum(description.labels.values()) == records
        sealed, (whole,) = fetch(ref, Sealed), fetch(found_there, Contributions)
        assert sealed.rows.shape == (1, flat(federation.start.model).numel())
        assert float(sealed.contributions.weights) == records == whole.measures["seen"]
        # No member's own weights or loss after its last training is what went up.
        for member in group.members:
            kept = [k for k in open_store(member.store).names() if k.endswith("/Sealed")]
            (newest,) = (k for k in kept if k.startswith(f"quiet/{group.id}/{inner_rounds}/"))
            own = fetch(Ref(member.id, "Sealed", member.store, newest), Sealed)
            assert not torch.allclose(own.rows, sealed.rows, atol=1e-5)
            loss, up = own.contributions.measures["loss"], sealed.contributions.measures["loss"]
            assert float(loss) < float(up)
        group.forget(brief.ticket)


@dataclass(frozen=True)
class Broken:
    """A worker whose training goes wrong."""

    worker: VirtualWorker
    error: Exception

    def __getattr__(self, name):
        return getattr(self.worker, name)

    def train(self, model):
        with self.worker.custody.guarded("train", model):
            raise self.error


def crowd(*, error=None, inner_rounds=1):
    """Six records each at five members of two groups, in which `carol` may be broken."""
    generator = torch.Generator().manual_seed(3)
    members = [
        VirtualWorker.holding(
            name,
            Dataset(torch.randn(6, 4, generator=generator), torch.arange(6) % 2, ("a", "b")),
        )
        for name in ("alice", "bob", "carol", "dave", "erin")
    ]
    if error is not None:
        members[2] = Broken(members[2], error)
    return [
        GroupWorker.of("east", members[:2], inner_rounds=inner_rounds),
        GroupWorker.of("west", members[2:], inner_rounds=inner_rounds),
    ]


SAMPLE = Dataset(torch.zeros(2, 4), torch.tensor([0, 1]), ("a", "b"))


def among(workers, **changes):
    made = parse({**BASE, **changes})
    strategy = strategy_of(made.strategy)
    return found_with(made, workers, strategy, sample=SAMPLE).named(uuid4().hex, attempt=1)


@pytest.mark.parametrize(
    ("error", "kind", "said"),
    [
        (RuntimeError("no memory"), WorkerFailed, "its code raised RuntimeError: no memory"),
        (
            WorkerUnreachable("carol is out", worker="carol", verb="train", round=1),
            WorkerUnreachable,
            "a member's answer was WorkerUnreachable",
        ),
    ],
)
def test_a_group_fails_as_one_worker_when_a_member_does(error, kind, said):
    east, west = crowd(error=error)
    federation = among([east, west])
    told = publish(
        federation.strategy.brief(federation.start, federation.terms),
        terms=federation.terms,
        wave="all",
    )
    with pytest.raises(kind) as raised:
        west.train(west.send(told))
    assert str(raised.value) == f"west in round 1, train: {said}. The global model is unchanged."
    assert "carol" not in repr(raised.value)
    assert raised.value.__cause__ is None
    assert east.train(east.send(told)).owner == "east"
    for group in (east, west):
        group.forget(told.ticket)


def test_numbers_of_a_member_that_are_not_finite_are_the_groups():
    east, west = crowd()
    bad = Dataset(torch.full((6, 4), float("nan")), torch.arange(6) % 2, ("a", "b"))
    west = GroupWorker.of("west", [*west.members, VirtualWorker.holding("mallory", bad)])
    with pytest.raises(FedroundsError, match=r"NaN or infinity in .* from west\.") as raised:
        next(rounds(among([east, west])))
    assert "mallory" not in str(raised.value)
    state = next(rounds(among([east, west], terms={"quorum": 1})))
    assert state.record.contributions.workers == ("east",)
    assert set(state.record.missing) == {"west"}


# How it works inside.


def test_a_retry_finds_the_work_done_and_forgetting_leaves_nothing_anywhere():
    workers = crowd(inner_rounds=3)
    federation = among(workers)
    calls = []
    brief, refs, _ = asked(federation)
    for group, ref in zip(workers, refs, strict=True):
        calls.append(fetch(ref, Sealed) is fetch(group.fetch(group.train(group.send(
            publish(brief, terms=federation.terms, wave="again")
        ))), Sealed))  # fmt: skip
        group.forget(brief.ticket)
    assert calls == [True, True]
    every = [each.store for group in workers for each in (group, *group.members)]
    left = [key for store in every for key in open_store(store).names()]
    assert not [key for key in left if key.startswith(brief.ticket.run)]


def test_inner_rounds_count_on_so_that_no_two_draw_the_same_batches():
    told = []
    workers = crowd(inner_rounds=3)
    member = workers[0].members[0]
    real = VirtualWorker.train

    def listening(worker, model):
        if worker.id == member.id:
            told.append((model.ticket.run, model.ticket.round))
        return real(worker, model)

    federation = among(workers, rounds=2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(VirtualWorker, "train", listening)
        assert len(list(rounds(federation))) == 2
    run = f"{federation.terms.run}/east"
    assert told == [(run, number) for number in range(1, 7)]


@dataclass
class Elsewhere:
    """Pickles what it is given, as a cluster would."""

    count: int = 2

    def call(self, verb, ref):
        verb, ref = pickle.loads(pickle.dumps((verb, ref)))
        return verb(ref)


def test_groups_work_in_another_process_over_files_with_the_same_bits(tmp_path):
    made = config(workers={"inner_rounds": 2}, rounds=2)
    here = last(made)
    federation = found(made, stores=f"file://{tmp_path}/")
    placed = [Placed(worker, Elsewhere()) for worker in federation.workers]
    terms = replace(federation.terms, shared=f"file://{tmp_path}/coordinator")
    away = replace(federation, workers=placed, terms=terms).named("away", attempt=1)
    *_, there = rounds(away)
    assert there.model.digest == here.model.digest
    left = [path.name for path in tmp_path.rglob("away*") if path.parent.name != "coordinator"]
    assert left == []


def test_a_group_may_hold_groups_and_cohorts():
    """Everybody in one group of one inner round is FedAvg, however they are nested."""
    made = config("virtual")
    dealt = deal(made.data, made.workers, made.model.loss, seed=made.seed)
    workers = [VirtualWorker.holding(id, data) for id, data in dealt.workers.items()]
    tail = CohortWorker.holding("tail", dealt.holdings.part(range(5, 9)))
    inner = GroupWorker.of("inner", workers[2:5])
    tree = GroupWorker.of("tree", [workers[0], workers[1], inner, tail])
    strategy = strategy_of(made.strategy)
    federation = found_with(made, [tree], strategy, sample=dealt.sample, test=dealt.test)
    *_, nested_state = rounds(federation.named(uuid4().hex, attempt=1))
    apart = last(made)
    torch.testing.assert_close(flat(nested_state.model), flat(apart.model), rtol=1e-5, atol=2e-6)
    assert nested_state.record.contributions.workers == ("tree",)


# What goes with groups.


@pytest.mark.parametrize(
    "changes",
    [
        {"strategy": {"kind": "fedavg", "aggregator": {"kind": "coordinate_median"}}},
        {"strategy": {"kind": "fedavg", "aggregator": {"kind": "krum", "faulty": 0}}},
        {"strategy": {"kind": "sequential"}},
        {"sampling": {"kind": "uniform", "count": 2}},
        {"workers": {"inner_rounds": 2}, "strategy": {"kind": "fedyogi"}},
    ],
    ids=str,
)
def test_it_learns(changes):
    state = last(config(**changes))
    assert state.record.metrics["test_accuracy"] > 0.25  # ten digits
    assert state == replace(last(config(**changes)), record=state.record)


def test_an_aggregator_over_groups_is_one_of_their_means():
    """The median of what four groups say, each by itself."""
    made = config(
        rounds=1, strategy={"kind": "fedavg", "aggregator": {"kind": "coordinate_median"}}
    )
    federation = found(made).named(uuid4().hex, attempt=1)
    _, refs, _ = asked(federation)
    rows = torch.cat([fetch(ref, Sealed).rows for ref in refs]).double().sort(dim=0).values
    expected = (rows[1] + rows[2]) / 2
    torch.testing.assert_close(flat(last(made).model).double(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"strategy": {"kind": "scaffold"}}, "given: scaffold; choose fedavg"),
        ({"strategy": {"kind": "feddyn"}}, "given: feddyn;"),
        ({"strategy": {"kind": "fednova"}}, "given: fednova;"),
        ({"strategy": {"kind": "qfedavg"}}, "given: qfedavg;"),
        ({"strategy": {"kind": "ditto"}}, "given: ditto; .*or set workers.kind virtual"),
        ({"strategy": {"kind": "fedper"}}, "given: fedper with tensors that stay"),
        (
            {"strategy": {"kind": "fedavg", "exchange": ["0.*"]}},
            "given: fedavg with tensors that stay",
        ),
        ({"workers": {"groups": 5}}, "each has 2 of the 9 members; given: 5; lower it"),
        ({"sampling": {"kind": "uniform", "count": 5}}, "sampling.count .* 4; given: 5"),
        ({"terms": {"quorum": 5}}, "at most the 4 workers asked"),
    ],
)
def test_what_does_not_go_with_groups_is_refused(changes, said):
    with pytest.raises(Incompatible, match=said):
        found(config(**changes))


def test_a_group_of_one_or_of_namesakes_is_refused():
    east, west = crowd()
    for members in (east.members[:1], [east.members[0], east.members[0]], []):
        with pytest.raises(Incompatible, match=r"at least 2 members of distinct names.*in north"):
            GroupWorker.of("north", members)
    assert len(GroupWorker.of("north", [east, west]).members) == 2


def test_members_whose_records_do_not_match_are_refused():
    (east, _) = crowd()
    odd = VirtualWorker.holding("odd", Dataset(torch.zeros(2, 9), torch.tensor([0, 1]), ("a", "b")))
    mixed = GroupWorker.of("mixed", [*east.members, odd])
    with pytest.raises(Incompatible, match=r"members of mixed.*given: \[\(4,\), \(9,\)\]"):
        mixed.describe()


def test_values_of_a_column_are_members():
    settings = {
        "data": {"source": {"kind": "digits"}},
        "workers": {"partition": {"kind": "by_column", "column": "label"}, "groups": 5},
    }
    federation = found(config(**settings))
    assert [group.id for group in federation.workers] == [f"group-{n}" for n in range(1, 6)]
    assert [len(group.members) for group in federation.workers] == [2] * 5
