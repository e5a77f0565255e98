"""Cells, their names, and the figures over seeds."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedcore.comparison import CellResult, by_case, bytes_to, mean_curve, rounds_to
from fedcore.errors import ConfigError
from fedcore.settings.cells import cells_of
from fedcore.settings.comparison import Comparison, Target, parse_comparison
from fedcore.settings.loading import replace
from tasks.comparison_table import points, shown_rows


def labels(**settings):
    return [cell.label for cell in cells_of(parse_comparison(settings))]


def test_cells_are_cases_times_grid_times_seeds_and_named_by_what_differs():
    comparison = parse_comparison(
        {
            "base": {"rounds": 4, "seed": 7, "local": {"learning_rate": 0.2}},
            "cases": [
                {"name": "fedavg"},
                {"name": "momentum", "changes": {"local": {"optimiser": {"kind": "momentum"}}}},
            ],
            "vary": {"workers.partition": [{"kind": "dirichlet", "alpha": a} for a in (0.1, 10)]},
            "seeds": 2,
            "experiment": "mine",
        }
    )
    cells = cells_of(comparison)
    assert [cell.label for cell in cells][:4] == [
        "fedavg - alpha 0.1 - seed 7",
        "fedavg - alpha 0.1 - seed 8",
        "fedavg - alpha 10 - seed 7",
        "fedavg - alpha 10 - seed 8",
    ]
    assert len(cells) == 8
    last = cells[-1]
    assert last.case == "momentum - alpha 10"
    assert last.varied == {"case": "momentum", "workers.partition": "alpha 10"}
    assert (last.config.name, last.config.experiment) == (last.label, "mine")
    assert (last.config.seed, last.config.rounds) == (8, 4)
    assert last.config.local.optimiser.kind == "momentum"
    assert last.config.local.learning_rate == 0.2, "what a case does not name stays the base's"
    assert last.config.workers.partition.alpha == 10


def test_only_what_differs_is_in_a_label():
    assert labels(seeds=1) == ["comparison"]
    assert labels(seeds=[3, 5]) == ["comparison - seed 3", "comparison - seed 5"]
    one = labels(seeds=1, vary={"rounds": [5], "strategy.kind": ["fedavg", "fedsgd"]})
    assert one == ["fedavg", "fedsgd"]
    mixed = [{"kind": "fedavg"}, {"kind": "fedprox", "mu": 0.1}, {"kind": "fedprox", "mu": 1}]
    assert labels(seeds=1, vary={"strategy": mixed}) == ["fedavg", "fedprox mu 0.1", "fedprox mu 1"]
    hidden = labels(seeds=1, vary={"model.hidden": [[64], [32, 16]]})
    assert hidden == ["hidden 64", "hidden 32 16"]


@given(
    st.lists(
        st.lists(st.integers(1, 30), max_size=30).map(tuple), min_size=2, max_size=4, unique=True
    )
)
def test_labels_tell_all_cells_apart(hidden):
    found = labels(seeds=2, vary={"model.hidden": [list(sizes) for sizes in hidden]})
    assert len(set(found)) == len(found) == 2 * len(hidden)


def test_a_grid_can_be_written_on_the_command_line():
    changed = replace(
        Comparison().model_dump(mode="json"),
        ["vary.local.learning_rate=[0.1, 0.3]", "vary.workers.partition.kind=[iid, shards]"],
    )
    comparison = parse_comparison(changed)
    assert comparison.vary == {
        "local.learning_rate": [0.1, 0.3],
        "workers.partition.kind": ["iid", "shards"],
    }
    kinds = [cell.config.workers.partition.kind for cell in cells_of(comparison)]
    assert kinds == (["iid"] * 3 + ["shards"] * 3) * 2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"vary": {"local.learning_rate": [0.1, -1]}}, r"cell 'learning_rate -1 - seed 0': local"),
        ({"vary": {"locl.epochs": [1, 2]}}, r"cell 'epochs 1 - seed 0'.*nearest: 'local'"),
        ({"vary": {"rounds": []}}, "rounds must have values"),
        ({"vary": {"rounds": [3, 3]}}, "rounds must have distinct values"),
        ({"vary": {"seed": [1, 2]}}, "seed cannot be varied"),
        ({"vary": {"rounds": 3}}, r"vary\.rounds"),
        ({"seeds": []}, "seeds must be distinct"),
        ({"seeds": [1, 1]}, "seeds must be distinct"),
        ({"cases": [{"name": "a"}, {"name": "a"}]}, "given twice: a"),
        ({"base": {"wrkers": 3}}, r"base\.wrkers: there is no such setting \(nearest: 'workers'\)"),
    ],
)
def test_what_cannot_be_compared_is_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        labels(**settings)


def cell(case, seed, accuracies, *, loss=1.0):
    rounds = len(accuracies)
    curves = {
        "train_loss": [loss] * rounds,
        "test_accuracy": accuracies,
        "round_seconds": [0.5] * rounds,
        "bytes_up": [100.0] * rounds,
        "bytes_down": [10.0] * rounds,
    }
    best = {"best_test_accuracy": max(accuracies)}
    return CellResult(case, f"{case} - seed {seed}", seed, "run", "digest", curves, best, 5)


numbers = st.floats(0, 1, allow_subnormal=False)


@given(st.lists(st.lists(numbers, min_size=3, max_size=3), min_size=2, max_size=5))
def test_means_and_deviations_are_those_of_numpy(accuracies):
    cells = [cell("a", seed, curve) for seed, curve in enumerate(accuracies)]
    (row,) = by_case(cells, None)
    ends = np.array(accuracies)
    assert row.last["test_accuracy"].mean == pytest.approx(ends[:, -1].mean())
    assert row.last["test_accuracy"].deviation == pytest.approx(ends[:, -1].std(ddof=1), abs=1e-12)
    means, deviations = mean_curve(cells, "test_accuracy")
    np.testing.assert_allclose(means, ends.mean(axis=0))
    np.testing.assert_allclose(deviations, ends.std(axis=0, ddof=1), atol=1e-12)


def test_rounds_and_bytes_to_a_target():
    target = Target(value=0.8)
    curves = cell("a", 0, [0.1, 0.8, 0.7]).curves
    assert (rounds_to(target, curves), bytes_to(target, curves)) == (2, 220)
    low = Target(metric="train_loss", reach="at_most", value=0.9)
    assert rounds_to(low, curves) is None
    assert rounds_to(Target(metric="train_loss", reach="at_most", value=1), curves) == 1
    quick, slow, never = ([0.9, 0.9, 0.9], [0.1, 0.1, 0.9], [0.1, 0.1, 0.1])
    seeds = [cell("a", n, curve) for n, curve in enumerate((quick, never, slow))]
    (row,) = by_case(seeds, target)
    assert (row.rounds_to_target, row.bytes_to_target) == (3, 330)
    (row,) = by_case([*seeds, cell("a", 3, never)], target)
    assert row.rounds_to_target is None


def test_a_loss_that_is_not_finite_is_no_number_in_the_table():
    results = [cell("comparison", 0, [0.5], loss=math.nan), cell("comparison", 1, [0.7])]
    (row,) = by_case(results, None)
    assert math.isnan(row.last["train_loss"].mean)
    cells = cells_of(parse_comparison({"seeds": 3}))
    (shown,) = shown_rows(cells, results, {cells[2].label: "no route"}, None)
    assert shown["test accuracy"] == "0.6000 ± 0.1414"
    assert shown["seeds"] == "2 of 3"
    assert shown["failed"] == "comparison - seed 2: no route"


def test_points_are_the_same_whenever_they_are_told():
    results = [cell("a", 0, [0.5, 0.7]), cell("a", 1, [0.7, 0.9])]
    told = points(results, Target(value=0.8))
    assert ("test_accuracy/a", pytest.approx(0.6), 5, 1) in told
    assert ("rounds_to_target/a", 2, 5, 0) not in told, "one of two seeds: the median is never"
    assert told == points(results, Target(value=0.8))
