"""Partial exchange: only adapters travel, as docs/personal-and-partial.md shows it."""

import re
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import pytest
import torch

from fedcore.errors import ConfigError
from fedcore.federation import found
from fedcore.models import build
from fedcore.participation import whole
from fedcore.remembering import Remembered
from fedcore.rounds import publish
from fedcore.settings import parse
from fedcore.simulation import rounds
from fedcore.store import fetch, open_store
from fedcore.trees import same
from fedcore.values import Brief, Sealed

PAGE = Path(__file__).parents[2] / "docs/personal-and-partial.md"
(MODULE,) = re.findall(r"`adapters\.py`:\n\n```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
LORA = {"first.lora_a", "first.lora_b", "last.lora_a", "last.lora_b"}
BASE = {"first.base.weight", "first.base.bias", "last.base.weight", "last.base.bias"}


@pytest.fixture(autouse=True)
def module(tmp_path, monkeypatch):
    (tmp_path / "adapters.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)


def config(exchange=("*.lora_*",), *, norm=False, **changes):
    return parse(
        {
            "rounds": 3,
            "model": {"kind": "custom", "entrypoint": "adapters:Net", "arguments": {"norm": norm}},
            "local": {"learning_rate": 0.05, "epochs": 2},
            "workers": {"kind": "virtual", "count": 4},
            "strategy": {"kind": "fedavg", "exchange": list(exchange)},
            **changes,
        }
    )


def trained(config):
    """The federation and its states, the first one included."""
    federation = found(config).named(uuid4().hex, attempt=1)
    return federation, [federation.start, *rounds(federation)]


def memory_of(federation, worker, *, round):
    return open_store(f"live:{federation.terms.run}/memory").get(
        f"{worker}/{round:07d}", Remembered
    )


def only(names, model):
    return {name: model.tensors[name] for name in names}


def test_adapters_start_by_changing_nothing():
    """Hu et al. 2022, section 4.1: B is zero, so the model begins as the base."""
    net = build(found(config()).terms.blueprint)
    features = torch.randn(3, 64)
    plain = net.last.base(net.first.base(features).tanh())
    assert torch.equal(net(features), plain)


@pytest.mark.parametrize("norm", [False, True])
def test_nothing_but_adapters_crosses_in_either_direction(norm):
    federation = found(config(norm=norm)).named(uuid4().hex, attempt=1)
    brief = federation.strategy.brief(federation.start, federation.terms)
    told = publish(brief, terms=federation.terms, wave="all")
    assert fetch(told, Brief).model.names == LORA
    size = sum(tensor.numel() for tensor in brief.model.tensors.values())
    for worker in federation.workers:
        sealed = fetch(worker.fetch(worker.train(worker.send(told))), Sealed)
        assert sealed.rows.shape == (1, size)
        worker.forget(brief.ticket)


def test_the_bytes_that_are_told_are_those_of_the_adapters():
    _, states = trained(config(rounds=1))
    _, everything = trained(config(exchange=(), rounds=1))
    rank, each = 4, 4  # of the adapters, and bytes of a float32
    adapters = rank * (64 + 128) + rank * (128 + 10)
    base = (64 + 1) * 128 + (128 + 1) * 10
    for name in ("bytes_up", "bytes_down"):
        assert states[-1].record.metrics[name] == 4 * each * adapters
        assert everything[-1].record.metrics[name] == 4 * each * (adapters + base)


def test_it_is_the_training_in_which_everything_travels_and_the_base_is_frozen():
    federation, states = trained(config())
    _, everything = trained(config(exchange=()))
    for one, other in zip(states, everything, strict=True):
        assert same(only(LORA, one.model), only(LORA, other.model))
        assert same(only(BASE, one.model), only(BASE, federation.start.model))
        assert one.record is None or one.record.metrics["test_loss"] == pytest.approx(
            other.record.metrics["test_loss"]
        )
    assert not same(only(LORA, states[0].model), only(LORA, states[-1].model))


def test_the_base_is_the_same_bits_at_everybody_and_nobody_keeps_a_copy_of_it():
    federation, states = trained(config())
    brief = federation.strategy.brief(states[-1], federation.terms)
    for worker in federation.workers:
        remembered = memory_of(federation, worker.id, round=3)
        assert remembered == Remembered()
        used = whole(brief, remembered)
        assert same(only(BASE, used), only(BASE, states[-1].model))
        assert used == states[-1].model


def test_what_is_trained_and_does_not_travel_is_each_workers_own():
    federation, states = trained(config(norm=True))
    start, end = states[0].model, states[-1].model
    norm = ("norm.weight", "norm.bias")
    assert same(only(norm, end), only(norm, start))
    own = [memory_of(federation, worker.id, round=3).own for worker in federation.workers]
    assert [set(tensors) for tensors in own] == [set(norm)] * 4
    kept = [tensors["norm.weight"] for tensors in (start.tensors, *own)]
    assert len({tuple(weight.tolist()) for weight in kept}) == 5


@pytest.mark.parametrize("kind", ["virtual", "simulated"])
def test_who_is_not_asked_goes_on_from_where_its_own_part_was(kind):
    """Rounds in which others trained leave a worker's own tensors alone."""
    sampling = {"kind": "uniform", "count": 2}
    made = config(norm=True, sampling=sampling, workers={"kind": kind, "count": 4}, rounds=4)
    federation, states = trained(made)
    last = {}
    for state in states[1:]:
        last |= dict.fromkeys(state.record.contributions.workers, state.round)
    assert dict(states[-1].recall) == last
    assert len(set(last.values())) > 1
    for worker, round in last.items():
        assert set(memory_of(federation, worker, round=round).own) == {"norm.weight", "norm.bias"}


def test_weight_decay_does_not_reach_a_frozen_base():
    local = {"learning_rate": 0.05, "epochs": 2, "weight_decay": 0.1}
    federation, states = trained(config(local=local))
    assert same(only(BASE, states[-1].model), only(BASE, federation.start.model))
    assert all(
        memory_of(federation, worker.id, round=3) == Remembered() for worker in federation.workers
    )


@pytest.mark.parametrize(
    ("exchange", "said"),
    [
        (["*.lora_c"], r"Every pattern .* must match a tensor; given: \*\.lora_c, and first\.lora"),
        (["*.lora_*", "nomr.*"], r"given: nomr\.\*, and"),
        (["*"], r"must leave out some tensor; given: all of .*leave strategy\.exchange out"),
        (["*.base.*"], r"Some parameter that is trained must travel; given: none of"),
    ],
)
def test_patterns_that_make_no_sense_are_refused(exchange, said):
    with pytest.raises(ConfigError, match=said):
        found(config(exchange))


def test_a_memory_says_nothing_of_another_attempt():
    """A worker whose own part was learnt in a round that did not count starts as it was before."""
    federation, states = trained(config(norm=True, rounds=1))
    brief = federation.strategy.brief(states[-1], federation.terms)
    worker = federation.workers[0].id
    void = replace(brief, recall={})
    kept = federation.workers[0].memory.recall(void, [worker])[0]
    assert whole(brief, kept).tensors["norm.weight"].unique().tolist() == [1.0]
    (counts,) = federation.workers[0].memory.recall(brief, [worker])
    assert len(whole(brief, counts).tensors["norm.weight"].unique()) > 1
