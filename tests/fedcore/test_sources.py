"""Sources: what a setting says is what a Table holds; what cannot be learnt from is refused."""

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_breast_cancer, load_digits

from fedcore.data import Dataset, Table, deal, load
from fedcore.data.synthetic import LARGEST_GROUP
from fedcore.errors import ConfigError, DataError
from fedcore.settings import DataSettings, VirtualWorkers
from fedcore.settings.data import (
    BreastCancer,
    ByColumn,
    CustomSource,
    Digits,
    Files,
    Iid,
    Source,
    Synthetic,
    Toy,
)
from fedcore.settings.model import CrossEntropy, SumSquaredError


@pytest.mark.parametrize(
    "source", [Toy(), Digits(), BreastCancer(), Synthetic(groups=3)], ids=lambda s: s.kind
)
def test_every_source_has_tensors_of_the_promised_kind(source: Source) -> None:
    table = load(source, seed=0)
    records, n = table.records, len(table.records)
    assert records.features.dtype == torch.float32
    assert records.targets.dtype == torch.int64
    assert records.targets.shape == (n,)
    assert sum(records.label_counts.values()) == n
    assert "label" in table.columns
    assert all(values.shape == (n,) for values in table.columns.values())
    assert load(source, seed=0).records.fingerprint == records.fingerprint


def test_toy_is_the_tutorials_table() -> None:
    table = load(Toy(), seed=0)
    assert table.records.features.tolist() == [[0, 0], [0, 1], [1, 0], [1, 1]]
    assert table.records.targets.tolist() == [0, 0, 1, 1]
    assert list(table.columns) == ["x1", "x2", "label"]


def test_digits_and_breast_cancer_are_scikit_learns() -> None:
    digits, expected = load(Digits(), seed=0).records, load_digits()
    np.testing.assert_array_equal(digits.features.numpy() * 16, expected.data)
    np.testing.assert_array_equal(digits.targets.numpy(), expected.target)
    cancer, expected = load(BreastCancer(), seed=0).records, load_breast_cancer()
    np.testing.assert_array_equal(cancer.features.numpy(), expected.data.astype(np.float32))
    assert cancer.label_counts == {"malignant": 212, "benign": 357}


def test_standardised_features_have_mean_0_and_variance_1_over_training_records() -> None:
    data = DataSettings(source=BreastCancer(), test_share=0.3)
    dealt = deal(data, VirtualWorkers(partition=Iid(), count=3), CrossEntropy(), seed=4)
    features = dealt.pooled.features.double()
    torch.testing.assert_close(features.mean(0), torch.zeros(30).double(), atol=1e-6, rtol=0)
    torch.testing.assert_close(features.var(0, correction=0), torch.ones(30).double())
    assert dealt.test is not None
    assert dealt.test.features.double().mean(0).abs().max() > 0.01


def test_constant_features_are_left_as_they_are(tmp_path: Path) -> None:
    # 0.1 has no exact mean in binary: a deviation of 1e-17 must not count as variation.
    rows = "".join(f"0.1,{value},{value % 2}\n" for value in range(10))
    (tmp_path / "data.csv").write_text("same,other,label\n" + rows)
    data = DataSettings(source=Files(path=str(tmp_path / "data.csv")), test_share=0)
    pooled = deal(data, VirtualWorkers(partition=Iid(), count=2), CrossEntropy(), seed=0).pooled
    assert pooled.features[:, 0].tolist() == torch.full((10,), 0.1).tolist()
    assert pooled.features[:, 1].double().std(correction=0).item() == pytest.approx(1)


def test_dealt_workers_hold_the_pooled_records_and_no_test_record() -> None:
    data = DataSettings(source=Digits(), test_share=0.25)
    dealt = deal(data, VirtualWorkers(count=7), SumSquaredError(), seed=1)
    assert dealt.test is not None
    assert sum(map(len, dealt.workers.values())) == len(dealt.pooled)
    assert len(dealt.pooled) + len(dealt.test) == 1797
    joined = torch.cat([worker.features for worker in dealt.workers.values()])
    assert sorted(joined.tolist()) == sorted(dealt.pooled.features.tolist())
    assert dealt.pooled.targets.shape == (len(dealt.pooled), 10)


def test_one_worker_holds_the_pooled_records_in_their_order() -> None:
    data = DataSettings(source=Digits())
    dealt = deal(data, VirtualWorkers(count=1), CrossEntropy(), seed=1)
    assert dealt.workers["worker-1"].fingerprint == dealt.pooled.fingerprint


def test_no_test_share_gives_no_test_set() -> None:
    data = DataSettings(source=Toy(), test_share=0)
    workers = VirtualWorkers(ids=["bob", "alice"], partition=ByColumn(column="x2"))
    dealt = deal(data, workers, SumSquaredError(), seed=0)
    assert dealt.test is None
    assert list(dealt.workers) == ["bob", "alice"]
    assert dealt.workers["bob"].features.tolist() == [[0, 0], [1, 0]]
    assert dealt.workers["bob"].targets.tolist() == [[0], [1]]


# Synthetic


