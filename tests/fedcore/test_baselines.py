"""What the papers say of their algorithms, at a tenth of the size.

A part of what `python -m tests.benchmarks.baselines` measures for docs/baselines.md.
"""

import statistics
from functools import cache
from itertools import pairwise

import pytest

from fedcore.simulation import rounds
from fedcore.strategies import fedavg, fedprox
from tests.benchmarks.heterogeneity import curve, training
from tests.benchmarks.rounds_to_target import DIGITS, Cell, reached

LENGTH, EPOCHS, LAST = 15, 10, 5


@cache
def made(data, mu, stragglers=0.0, dropped=False):
    strategy = fedavg() if mu is None else fedprox(mu=mu)
    federation = training(
        data, strategy, stragglers=stragglers, dropped=dropped, length=LENGTH, epochs=EPOCHS
    )
    return curve(federation)


def loss(points):
    return statistics.fmean(point.loss for point in points[-LAST:])


def dissimilarity(points):
    return statistics.fmean(point.dissimilarity for point in points[-LAST:])


def rises(points):
    """How much the loss goes up again, all in all."""
    return sum(max(0.0, after.loss - before.loss) for before, after in pairwise(points))


def test_workers_that_differ_more_are_harder_to_serve():
    alike, unlike = (made(data, None) for data in ("(0, 0)", "(1, 1)"))
    assert loss(unlike) > 1.2 * loss(alike)
    assert dissimilarity(unlike) > 2 * dissimilarity(alike)


def test_a_pull_makes_them_converge_further_and_steadier():
    free, held = (made("(1, 1)", mu) for mu in (None, 1.0))
    assert loss(held) < 0.95 * loss(free)
    assert dissimilarity(held) < dissimilarity(free)
    assert rises(held) < 0.5 * rises(free)


def test_partial_work_is_worth_more_than_none():
    dropped, taken = made("(1, 1)", None, 0.9, True), made("(1, 1)", 0.0, 0.9)
    assert loss(taken) < 0.7 * loss(dropped)
    assert rises(taken) < 0.5 * rises(dropped)


def test_stragglers_do_less_and_the_others_are_those_who_stay_when_they_are_dropped():
    full, late, alone = (
        steps(stragglers=share, dropped=dropped)
        for share, dropped in ((0.0, False), (0.5, False), (0.5, True))
    )
    assert (len(full), len(late), len(alone)) == (10, 10, 5)
    assert alone.items() == {k: n for k, n in late.items() if n == full[k]}.items()
    assert all(20 * n % full[k] == 0 for k, n in late.items()), "whole epochs"


def steps(**late):
    """Local steps by worker in the first round."""
    state = next(rounds(training("(0, 0)", fedavg(), length=1, **late)))
    return {each.worker: each.measures["steps"] for each in state.record.contributions}


@pytest.mark.parametrize(("partition", "gain"), [("IID", 5), ("non-IID", 2)])
def test_local_steps_save_rounds(partition, gain):
    fedsgd, local = (
        reached(DIGITS, cell, partition, rate=0.3) for cell in (Cell(1, 0, 400), Cell(5, 10, 100))
    )
    assert fedsgd > gain * local


def test_workers_with_two_classes_each_need_more_rounds():
    iid, shards = (reached(DIGITS, Cell(5, 10, 100), p, rate=0.3) for p in ("IID", "non-IID"))
    assert shards > 1.5 * iid
