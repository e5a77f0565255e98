"""The contract of every aggregator, and the numbers that others got."""

import pytest
import torch

from fedcore.aggregators import (
    Context,
    bucketing,
    bulyan,
    centred_clipping,
    coordinate_median,
    fewest_rows,
    fltrust,
    geometric_median,
    krum,
    mean_around_median,
    multi_krum,
    nearest_neighbour_mixing,
    needs_trusted,
    norm_bounding,
    trimmed_mean,
    weighted_mean,
)

ALL = {
    "weighted_mean": weighted_mean,
    "coordinate_median": coordinate_median(),
    "trimmed_mean": trimmed_mean(faulty=2),
    "mean_around_median": mean_around_median(faulty=2),
    "krum": krum(faulty=2),
    "multi_krum": multi_krum(faulty=2),
    "multi_krum of 3": multi_krum(faulty=2, keep=3),
    "bulyan": bulyan(faulty=2),
    "geometric_median": geometric_median(),
    "centred_clipping": centred_clipping(radius=0.5, iterations=8),
    "norm_bounding": norm_bounding(),
    "norm_bounding by 1": norm_bounding(bound=1.0),
    "fltrust": fltrust(),
    "mixing, mean": nearest_neighbour_mixing(weighted_mean, faulty=2),
    "mixing, geometric_median": nearest_neighbour_mixing(geometric_median(), faulty=2),
    "mixing, fltrust": nearest_neighbour_mixing(fltrust(), faulty=2),
    "buckets, coordinate_median": bucketing(coordinate_median(), size=2),
    "buckets, mixing, trimmed_mean": bucketing(
        nearest_neighbour_mixing(trimmed_mean(faulty=2), faulty=2), size=2
    ),
}
FEWEST = {
    "trimmed_mean": 5,
    "mean_around_median": 5,
    "krum": 7,
    "multi_krum": 7,
    "multi_krum of 3": 7,
    "bulyan": 11,
    "mixing, mean": 5,
    "mixing, geometric_median": 5,
    "mixing, fltrust": 5,
    "buckets, mixing, trimmed_mean": 9,
}
WEIGHED = {
    "weighted_mean",
    "norm_bounding",
    "norm_bounding by 1",
    "geometric_median",
    "mixing, mean",
    "mixing, geometric_median",
}
# Where 0 is no special point: others look at norms, or start there and have not converged.
MOVE_ALONG = {
    "weighted_mean",
    "coordinate_median",
    "trimmed_mean",
    "mean_around_median",
    "krum",
    "multi_krum",
    "multi_krum of 3",
    "bulyan",
    "geometric_median",
    "mixing, mean",
    "buckets, coordinate_median",
    "buckets, mixing, trimmed_mean",
}
# Where no length is given, such as a radius; no distance here is as small as the smoothing.
GROW_ALONG = MOVE_ALONG | {
    "norm_bounding",
    "fltrust",
    "mixing, fltrust",
    "mixing, geometric_median",
}
UNBOUNDED = {"weighted_mean", "mixing, mean"}


def doubles(values):
    return torch.tensor(values, dtype=torch.float64)


def drawn(seed, *, count=11, columns=6):
    """Rows around (1, ..., 1), weights, and a context whose vectors are like the rows."""
    generator = torch.Generator().manual_seed(seed)

    def rows(number):
        noise = torch.randn(number, columns, generator=generator, dtype=torch.float64)
        return 1 + 0.3 * noise

    weights = torch.randint(1, 300, (count,), generator=generator).double()
    previous, trusted = rows(2)
    return rows(count), weights, Context(round=4, seed=seed, previous=previous, trusted=trusted)


