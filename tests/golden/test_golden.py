"""Golden numbers: what seeded trainings gave when they were last looked at.

A change that should not alter results must not move them. Across processors the last bits of a
sum may differ, so they are compared to three digits; within one machine runs are bit-identical
(tests/flows/test_command.py).
"""

import statistics
from pathlib import Path

import pytest

from fedcore.settings import configured
from fedcore.simulation import simulate

DIGITS = Path(__file__).parents[2] / "deployments/configs/digits.yaml"
SMALL = ["rounds=2", "workers.count=3", "local.epochs=1"]

LOSSES = {
    "fedavg": [1.52819, 0.724954],
    "fedsgd": [2.2905, 2.26852],
    "fedprox": [1.81043, 1.09927],
    "sequential": [0.971584, 0.492531],
}


def losses(kind):
    config = configured(DIGITS, [*SMALL, f"strategy.kind={kind}"])
    return [state.record.metrics["test_loss"] for state in simulate(config)]


@pytest.mark.parametrize("kind", LOSSES)
def test_two_rounds_of_digits(kind):
    assert losses(kind) == pytest.approx(LOSSES[kind], rel=1e-3)


def test_the_main_job_learns_digits():
    """At least 95 % of the test records after at most 12 rounds: the median over three seeds."""
    reached = []
    for seed in range(3):
        *_, last = simulate(configured(DIGITS, [f"seed={seed}"]))
        assert last.round <= 12
        reached.append(last.record.metrics["test_accuracy"])
    assert statistics.median(reached) >= 0.95, reached
