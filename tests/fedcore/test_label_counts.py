"""Which labels each worker holds: the same table whoever stands behind the handles."""

import numpy as np
import pytest

from fedcore.data import deal
from fedcore.federation import found, pool
from fedcore.label_counts import label_counts
from fedcore.settings import parse
from fedcore.values import Description


def config(kind="virtual", *, count=24, **workers):
    workers |= {"kind": kind, "count": count}
    return parse({"model": {"kind": "mlp", "hidden": [4]}, "workers": workers})


def told(settings):
    return label_counts(found(settings).descriptions)


SKEWED = {"partition": {"kind": "dirichlet", "alpha": 0.3}}


@pytest.mark.parametrize("how", [{"kind": "virtual"}, {"kind": "simulated", "hosts": 5}])
def test_it_counts_the_records_of_every_worker_and_class(how):
    settings = config(**how, **SKEWED)
    found = told(settings)
    dealt = deal(settings.data, settings.workers, settings.model.loss, seed=settings.seed)
    assert found.workers == tuple(dealt.workers)
    assert found.classes == tuple("0123456789")
    wanted = [np.bincount(held.labels.numpy(), minlength=10) for held in dealt.workers.values()]
    assert np.array_equal(found.counts, wanted)


def test_too_many_workers_are_not_told_apart():
    at_most, too_many = (
        config("simulated", count=count, hosts=2, partition={"kind": "iid"})
        for count in (1000, 1001)
    )
    assert len(told(at_most).workers) == 1000
    assert told(too_many) is None


def test_there_is_nothing_to_compare_in_one_place():
    assert label_counts(pool(config()).descriptions) is None


def description(worker, labels, **others):
    return Description(worker, 3, (2,), labels, "f" * 64, **others)


def test_without_classes_there_is_no_table():
    assert label_counts([description("bob", {}), description("alice", {})]) is None


@pytest.mark.parametrize("silent", [{"labels": {}}, {"labels": {"0": 3}, "workers": 2}])
def test_who_does_not_tell_leaves_no_table_that_looks_complete(silent):
    workers = [description("alice", {"0": 3}), description("eve", {"0": 3})]
    assert label_counts(workers) is not None
    assert label_counts([*workers, description("bob", **silent)]) is None


def test_classes_that_only_some_have_are_none_at_the_others():
    found = label_counts([description("bob", {"a": 3}), description("alice", {"b": 1, "a": 2})])
    assert found.classes == ("a", "b")
    assert found.counts.tolist() == [[3, 0], [2, 1]]