@pytest.mark.parametrize("name", ALL)
class TestContract:
    def test_it_changes_none_of_its_arguments(self, name):
        rows, weights, context = drawn(0)
        given = [rows, weights, context.previous, context.trusted]
        before = [tensor.clone() for tensor in given]
        step = ALL[name](rows, weights, context)
        assert all(torch.equal(a, b) for a, b in zip(before, given, strict=True))
        kept = step.clone()
        rows += 1
        context.previous.add_(1)
        assert torch.equal(step, kept), "the step is the caller's own, no view of the arguments"
        assert step.dtype == torch.float64
        assert step.shape == (6,)

    def test_what_all_workers_say_is_the_step(self, name):
        row = doubles([0.3, -0.4, 0.1])
        context = Context(previous=row, trusted=row)
        step = ALL[name](row.repeat(11, 1), torch.arange(1.0, 12.0).double(), context)
        torch.testing.assert_close(step, row, rtol=1e-12, atol=1e-12)

    def test_zeros_are_a_step(self, name):
        zeros = torch.zeros(11, 2).double()
        context = Context(previous=zeros[0], trusted=zeros[0])
        assert ALL[name](zeros, torch.ones(11).double(), context).tolist() == [0.0, 0.0]

    def test_the_scale_of_weights_is_irrelevant(self, name):
        rows, weights, context = drawn(1)
        one, two = (ALL[name](rows, factor * weights, context) for factor in (1, 1024))
        torch.testing.assert_close(one, two, rtol=1e-12, atol=0)

    def test_it_weighs_what_its_paper_weighs(self, name):
        rows, weights, context = drawn(2)
        equal = ALL[name](rows, torch.ones_like(weights), context)
        assert torch.equal(ALL[name](rows, weights, context), equal) == (name not in WEIGHED)

    def test_the_order_of_workers_is_irrelevant(self, name):
        rows, weights, context = drawn(3)
        order = torch.tensor([7, 2, 10, 0, 4, 9, 1, 3, 8, 6, 5])
        one, two = (
            ALL[name](rows, weights, context),
            ALL[name](rows[order], weights[order], context),
        )
        # Who shares a bucket depends on the place among the sorted workers.
        assert torch.allclose(one, two, rtol=1e-9, atol=1e-12) != name.startswith("buckets")

    @pytest.mark.parametrize("by", [-3.0, 1e4])
    def test_it_moves_along_with_the_rows(self, name, by):
        rows, weights, context = drawn(4)
        one, two = ALL[name](rows, weights, context), ALL[name](rows + by, weights, context)
        assert torch.allclose(one + by, two, rtol=0, atol=1e-9) == (name in MOVE_ALONG)

    @pytest.mark.parametrize("by", [0.01, 1e3])
    def test_it_grows_along_with_the_rows(self, name, by):
        rows, weights, context = drawn(5)
        scaled = Context(4, 5, by * context.previous, by * context.trusted)
        one, two = ALL[name](rows, weights, context), ALL[name](by * rows, weights, scaled)
        assert torch.allclose(by * one, two, rtol=1e-9, atol=0) == (name in GROW_ALONG)

    @pytest.mark.parametrize("sent", [1e6, -1e6, 40.0])
    def test_two_faulty_workers_do_not_carry_it_away(self, name, sent):
        rows, _, context = drawn(6)
        honest = rows[:9].clone()
        rows[9:] = sent
        step = ALL[name](rows, torch.ones(11).double(), context)
        far = float((step - honest.mean(dim=0)).norm())
        assert (far > 2) == (name in UNBOUNDED), far

    def test_too_few_workers_are_refused(self, name):
        aggregator, least = ALL[name], FEWEST.get(name, 1)
        assert fewest_rows(aggregator) == least
        rows, weights, context = drawn(7)
        assert bool(torch.isfinite(aggregator(rows[:least], weights[:least], context)).all())
        if name != "weighted_mean":
            told = rf"must have at least {least} workers in a round; given: {least - 1}; "
            with pytest.raises(ValueError, match=told):
                aggregator(rows[: least - 1], weights[: least - 1], context)

    def test_it_says_whether_it_needs_records_of_the_coordinator(self, name):
        assert needs_trusted(ALL[name]) == name.endswith("fltrust")
        rows, weights, _ = drawn(8)
        if needs_trusted(ALL[name]):
            with pytest.raises(ValueError, match="own update; given: none in this round; give"):
                ALL[name](rows, weights)
        else:
            assert bool(torch.isfinite(ALL[name](rows, weights)).all())


# byzfl 0.0.11 computed these (Bulyan: by hand).

THREE = doubles([[1, 2, 3], [4, 5, 6], [7, 8, 9]])
HONEST = doubles(
    [
        [1, 2, 0, 1],
        [1.2, 1.8, 0.1, 0.9],
        [0.9, 2.1, -0.1, 1.1],
        [1.1, 2.2, 0.2, 1],
        [0.8, 1.9, 0, 1.2],
    ]
)
FAULTY = doubles([[10, -10, 5, 5], [-8, 9, -7, 3]])
SEVEN = torch.cat([HONEST, FAULTY])
THIRTEEN = torch.cat([HONEST, HONEST + 0.05, doubles([[1, 2, 0.05, 1]]), FAULTY])

