"""Fairness figures, against their definitions in plain Python."""

import statistics

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedcore.fairness import fairness, jain, spread, worst

VALUES = st.lists(st.floats(0.0, 1e6), min_size=1, max_size=60)


@given(VALUES)
def test_they_are_what_the_papers_define(values):
    found = fairness(torch.tensor(values, dtype=torch.float64), better="higher")
    count = max(1, len(values) // 10)
    assert found["worst"] == pytest.approx(statistics.fmean(sorted(values)[:count]))
    assert found["spread"] == pytest.approx(statistics.pstdev(values), rel=1e-6, abs=1e-6)
    squares = sum(v * v for v in values)
    if squares > 1e-200:
        assert found["jain"] == pytest.approx(sum(values) ** 2 / (len(values) * squares))


@pytest.mark.parametrize("scale", [1e-300, 1.0, 1e300])
def test_jains_index_does_not_know_the_unit(scale):
    """Jain et al. 1984, section 3: of four users one of whom has all, 1 / 4."""
    assert jain(scale * torch.tensor([1.0, 0, 0, 0], dtype=torch.float64)) == 0.25
    assert jain(scale * torch.tensor([1.0, 1, 1, 0], dtype=torch.float64)) == pytest.approx(0.75)
    assert jain(torch.zeros(3)) == 1.0


def test_of_losses_the_largest_are_the_worst():
    losses = torch.arange(25.0)
    assert worst(losses, better="lower") == 23.5
    assert worst(losses, better="higher") == 0.5
    assert spread(torch.tensor([1.0, 3.0])) == 1.0
