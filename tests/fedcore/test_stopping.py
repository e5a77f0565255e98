"""A training ends early when it is good enough, no longer gets better, or has had its time."""

import pytest

from fedcore.contributions import Contributions
from fedcore.settings import StopSettings, parse
from fedcore.simulation import simulate
from fedcore.stopping import why_stop
from fedcore.values import RoundRecord


def history(*values, metric="test_loss", seconds=30.0):
    return [
        RoundRecord(
            round,
            0,
            {"round_seconds": seconds, **({} if value is None else {metric: value})},
            Contributions(),
        )
        for round, value in enumerate(values, start=1)
    ]


@pytest.mark.parametrize(
    ("settings", "records", "why"),
    [
        ({}, history(1.0, 2.0, 3.0), ""),
        ({"patience": 2}, [], ""),
        ({"patience": 2}, history(3.0, 1.0, 1.5), ""),
        ({"patience": 2}, history(3.0, 1.0, 1.5, 1.0), "has not improved for 2 rounds; it was 1"),
        ({"patience": 2}, history(3.0, 1.0, 1.5, 0.9), ""),
        ({"patience": 2, "least_change": 0.2}, history(3.0, 1.0, 1.5, 0.9), "has not improved"),
        ({"patience": 2}, history(3.0, 1.0, None, None), ""),
        ({"target": 1.0}, history(3.0, 1.0), "test_loss reached 1, the target being 1"),
        ({"target": 0.9}, history(3.0, 1.0), ""),
        (
            {"metric": "test_accuracy", "target": 0.9},
            history(0.5, 0.93, metric="test_accuracy"),
            "test_accuracy reached 0.93, the target being 0.9",
        ),
        ({"metric": "test_accuracy", "target": 0.9}, history(0.8, metric="test_accuracy"), ""),
        (
            {"metric": "test_accuracy", "patience": 1},
            history(0.8, 0.7, metric="test_accuracy"),
            "it was 0.8 in round 1",
        ),
        ({"minutes": 1.0}, history(1.0), ""),
        ({"minutes": 1.0}, history(1.0, 1.0), "the rounds took 1.0 of 1 minutes"),
    ],
)
def test_why(settings, records, why):
    found = why_stop(StopSettings(**settings), records)
    assert why in found
    assert bool(why) == bool(found)


def test_a_training_ends_in_the_round_that_reaches_the_target():
    config = parse({"rounds": 30, "stop": {"metric": "test_accuracy", "target": 0.9}})
    reached = [state.record.metrics["test_accuracy"] for state in simulate(config)]
    assert len(reached) < 30
    assert reached[-1] >= 0.9 > max(reached[:-1])
