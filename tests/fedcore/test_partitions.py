"""Partitions: whatever the choice, every training record goes to exactly one worker."""

import re

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from fedcore.data import Dataset, Table, deal, load, partition
from fedcore.errors import DataError, Incompatible
from fedcore.settings import DataSettings, Partition, SimulatedWorkers, VirtualWorkers
from fedcore.settings.data import (
    ByColumn,
    Digits,
    Dirichlet,
    ExponentialSizes,
    FeatureNoise,
    Iid,
    LinearSizes,
    QuantitySkew,
    Shards,
)
from fedcore.settings.model import CrossEntropy


def table(
    labels: list[int], *, classes: int | None = None, **columns: NDArray[np.generic]
) -> Table:
    targets = torch.tensor(labels)
    names = tuple(str(number) for number in range(classes or max(labels) + 1))
    return Table(Dataset(torch.zeros(len(labels), 1), targets, names), columns)


def workers(count: int) -> list[str]:
    return [f"w{number}" for number in range(count)]


CHOICES: list[Partition] = [
    Iid(),
    Dirichlet(alpha=10),
    Dirichlet(alpha=1, least=2),
    Shards(each=1),
    Shards(each=3),
    QuantitySkew(alpha=10),
    QuantitySkew(alpha=2),
    LinearSizes(),
    ExponentialSizes(ratio=5),
    FeatureNoise(),
]
Dealt = dict[str, NDArray[np.int64]]


@st.composite
def cases(draw: st.DrawFn) -> tuple[Table, Partition, list[str], int, NDArray[np.int64]]:
    labels = draw(st.lists(st.integers(0, 4), min_size=6, max_size=120))
    how = draw(st.sampled_from(CHOICES))
    names = draw(st.permutations(workers(draw(st.integers(1, 5)))))
    kept = draw(st.lists(st.booleans(), min_size=len(labels), max_size=len(labels)))
    return table(labels, classes=5), how, names, draw(st.integers(0, 2**53)), np.flatnonzero(kept)


@settings(max_examples=200, deadline=None)
@given(cases())
def test_every_training_record_goes_to_exactly_one_worker(
    case: tuple[Table, Partition, list[str], int, NDArray[np.int64]],
) -> None:
    records, how, names, seed, among = case
    try:
        dealt = partition(records, how, names=names, seed=seed, among=among)
    except DataError:
        # Refusing is right only where records are truly short.
        assume(False)
    assert list(dealt) == names
    assert sorted(np.concatenate(list(dealt.values())).tolist()) == among.tolist()
    for held in dealt.values():
        assert held.dtype == np.int64
        assert len(held) >= getattr(how, "least", 1)
        assert (np.diff(held) > 0).all()
    again = partition(records, how, names=names, seed=seed, among=among[::-1].copy())
    assert all((again[name] == held).all() for name, held in dealt.items())


@pytest.mark.parametrize("how", [Iid(), Dirichlet(), Shards(), QuantitySkew(), LinearSizes()])
def test_another_seed_deals_otherwise(how: Partition) -> None:
    digits = load(Digits(), seed=0)
    among = np.arange(1437)
    one, two = (partition(digits, how, names=workers(5), seed=seed, among=among) for seed in (0, 1))
    assert any(list(one[name]) != list(two[name]) for name in one)


@given(st.integers(1, 9), st.integers(9, 100))
def test_iid_is_even(count: int, n: int) -> None:
    dealt = partition(table([0, 1] * n), Iid(), names=workers(count), seed=0, among=np.arange(n))
    sizes = [len(held) for held in dealt.values()]
    assert max(sizes) - min(sizes) <= 1


def shares(dealt: Dealt, records: Table) -> NDArray[np.float64]:
    """Label shares [K, C] of each worker."""
    assert records.records.labels is not None
    labels = records.records.labels.numpy()
    counts = np.array([np.bincount(labels[held], minlength=10) for held in dealt.values()])
    found: NDArray[np.float64] = counts / counts.sum(axis=1, keepdims=True)
    return found


def test_dirichlet_goes_from_few_labels_to_iid() -> None:
    digits = load(Digits(), seed=0)
    among = np.arange(1797)
    skewed, even = (
        shares(partition(digits, Dirichlet(alpha=a), names=workers(5), seed=0, among=among), digits)
        for a in (0.1, 10_000)
    )
    assert skewed.max(axis=1).mean() > 0.35
    np.testing.assert_allclose(even, 0.1, atol=0.02)


