"""Simulated workers, many behind one handle, give what as many virtual workers give."""

import pytest
import torch

from fedcore.admission import admitted
from fedcore.data import deal
from fedcore.errors import Incompatible
from fedcore.federation import found, found_with
from fedcore.rounds import publish, reveal
from fedcore.selection import choose
from fedcore.settings import parse
from fedcore.simulation import simulate
from fedcore.store import fetch
from fedcore.strategies import fedavg
from fedcore.trees import Layout
from fedcore.values import Contributions, Sealed
from fedcore.workers import CohortWorker, VirtualWorker

BASE = {
    "rounds": 3,
    "model": {"kind": "mlp", "hidden": [12]},
    "local": {"epochs": 2, "batch_size": 8, "learning_rate": 0.1},
}


def config(kind, **changes):
    workers = {"kind": kind, "count": 24, "partition": {"kind": "dirichlet", "alpha": 0.7}}
    workers |= changes.pop("workers", {})
    return parse({**BASE, "workers": workers, **changes})


def flat(model):
    return Layout.of(model.averaged).flatten(model.averaged)


@pytest.mark.parametrize("hosts", [1, 3, 10, 24])
@pytest.mark.parametrize("sampling", [{"kind": "all"}, {"kind": "uniform", "count": 7}])
@pytest.mark.parametrize("strategy", ["fedavg", "fedsgd", "fedprox"])
def test_simulated_workers_train_as_virtual_ones_do(hosts, sampling, strategy):
    changes = {"sampling": sampling, "strategy": {"kind": strategy}}
    virtual = list(simulate(config("virtual", **changes)))
    simulated = list(simulate(config("simulated", workers={"hosts": hosts}, **changes)))
    for one, two in zip(virtual, simulated, strict=True):
        torch.testing.assert_close(flat(two.model), flat(one.model), rtol=1e-5, atol=1e-6)
        mine, theirs = one.record, two.record
        assert mine.contributions.workers == theirs.contributions.workers
        assert torch.equal(mine.contributions.weights, theirs.contributions.weights)
        torch.testing.assert_close(
            theirs.contributions.train_losses,
            mine.contributions.train_losses,
            rtol=1e-5,
            atol=1e-7,
        )
        assert theirs.metrics["test_accuracy"] == mine.metrics["test_accuracy"]
        assert theirs.metrics["bytes_up"] == mine.metrics["bytes_up"]


def test_the_same_settings_give_the_same_bits():
    one, two = (list(simulate(config("simulated")))[-1].model.digest for _ in range(2))
    assert one == two


@pytest.mark.parametrize(("hosts", "shares"), [(1, [7]), (2, [3, 4]), (3, [2, 2, 3]), (9, [1] * 7)])
def test_hosts_share_those_drawn_evenly_and_one_without_a_share_is_not_asked(hosts, shares):
    made = config("simulated", workers={"hosts": hosts}, sampling={"kind": "uniform", "count": 7})
    federation = found(made).named("shared", attempt=1)
    brief = federation.strategy.brief(federation.start, federation.terms)
    asked = choose(federation.workers, federation.terms, federation.start)
    ref = publish(brief, terms=federation.terms, wave="x")
    told = [
        fetch(host.fetch(host.train(host.send(ref))), Sealed).contributions.workers
        for host in asked
    ]
    for host in asked:
        host.forget(brief.ticket)
    assert [len(workers) for workers in told] == shares
    names = list(deal(made.data, made.workers, made.model.loss, seed=made.seed).parts)
    drawn = [names[place] for place in brief.chosen.tolist()]
    assert [name for workers in told for name in workers] == drawn


def test_a_host_of_one_worker_is_asked_when_it_is_drawn():
    made = config("simulated", workers={"hosts": 24}, sampling={"kind": "uniform", "count": 2})
    federation = found(made)
    asked = [worker.id for worker in choose(federation.workers, federation.terms, federation.start)]
    virtual = found(config("virtual", sampling={"kind": "uniform", "count": 2}))
    drawn = [worker.id for worker in choose(virtual.workers, virtual.terms, virtual.start)]
    assert [id.removeprefix("host-") for id in asked] == [
        id.removeprefix("worker-") for id in drawn
    ]