def test_synthetic_groups_are_named_bounded_and_independent_of_their_number() -> None:
    few, many = (load(Synthetic(groups=k), seed=3) for k in (4, 9))
    sizes = np.bincount(many.columns["group"].astype(np.int64))[1:]
    assert len(sizes) == 9
    assert sizes.min() >= 50
    assert sizes.max() <= LARGEST_GROUP
    n = len(few.records)
    assert torch.equal(many.records.features[:n], few.records.features)
    assert not torch.equal(
        load(Synthetic(groups=4), seed=4).records.features[:9], few.records.features[:9]
    )


def test_synthetic_inputs_have_the_papers_variances() -> None:
    table = load(Synthetic(groups=60), seed=0)
    groups = table.columns["group"]
    x = table.records.features.numpy()
    within = np.concatenate([x[groups == g] - x[groups == g].mean(0) for g in np.unique(groups)])
    expected = np.arange(1, 61) ** -1.2
    np.testing.assert_allclose(within.var(0), expected, rtol=0.1)


def test_alpha_and_beta_are_variances_between_groups() -> None:
    near, far = (load(Synthetic(groups=40, beta=beta, alpha=0), seed=0) for beta in (0, 25))

    def spread(table: Table) -> float:
        groups, x = table.columns["group"], table.records.features.numpy()
        return float(np.var([x[groups == g].mean() for g in np.unique(groups)]))

    assert spread(near) < 0.1
    assert 10 < spread(far) < 50


def test_synthetic_labels_follow_one_linear_model_per_group() -> None:
    from sklearn.linear_model import LogisticRegression

    table = load(Synthetic(groups=5), seed=1)
    largest = (
        table.columns["group"] == 1 + np.bincount(table.columns["group"].astype(int))[1:].argmax()
    )
    x, y = table.records.features.numpy()[largest], table.records.targets.numpy()[largest]
    assert LogisticRegression(C=1e4, max_iter=2000).fit(x, y).score(x, y) > 0.97


def test_synthetic_that_would_fill_the_machine_is_refused() -> None:
    with pytest.raises(DataError, match=r"at most 5,000,000 records; given: .*lower data.source"):
        load(Synthetic(groups=100_000), seed=0)


# Custom


def constant_feature(n: int = 4) -> Table:
    features = torch.tensor([[0.1, float(i)] for i in range(n)])
    return Table(Dataset(features, torch.arange(n) % 2, ("no", "yes")))


def broken(how: str) -> object:
    good = constant_feature()
    f, t = good.records.features, good.records.targets
    hole = f.clone()
    hole[2, 1] = torch.nan
    tables = {
        "type": [1, 2],
        "dtype": Table(Dataset(f.double(), t, ("no", "yes"))),
        "flat": Table(Dataset(f[:, 0], t, ("no", "yes"))),
        "empty": Table(Dataset(f[:0], t[:0], ("no", "yes"))),
        "nan": Table(Dataset(hole, t, ("no", "yes"))),
        "length": Table(Dataset(f, t[:3], ("no", "yes"))),
        "range": Table(Dataset(f, t + 1, ("no", "yes"))),
        "one class": Table(Dataset(f, t * 0, ("no",))),
        "values": Table(Dataset(f, t)),
        "value nan": Table(Dataset(f, torch.full((4, 1), torch.nan))),
        "column": Table(good.records, {"site": np.arange(3)}),
        "tensors": Table(Dataset(f.numpy(), t, ("no", "yes"))),  # type: ignore[arg-type]
    }
    return tables[how]


def test_a_custom_source_gets_its_arguments() -> None:
    source = CustomSource(entrypoint=f"{__name__}:constant_feature", arguments={"n": 6})
    assert len(load(source, seed=0).records) == 6


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("type", r"must return a fedcore.data.Table; given: a list"),
        ("dtype", r"features must be float32 .* given: \[4, 2\] torch.float64"),
        ("flat", r"features must be float32 \[N, ...\].* given: \[4\]"),
        ("empty", r"N > 0 records; given: \[0, 2\]"),
        ("nan", r"features must be finite; given: NaN or infinity in record 3"),
        ("length", r"int64 class numbers \[4\]; given: \[3\]"),
        ("range", r"targets must be 0 to 1.* given: 1 to 2"),
        ("one class", r"two or more distinct names; given: no;"),
        ("values", r"without classes must be float32 \[4, outputs\]; given: \[4\] torch.int64"),
        ("value nan", r"targets must be finite"),
        ("column", r"column 'site' must be a numpy array \[4\]; given: ndarray \[3\]"),
        ("tensors", r"must be tensors; given: ndarray and Tensor"),
    ],
)
def test_a_table_that_cannot_be_learnt_from_is_refused(how: str, message: str) -> None:
    source = CustomSource(entrypoint=f"{__name__}:broken", arguments={"how": how})
    with pytest.raises(DataError, match=message):
        load(source, seed=0)


def test_a_custom_source_that_raises_is_named_with_its_arguments() -> None:
    source = CustomSource(entrypoint=f"{__name__}:broken", arguments={"wrong": 1})
    with pytest.raises(DataError, match=r"broken must return .*'wrong': 1.*TypeError.*mend"):
        load(source, seed=0)


def test_a_misspelt_entrypoint_names_the_nearest() -> None:
    source = CustomSource(entrypoint=f"{__name__}:constant_featur")
    with pytest.raises(ConfigError, match=r"nearest: 'constant_feature'"):
        load(source, seed=0)