GOLDEN = [
    (coordinate_median(), THREE, [4, 5, 6]),
    (trimmed_mean(faulty=1), THREE, [4, 5, 6]),
    (mean_around_median(faulty=1), THREE, [2.5, 3.5, 4.5]),
    (geometric_median(smoothing=0.1, iterations=3), THREE, [3.787888, 4.787888, 5.787888]),
    (centred_clipping(radius=1, iterations=1), THREE, [0.408558, 0.559564, 0.71057]),
    (nearest_neighbour_mixing(weighted_mean, faulty=1), THREE, [3.5, 4.5, 5.5]),
    (weighted_mean, SEVEN, [1, 1.285714, -0.257143, 1.885714]),
    (coordinate_median(), SEVEN, [1, 2, 0, 1.1]),
    (trimmed_mean(faulty=2), SEVEN, [1, 2, 0.033333, 1.1]),
    (mean_around_median(faulty=2), SEVEN, [1, 2, 0.04, 1.04]),
    (
        geometric_median(smoothing=0.1, iterations=3),
        SEVEN,
        [0.965375, 1.996027, 0.001798, 1.067058],
    ),
    (
        geometric_median(smoothing=1e-6, iterations=100),
        SEVEN,
        [0.99152, 2.000324, 0.00428, 1.026366],
    ),
    (krum(faulty=2), SEVEN, [1, 2, 0, 1]),
    (multi_krum(faulty=2), SEVEN, [1, 2, 0.04, 1.04]),
    (centred_clipping(radius=1, iterations=1), SEVEN, [0.299148, 0.576215, -0.013819, 0.37584]),
    (centred_clipping(radius=1, iterations=5), SEVEN, [0.970388, 1.938664, -0.002196, 1.107445]),
    (nearest_neighbour_mixing(trimmed_mean(faulty=2), faulty=2), SEVEN, [1, 2, 0.04, 1.04]),
    (bulyan(faulty=2), THIRTEEN, [0.98, 2.02, 0.05, 1.0]),
]


@pytest.mark.parametrize(("aggregator", "rows", "wanted"), GOLDEN)
def test_it_computes_what_others_computed(aggregator, rows, wanted):
    step = aggregator(rows, torch.ones(len(rows)).double())
    torch.testing.assert_close(step, doubles(wanted), rtol=0, atol=1e-6)


def test_mixing_takes_each_row_with_its_nearest():
    seen = []

    def look(rows, weights, context):
        seen.append((rows, weights))
        return rows[0]

    weights = doubles([1, 2, 3])
    nearest_neighbour_mixing(look, faulty=1)(THREE, weights)
    ((mixed, passed),) = seen
    assert mixed.tolist() == [[2.5, 3.5, 4.5], [2.5, 3.5, 4.5], [5.5, 6.5, 7.5]]
    assert torch.equal(passed, weights)


def test_buckets_are_drawn_from_seed_and_round_and_hold_everybody_once():
    seen = []

    def look(rows, weights, context):
        seen.append((rows, weights))
        return rows[0]

    rows, weights = torch.eye(7).double(), torch.arange(1.0, 8.0).double()
    buckets = bucketing(look, size=3)
    for round, seed in ((1, 0), (1, 0), (2, 0), (1, 1)):
        buckets(rows, weights, Context(round=round, seed=seed))
    first, again, later, other = (means for means, _ in seen)
    assert torch.equal(first, again)
    assert not torch.equal(first, later)
    assert not torch.equal(first, other)
    assert (first > 0).sum(dim=1).tolist() == [3, 3, 1]
    assert (first > 0).sum(dim=0).tolist() == [1] * 7
    torch.testing.assert_close(first.sum(dim=1), torch.ones(3).double())
    assert seen[0][1].tolist() == [(weights * (row > 0)).sum().item() for row in first]


def test_centred_clipping_starts_where_the_round_before_ended():
    rows = doubles([[10.0], [12.0]])
    clipping = centred_clipping(radius=1, iterations=1)
    assert clipping(rows, torch.ones(2)).tolist() == [1.0]
    assert clipping(rows, torch.ones(2), Context(previous=doubles([11.0]))).tolist() == [11.0]
    assert clipping(rows, torch.ones(2), Context(previous=doubles([9.5]))).tolist() == [10.25]


def test_fltrust_hears_nobody_who_points_away_and_lends_all_the_same_length():
    trusted = Context(trusted=doubles([3.0, 4.0]))
    away = doubles([[-1.0, -1.0], [4.0, -3.0], [0.0, 0.0]])
    assert fltrust()(away, torch.ones(3), trusted).tolist() == [0.0, 0.0]
    with_one = torch.cat([away, doubles([[0.0, 100.0]])])
    torch.testing.assert_close(fltrust()(with_one, torch.ones(4), trusted), doubles([0.0, 5.0]))


def test_a_median_norm_of_zero_silences_everybody():
    rows = doubles([[0.0], [0.0], [9.0]])
    assert norm_bounding()(rows, torch.ones(3)).tolist() == [0.0]


def test_weights_that_sum_to_nothing_are_refused_where_they_count():
    rows = torch.ones(3, 2).double()
    for aggregator in (weighted_mean, geometric_median(), norm_bounding()):
        with pytest.raises(ValueError, match="sum to more than 0"):
            aggregator(rows, torch.zeros(3).double())


def test_a_function_that_says_nothing_of_itself_works_with_one_worker():
    assert fewest_rows(lambda rows, weights, context: rows[0]) == 1
    assert not needs_trusted(lambda rows, weights, context: rows[0])
