"""Ten workers of whom two attack: which aggregators hold, and that a mean does not.

A part of what `python -m tests.benchmarks.robustness` measures for docs/robustness.md.
"""

import pytest

from tests.benchmarks.robustness import RULES, reached

# Bulyan bears one of ten. Krum learns from one worker a round, FLTrust from as many records as the
# coordinator has: they hold what they reach.
HOLDING = sorted(set(RULES) - {"weighted_mean", "bulyan, told 1", "krum", "fltrust"})


def test_a_mean_is_carried_away():
    assert reached("weighted_mean", "none", "iid") > 0.95
    assert reached("weighted_mean", "sign flip x 10", "iid") <= 0.2
    assert reached("weighted_mean", "gaussian", "iid") < 0.93


@pytest.mark.parametrize("attack", ["sign flip x 10", "gaussian"])
@pytest.mark.parametrize("rule", HOLDING)
def test_a_robust_rule_holds_among_equal_workers(rule, attack):
    assert reached(rule, attack, "iid") >= 0.95


@pytest.mark.parametrize("rule", ["bulyan, told 1", "krum", "fltrust"])
def test_the_others_hold_what_they_reach(rule):
    assert reached(rule, "sign flip x 10", "iid") >= 0.9


def test_mixing_holds_among_unequal_workers():
    alone, mixed = (
        reached(rule, "sign flip x 10", "dirichlet(0.3)")
        for rule in ("trimmed_mean", "mixing, trimmed_mean")
    )
    assert alone < 0.93 < mixed
