"""Files: one table in three formats, and a clear word about every way it can be wrong."""

from collections.abc import Callable
from pathlib import Path

import fsspec
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedcore.data import deal, load
from fedcore.errors import DataError
from fedcore.settings import DataSettings, VirtualWorkers
from fedcore.settings.data import ByColumn, Files, Iid
from fedcore.settings.model import CrossEntropy, Mse

FRAME = pd.DataFrame(
    {
        "age": [30, 41, 52, 63, 35, 47],
        "dose": [0.5, 1.25, 2.0, 3.5, 0.25, 1.0],
        "site": ["north", "south", "north", "south", "north", "south"],
        "label": ["ill", "well", "ill", "well", "well", "ill"],
    }
)
Write = Callable[[pd.DataFrame, str], str]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def written(frame: pd.DataFrame, ending: str) -> str:
        path = tmp_path / f"data{ending}"
        if ending == ".csv":
            frame.to_csv(path, index=False)
        elif ending == ".parquet":
            frame.to_parquet(path)
        else:
            columns = {str(name): frame[name].to_numpy() for name in frame}
            text = {name: v.astype(str) for name, v in columns.items() if v.dtype.kind == "O"}
            np.savez(path, allow_pickle=False, **{**columns, **text})
        return str(path)

    return written


@pytest.mark.parametrize("ending", [".csv", ".parquet", ".npz"])
def test_every_format_gives_the_same_table(write: Write, ending: str) -> None:
    source = Files(path=write(FRAME, ending), features=["dose", "age"])
    table = load(source, seed=0)
    assert table.records.features.tolist() == FRAME[["dose", "age"]].to_numpy().tolist()
    assert table.records.classes == ("ill", "well")
    assert table.records.targets.tolist() == [0, 1, 0, 1, 1, 0]
    assert list(table.columns["site"]) == list(FRAME["site"])


def test_features_default_to_every_other_column(write: Write) -> None:
    path = write(FRAME.drop(columns="site"), ".csv")
    assert load(Files(path=path), seed=0).records.inputs == (2,)


def test_the_column_that_tells_workers_apart_is_no_feature(write: Write) -> None:
    data = DataSettings(source=Files(path=write(FRAME, ".csv")), test_share=0)
    workers = VirtualWorkers(partition=ByColumn(column="site"))
    dealt = deal(data, workers, CrossEntropy(), seed=0)
    assert {name: len(held) for name, held in dealt.workers.items()} == {
        "site-north": 3,
        "site-south": 3,
    }
    assert dealt.pooled.inputs == (2,)
    assert dealt.pooled.features.mean(0).abs().max() < 1e-6


def test_a_url_is_read_like_a_path(write: Write) -> None:
    path = Path(write(FRAME, ".parquet"))
    with fsspec.open("memory://folder/data.parquet", "wb") as remote:
        remote.write(path.read_bytes())
    read = load(Files(path="memory://folder/data.parquet", features=["age"]), seed=0)
    assert len(read.records) == 6


def test_regression_has_values_of_one_output(write: Write) -> None:
    source = Files(path=write(FRAME, ".csv"), features=["age"], label="dose", task="regression")
    table = load(source, seed=0)
    assert table.records.targets.tolist() == [[v] for v in FRAME["dose"]]
    assert table.records.classes == ()
    workers = VirtualWorkers(partition=Iid(), count=2)
    dealt = deal(DataSettings(source=source, test_share=0), workers, Mse(), seed=0)
    assert dealt.pooled.targets.shape == (6, 1)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(-50, 50), min_size=2, max_size=30).filter(lambda v: len(set(v)) > 1))
def test_whole_numbers_are_classes_in_numeric_order(
    tmp_path_factory: pytest.TempPathFactory, values: list[int]
) -> None:
    path = tmp_path_factory.mktemp("classes") / "data.csv"
    for as_type in (int, float):
        frame = pd.DataFrame({"x": np.arange(len(values)), "label": np.array(values, as_type)})
        frame.to_csv(path, index=False)
        records = load(Files(path=str(path)), seed=0).records
        assert records.classes == tuple(str(v) for v in sorted(set(values)))
        assert [records.classes[t] for t in records.targets.tolist()] == [str(v) for v in values]


def test_npz_features_in_two_dimensions_become_columns(tmp_path: Path) -> None:
    x = np.arange(12.0).reshape(4, 3)
    np.savez(tmp_path / "data.npz", features=x, label=np.array([0, 1, 0, 1]), site=np.arange(4))
    table = load(Files(path=str(tmp_path / "data.npz"), features=["features_2"]), seed=0)
    assert list(table.columns) == ["features_0", "features_1", "features_2", "label", "site"]
    assert table.records.features[:, 0].tolist() == x[:, 2].tolist()


def test_truth_values_and_nullable_numbers_are_features(write: Write) -> None:
    frame = FRAME.assign(smoker=[True, False] * 3, age=FRAME["age"].astype("Int64"))
    table = load(Files(path=write(frame, ".parquet"), features=["smoker", "age"]), seed=0)
    assert table.records.features[:, 0].tolist() == [1, 0] * 3


# What is wrong is said: column, record, and what to do.