def test_dirichlet_shares_have_the_distributions_variance() -> None:
    # p ~ Dirichlet(a, ..., a) over K workers: var p = (K - 1) / (K^2 (K a + 1)).
    k, a, per_class = 4, 1.0, 200
    records = table([c for c in range(5) for _ in range(per_class)])
    drawn = np.array(
        [
            [np.bincount(held // per_class, minlength=5) / per_class for held in dealt.values()]
            for dealt in (
                partition(
                    records, Dirichlet(alpha=a), names=workers(k), seed=s, among=np.arange(1000)
                )
                for s in range(100)
            )
        ]
    )
    assert drawn.mean() == pytest.approx(1 / k)
    assert drawn.var() == pytest.approx((k - 1) / (k**2 * (k * a + 1)), rel=0.15)


def test_shards_bound_the_labels_of_a_worker() -> None:
    records = table([c for c in range(10) for _ in range(20)])
    dealt = partition(records, Shards(each=2), names=workers(10), seed=0, among=np.arange(200))
    assert {len(held) for held in dealt.values()} == {20}
    assert (shares(dealt, records) > 0).sum(axis=1).max() <= 2


def test_quantity_skew_changes_sizes_and_not_labels() -> None:
    records = table([0, 1] * 5000)
    how = QuantitySkew(alpha=1, least=100)
    dealt = partition(records, how, names=workers(5), seed=1, among=np.arange(10_000))
    sizes = [len(held) for held in dealt.values()]
    assert max(sizes) > 3 * min(sizes)
    np.testing.assert_allclose(shares(dealt, records)[:, :2], 0.5, atol=0.15)


@settings(deadline=None)
@given(st.integers(1, 30), st.integers(500, 3000), st.floats(1, 50))
def test_sizes_grow_in_a_line_or_by_a_factor(count: int, n: int, ratio: float) -> None:
    records = table([0] * n)
    for how, relative in (
        (LinearSizes(), range(1, count + 1)),
        (ExponentialSizes(ratio=ratio), [ratio ** (k / max(count - 1, 1)) for k in range(count)]),
    ):
        dealt = partition(records, how, names=workers(count), seed=0, among=np.arange(n))
        for held, share in zip(dealt.values(), relative, strict=True):
            assert abs(len(held) - n * share / sum(relative)) < 1 + 1e-6


def test_sizes_do_not_change_labels() -> None:
    records = table([0, 1] * 5000)
    how = ExponentialSizes(ratio=10)
    dealt = partition(records, how, names=workers(5), seed=1, among=np.arange(10_000))
    np.testing.assert_allclose(shares(dealt, records)[:, :2], 0.5, atol=0.1)


# Feature noise

NOISY = VirtualWorkers(count=4, partition=FeatureNoise(sigma=0.5))


def noise_of_each(sigma: float, *, seed: int = 3) -> list[torch.Tensor]:
    """What was added to each worker's records, in its own order."""
    dealt, clean = (
        deal(DataSettings(), NOISY.but(partition=how), CrossEntropy(), seed=seed)
        for how in (FeatureNoise(sigma=sigma), Iid())
    )
    return [dealt.workers[name].features - clean.workers[name].features for name in clean.workers]


def test_feature_noise_grows_from_worker_to_worker() -> None:
    for k, noise in enumerate(noise_of_each(0.5), start=1):
        assert noise.var() == pytest.approx(0.5 * k / 4, rel=0.05)
        assert noise.mean().abs() < 0.02


def test_feature_noise_is_drawn_for_every_worker_record_and_feature() -> None:
    single = torch.cat(noise_of_each(0.5)).flatten()
    assert len(single.unique()) > 0.99 * len(single)
    first, second, *_ = noise_of_each(0.5)
    rows = min(len(first), len(second))
    alike = torch.corrcoef(torch.stack([first[:rows].flatten(), second[:rows].flatten()]))
    assert alike[0, 1].abs() < 0.05


def test_feature_noise_leaves_labels_and_test_records_alone() -> None:
    noisy, clean = (
        deal(DataSettings(), NOISY.but(partition=how), CrossEntropy(), seed=3)
        for how in (NOISY.partition, Iid())
    )
    assert noisy.test is not None
    assert clean.test is not None
    assert noisy.test.fingerprint == clean.test.fingerprint
    for name, held in clean.workers.items():
        assert torch.equal(noisy.workers[name].targets, held.targets)


def test_feature_noise_is_the_same_for_whoever_holds_the_records() -> None:
    virtual = deal(DataSettings(), NOISY, CrossEntropy(), seed=3)
    others = SimulatedWorkers(count=4, partition=NOISY.partition)
    simulated = deal(DataSettings(), others, CrossEntropy(), seed=3)
    held = [simulated.holdings.of(k) for k in range(4)]
    assert [own.fingerprint for own in virtual.workers.values()] == [h.fingerprint for h in held]
    pooled = torch.cat([own.features for own in virtual.workers.values()])
    assert sorted(pooled.tolist()) == sorted(virtual.pooled.features.tolist())


# By column


def test_by_column_makes_a_worker_of_each_value() -> None:
    region = np.array(["south", "north", "south", "North Sea!"], dtype=object)
    records = table([0, 1, 0, 1], region=region)
    dealt = partition(records, ByColumn(column="region"), names=None, seed=0, among=np.arange(4))
    assert {name: held.tolist() for name, held in dealt.items()} == {
        "region-North-Sea-": [3],
        "region-north": [1],
        "region-south": [0, 2],
    }


def test_numbers_are_in_numeric_order() -> None:
    records = table([0, 1, 0], site=np.array([10.0, 9.0, 2.0]))
    dealt = partition(records, ByColumn(column="site"), names=None, seed=0, among=np.arange(3))
    assert list(dealt) == ["site-2", "site-9", "site-10"]


@settings(deadline=None)
@given(st.lists(st.text(max_size=80), min_size=1, max_size=12))
def test_ids_from_any_values_are_distinct_and_can_name_files(values: list[str]) -> None:
    records = table([0] * len(values), site=np.array(values, dtype=object))
    among = np.arange(len(values))
    dealt = partition(records, ByColumn(column="site"), names=None, seed=0, among=among)
    assert len(dealt) == len(set(values))
    assert all(re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,59}", name) for name in dealt)
    for held in dealt.values():
        assert len({values[index] for index in held}) == 1


def test_workers_can_have_several_values_each() -> None:
    records = table([0] * 6, site=np.array([30, 1, 20, 10, 2, 30]))
    how = ByColumn(column="site", each=2)
    dealt = partition(records, how, names=None, seed=0, among=np.arange(6))
    assert {name: held.tolist() for name, held in dealt.items()} == {
        "site-1-to-2": [1, 4],
        "site-10-to-20": [2, 3],
        "site-30": [0, 5],
    }
    named = partition(records, how, names=["c", "b", "a"], seed=0, among=np.arange(6))
    assert [held.tolist() for held in named.values()] == [[1, 4], [2, 3], [0, 5]]


def test_names_are_given_in_the_order_of_the_values() -> None:
    records = table([0, 1, 0], site=np.array(["b", "a", "b"]))
    how = ByColumn(column="site")
    dealt = partition(records, how, names=["bob", "alice"], seed=0, among=np.arange(3))
    assert {name: held.tolist() for name, held in dealt.items()} == {"bob": [1], "alice": [0, 2]}


def test_names_that_are_the_values_get_their_own_records() -> None:
    records = table([0, 1, 0], site=np.array(["b", "a", "b"]))
    how = ByColumn(column="site")
    for names in (["b", "a"], ["site-b", "site-a"]):
        dealt = partition(records, how, names=names, seed=0, among=np.arange(3))
        assert [held.tolist() for held in dealt.values()] == [[0, 2], [1]]
        assert list(dealt) == names


# Refusals


@pytest.mark.parametrize("how", [Dirichlet(), Shards()])
def test_partitions_by_label_refuse_data_without_classes(how: Partition) -> None:
    records = Table(Dataset(torch.zeros(6, 1), torch.zeros(6, 1)))
    with pytest.raises(Incompatible, match=f"{how.kind} must have classes.*choose .*iid"):
        partition(records, how, names=workers(2), seed=0, among=np.arange(6))


@pytest.mark.parametrize(
    ("how", "names", "message"),
    [
        (Iid(), workers(9), r"must have a record.* 4 training records, and none for w4, w5"),
        (Iid(), None, r"must know its workers; given: no names; set workers.ids"),
        (
            Dirichlet(alpha=0.001),
            workers(4),
            r"at least 1 records.*alpha 0.001, .*best draw of 1000 left w\d with 0; raise",
        ),
        (
            QuantitySkew(least=3),
            workers(2),
            r"at least 3 records \(workers.partition.least\); given: 4 training records for 2",
        ),
        (Shards(each=3), workers(2), r"shard must hold a record; given: 2 workers with 3 shards"),
        (ByColumn(column="sit"), None, r"'sit' \(nearest: 'site'\); columns: site"),
        (
            ByColumn(column="site"),
            ["bob"],
            r"name for each value of column 'site'; given: 1 names for 2 values \(a, b\)",
        ),
        (
            ByColumn(column="site", each=2),
            ["bob", "alice"],
            r"name for each group of column 'site'; given: 2 names for 1 groups \(a-to-b\)",
        ),
        (
            ExponentialSizes(ratio=1000),
            workers(2),
            r"none for w0; lower workers.partition.ratio, or take fewer workers or more records",
        ),
        (LinearSizes(), workers(4), r"4 training records, and none for w0; take fewer workers"),
    ],
)
def test_what_cannot_be_dealt_is_refused(
    how: Partition, names: list[str] | None, message: str
) -> None:
    records = table([0, 0, 1, 1], site=np.array(["a", "a", "b", "b"]))
    with pytest.raises(DataError, match=message):
        partition(records, how, names=names, seed=0, among=np.arange(4))


def test_a_value_without_training_records_is_named() -> None:
    records = table([0, 0, 1, 1], site=np.array(["a", "a", "a", "b"]))
    with pytest.raises(DataError, match=r"none for site-b; lower data.test_share, or merge rare"):
        partition(records, ByColumn(column="site"), names=None, seed=0, among=np.arange(3))


def test_a_missing_value_is_named() -> None:
    for site in (np.array([1.0, np.nan]), np.array(["a", None], dtype=object)):
        with pytest.raises(DataError, match=r"value in column 'site'; given: none in record 2"):
            partition(
                table([0, 1], site=site),
                ByColumn(column="site"),
                names=None,
                seed=0,
                among=np.arange(2),
            )
