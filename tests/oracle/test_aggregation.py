"""The fast forms of aggregators agree with plain loops, ties, duplicates and outliers included."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedcore.aggregators import (
    Context,
    bucketing,
    bulyan,
    centred_clipping,
    coordinate_median,
    fltrust,
    geometric_median,
    krum,
    mean_around_median,
    multi_krum,
    nearest_neighbour_mixing,
    norm_bounding,
    trimmed_mean,
    weighted_mean,
)
from fedcore.aggregators.distances import squared_distances
from tests.oracle import aggregation as loops

OUTLIERS = st.sampled_from([1e6, -1e6, 1e6 + 1])


@st.composite
def cases(draw):
    """Rows, weights, faulty, seed: at least 4 f + 3 rows, some of them copies, up to f outliers.

    Values are normal, or lie on a grid: there sums and squares are exact, so what is equal on
    paper is equal in any order of adding, and ties are broken by the rule and not by rounding.
    """
    faulty, columns = draw(st.integers(0, 2)), draw(st.integers(1, 4))
    count = draw(st.integers(4 * faulty + 3, 4 * faulty + 6))
    seed = draw(st.integers(0, 10**6))
    generator = torch.Generator().manual_seed(seed)
    if draw(st.booleans()):
        rows = torch.randn(count, columns, generator=generator, dtype=torch.float64).tolist()
    else:
        coarse = draw(st.integers(1, 24))
        rows = torch.randint(-coarse, coarse + 1, (count, columns), generator=generator) / 8
        rows = rows.tolist()
    places = st.integers(0, count - 1)
    for _ in range(draw(st.integers(0, 3))):
        rows[draw(places)] = list(rows[draw(places)])
    for _ in range(draw(st.integers(0, faulty))):
        rows[draw(places)] = [draw(OUTLIERS) for _ in range(columns)]
    weights = draw(st.lists(st.integers(1, 300).map(float), min_size=count, max_size=count))
    return rows, weights, faulty, seed


def same(fast, slow, *, scale=1.0):
    torch.testing.assert_close(
        fast, torch.tensor(slow, dtype=torch.float64), rtol=1e-6, atol=1e-6 * scale
    )


@settings(max_examples=200, deadline=None, derandomize=True)
@given(cases())
def test_the_fast_forms_agree_with_the_loops(case):
    rows, weights, f, seed = case
    r, w = torch.tensor(rows, dtype=torch.float64), torch.tensor(weights, dtype=torch.float64)
    largest = max(1.0, float(r.abs().max()))
    context = Context(round=3, seed=seed, previous=r[0], trusted=r[0])

    same(weighted_mean(r, w), loops.weighted_mean(rows, weights), scale=largest)
    same(coordinate_median()(r, w), loops.coordinate_median(rows))
    same(trimmed_mean(faulty=f)(r, w), loops.trimmed_mean(rows, faulty=f))
    same(
        mean_around_median(faulty=f)(r, w),
        loops.mean_of_nearest(rows, keep=len(rows) - f),
    )
    for smoothing, iterations in ((0.1, 3), (1e-3, 30)):
        same(
            geometric_median(smoothing=smoothing, iterations=iterations)(r, w),
            loops.geometric_median(rows, weights, smoothing=smoothing, iterations=iterations),
        )
    same(
        centred_clipping(radius=1.5, iterations=3)(r, w, context),
        loops.centred_clipping(rows, rows[0], radius=1.5, iterations=3),
    )
    for bound in (None, 0.7):
        same(norm_bounding(bound=bound)(r, w), loops.norm_bounding(rows, weights, bound=bound))
    same(fltrust()(r, w, context), loops.fltrust(rows, rows[0]))
    same(
        bucketing(weighted_mean, size=2)(r, w, context),
        loops.bucketed(rows, weights, loops.weighted_mean, size=2, seed=seed, round=3),
        scale=largest,
    )
    same(krum(faulty=f)(r, w), loops.krum(rows, faulty=f))
    for keep in (None, 2):
        same(
            multi_krum(faulty=f, keep=keep)(r, w),
            loops.multi_krum(rows, faulty=f, keep=keep or len(rows) - f),
            scale=largest,
        )
    same(bulyan(faulty=f)(r, w), loops.bulyan(rows, faulty=f))
    mixed = loops.mixed(rows, faulty=f)
    same(
        nearest_neighbour_mixing(weighted_mean, faulty=f)(r, w),
        loops.weighted_mean(mixed, weights),
        scale=largest,
    )
    same(
        nearest_neighbour_mixing(trimmed_mean(faulty=f), faulty=f)(r, w),
        loops.trimmed_mean(mixed, faulty=f),
    )


@settings(max_examples=150, deadline=None, derandomize=True)
@given(cases(), st.sampled_from([0.0, 1e8]))
def test_distances_keep_their_digits_beside_outliers_and_far_from_zero(case, shift):
    rows, _, _, _ = case
    measured_well([[v + shift for v in row] for row in rows])


def test_distances_keep_their_digits_in_a_cluster_within_a_cluster():
    far, near = 1e10, 1e5
    measured_well([[far + near], *([far + v] for v in (0.1, 0.3, 0.7, 1.9)), [-far]])


def measured_well(rows):
    found = squared_distances(torch.tensor(rows, dtype=torch.float64))
    assert torch.equal(found, found.T)
    for i, left in enumerate(rows):
        for j, right in enumerate(rows):
            wanted = loops.squared_distance(left, right)
            assert float(found[i, j]) == pytest.approx(wanted, rel=1e-8, abs=1e-20)