@pytest.mark.parametrize(
    ("change", "source", "message"),
    [
        ({}, {"features": ["agee"]}, r"features must name .*'agee' \(nearest: 'age'\); columns:"),
        ({}, {"label": "lable"}, r"data.source.label must name .*\(nearest: 'label'\)"),
        ({}, {"features": ["age", "label"]}, r"columns without the label; given: age, label"),
        ({}, {"features": ["age", "age"]}, r"must be distinct columns"),
        ({}, {}, r"'site' must hold numbers; given: 'north' in record 1 .*data.source.features"),
        (
            {"dose": ["1", "2", "x", "4", "5", "6"]},
            {"features": ["dose"]},
            r"'dose' must hold numbers; given: 'x' in record 3",
        ),
        (
            {"dose": [1, 2, np.nan, np.nan, 5, 6]},
            {"features": ["dose"]},
            r"feature 'dose' must be finite in float32; given: nan in record 3",
        ),
        (
            {"dose": [1, np.inf, 3, 4, 5, 6]},
            {"features": ["dose"]},
            r"feature 'dose' must be finite in float32; given: inf in record 2",
        ),
        (
            {"dose": [1, 2, 3, 1e39, 5, 6]},
            {"features": ["dose"]},
            r"'dose' must be finite in float32; given: 1e\+39 in record 4",
        ),
        (
            {"label": ["a", "b", "a", None, "b", "a"]},
            {"features": ["age"]},
            r"must have a value in column 'label'; given: none in record 4",
        ),
        (
            {"label": [1, np.nan, 1, 2, 2, 2]},
            {"features": ["age"]},
            r"must have a value in column 'label'; given: none in record 2",
        ),
        (
            {"label": [1, np.nan, 1, 2, 2, 2]},
            {"features": ["age"], "task": "regression"},
            r"label 'label' must be finite in float32; given: nan in record 2",
        ),
        (
            {"dose": pd.to_datetime(["2020-01-01"] * 6)},
            {"features": ["dose"]},
            r"'dose' must hold numbers; given: '2020-01-01 00:00:00' in record 1",
        ),
        ({}, {"features": ["age"], "task": "regression"}, r"'label' must hold numbers; .*'ill'"),
        (
            {"label": [0.5, 1.5, 2, 3, 4, 5]},
            {"features": ["age"]},
            r"must be names or whole numbers; .*0.5.* set data.source.task to regression",
        ),
        ({"label": ["a"] * 6}, {"features": ["age"]}, r"two or more distinct .* only 'a'"),
    ],
)
def test_a_table_that_cannot_be_learnt_from_is_refused(
    write: Write, change: dict[str, object], source: dict[str, object], message: str
) -> None:
    path = write(FRAME.assign(**change), ".parquet")  # type: ignore[arg-type]
    with pytest.raises(DataError, match=message):
        load(Files.model_validate({"path": path, **source}), seed=0)


def test_a_file_without_records_or_features_is_refused(write: Write, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"must hold records; given: .*which has none"):
        load(Files(path=write(FRAME.iloc[:0], ".csv"), features=["age"]), seed=0)
    with pytest.raises(DataError, match="must have a column to learn from"):
        load(Files(path=write(FRAME[["label"]], ".csv")), seed=0)
    (tmp_path / "nothing.csv").write_bytes(b"")
    with pytest.raises(DataError, match=r"must hold what its ending says.*EmptyDataError"):
        load(Files(path=str(tmp_path / "nothing.csv")), seed=0)


@pytest.mark.parametrize("name", ["junk.parquet", "junk.npz"])
def test_a_file_that_is_not_what_its_ending_says_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"not a table at all")
    with pytest.raises(DataError, match="must hold what its ending says"):
        load(Files(path=str(tmp_path / name)), seed=0)


def test_a_path_that_cannot_be_read_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"must exist; given: nowhere.csv, looked for from /"):
        load(Files(path="nowhere.csv"), seed=0)
    with pytest.raises(DataError, match=r"must end in .csv, .parquet, .npz; given: a.xlsx"):
        load(Files(path="a.xlsx"), seed=0)
    with pytest.raises(DataError, match=r"must be readable; given: nosuch://a.csv"):
        load(Files(path="nosuch://a.csv"), seed=0)


def test_complex_numbers_are_no_features(tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", x=np.array([1j, 2]), label=np.arange(2))
    with pytest.raises(DataError, match="'x' must hold numbers; given: '1j' in record 1"):
        load(Files(path=str(tmp_path / "data.npz")), seed=0)


def test_pickles_in_npz_are_never_loaded(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[object, ...]:
            return (pytest.fail, ("a pickle was loaded",))

    held = np.empty(2, dtype=object)
    held[:] = [Bomb(), 1]
    np.savez(tmp_path / "data.npz", x=np.arange(2), label=held)
    with pytest.raises(DataError, match="Object arrays cannot be loaded"):
        load(Files(path=str(tmp_path / "data.npz")), seed=0)


def test_npz_arrays_must_be_columns_of_one_length(tmp_path: Path) -> None:
    path = tmp_path / "data.npz"
    np.savez(path, x=np.arange(3), label=np.arange(2))
    with pytest.raises(DataError, match=r"equally long; given: x \[3\], label \[2\]"):
        load(Files(path=str(path)), seed=0)
    np.savez(path, x=np.ones((3, 2)), label=np.arange(3))
    with pytest.raises(DataError, match=r"columns \[N\], or `features`.* given: x \[3, 2\]"):
        load(Files(path=str(path)), seed=0)


def test_features_are_scaled_only_when_asked(write: Write) -> None:
    path = write(FRAME, ".csv")
    workers = VirtualWorkers(partition=Iid(), count=2)
    raw, scaled = (
        deal(
            DataSettings(
                source=Files(path=path, features=["age"], standardise=standardise), test_share=0
            ),
            workers,
            CrossEntropy(),
            seed=0,
        ).pooled.features
        for standardise in (False, True)
    )
    assert raw[:, 0].tolist() == FRAME["age"].tolist()
    torch.testing.assert_close(scaled, (raw - raw.mean()) / raw.std(correction=0))