@pytest.mark.parametrize("answer", ["rows", "sum"])
def test_a_host_answers_with_what_the_aggregator_needs(answer):
    from dataclasses import replace

    federation = found(config("simulated")).named("asked", attempt=1)
    (host,) = federation.workers
    brief = federation.strategy.brief(federation.start, federation.terms)
    assert brief.answer == "sum"
    ref = publish(replace(brief, answer=answer), terms=federation.terms, wave="x")
    update = host.fetch(host.train(host.send(ref)))
    sealed = fetch(update, Sealed)
    size = flat(federation.start.model).numel()
    if answer == "rows":
        assert sealed.sums is None
        assert sealed.rows.shape == (24, size)
    else:
        assert sealed.rows is None
        assert sealed.sums.shape == (1, size)
    asked = replace(brief, answer=answer)
    answers = {host.id: update}
    total = reveal(admitted(answers, asked, federation.terms, asked=1, missing={}), asked)
    assert len(total.contributions) == 24
    host.forget(brief.ticket)


def test_a_host_describes_all_its_workers_together():
    federation = found(config("simulated", workers={"hosts": 2}))
    virtual = found(config("virtual"))
    hosts = [worker.describe() for worker in federation.workers]
    each = [worker.describe() for worker in virtual.workers]
    assert [d.workers for d in hosts] == [12, 12]
    assert sum(d.records for d in hosts) == sum(d.records for d in each)
    for label in each[0].labels:
        assert sum(d.labels[label] for d in hosts) == sum(d.labels[label] for d in each)
    assert federation.terms.workers == 24


@pytest.mark.parametrize("hosts", [1, 5])
def test_hosts_evaluate_on_every_workers_records_once(hosts):
    made = found(config("simulated", workers={"hosts": hosts}))
    virtual = found(config("virtual"))
    sums = []
    for federation in (made, virtual):
        federation = federation.named("measured", attempt=1)
        brief = federation.strategy.brief(federation.start, federation.terms)
        ref = publish(brief, terms=federation.terms, wave="x")
        found_there = Contributions.joined(
            fetch(worker.evaluate(worker.send(ref)), Contributions) for worker in federation.workers
        )
        assert len(found_there) == 24
        for worker in federation.workers:
            worker.forget(brief.ticket)
        sums.append({n: sum(c.measures[n] for c in found_there) for n in ("seen", "accuracy")})
    assert sums[0] == sums[1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"strategy": {"kind": "sequential"}}, "sequential over simulated.*workers.kind virtual"),
        ({"workers": {"hosts": 25}}, "workers.hosts must be at most .* 24; given: 25"),
        ({"terms": {"quorum": 3}}, "terms.quorum must be 0 for simulated"),
        ({"sampling": {"kind": "uniform", "count": 25}}, "sampling.count .* 24; given: 25"),
    ],
)
def test_what_does_not_go_with_simulated_workers_is_refused(changes, message):
    with pytest.raises(Incompatible, match=message):
        found(config("simulated", **changes))


def test_hosts_that_do_not_share_all_workers_of_a_training_are_refused():
    made = config("simulated")
    dealt = deal(made.data, made.workers, made.model.loss, seed=made.seed)
    one, two = CohortWorker.sharing(["one", "two"], dealt.holdings)
    bob = VirtualWorker.holding("bob", dealt.test)
    for workers in ([one], [one, two, bob]):
        with pytest.raises(Incompatible, match=r"must share all workers.*train them apart"):
            found_with(made, workers, fedavg(), sample=dealt.sample)


def test_quantiles_of_the_workers_losses_are_told_of_more_than_fifty():
    (state,) = simulate(
        config("simulated", rounds=1, workers={"count": 60, "partition": {"kind": "iid"}})
    )
    losses = state.record.contributions.train_losses
    for q in (10, 50, 90):
        assert state.record.metrics[f"train_loss_p{q}"] == pytest.approx(
            float(torch.quantile(losses, q / 100))
        )
    (few,) = simulate(config("simulated", rounds=1))
    assert "train_loss_p50" not in few.record.metrics


def test_histories_of_a_crowd_are_columns_and_small():
    """A hundred thousand workers: what a round keeps grows with those asked, not with them."""
    crowd = {"count": 1000, "partition": {"kind": "iid"}}
    made = config("simulated", workers=crowd, sampling={"kind": "uniform", "count": 100}, rounds=1)
    (state,) = simulate(made)
    assert len(state.record.contributions) == 100
    assert state.record.contributions.weights.dtype == torch.float64
