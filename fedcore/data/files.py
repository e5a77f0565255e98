"""A table in a file: CSV, Parquet or npz, local or at any URL that fsspec knows."""

import io
from collections.abc import Collection
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from fedcore.data.dataset import Dataset, Table
from fedcore.data.distinct import distinct
from fedcore.errors import DataError, nearest
from fedcore.settings.data import Files

if TYPE_CHECKING:
    import pandas

__all__ = ["read_table"]

FORMATS = (".csv", ".parquet", ".npz")


def read_table(source: Files, *, without: Collection[str] = ()) -> Table:
    """The records of a file; every column stays available to split by.

    features [N, F] float32 in the order of `source.features`, or, if that is empty, of the
    file's columns but the label and those named by `without`. Classification: int64 [N] over the
    label's sorted distinct values; regression: float32 [N, 1].

    Raises:
        DataError: no such file or column, not a table, a feature that is not a finite number, a
            missing label, fewer than two classes, or no records.
    """
    frame = _frame(source.path)
    names = [str(name) for name in frame.columns]
    _known(source.label, names, setting="data.source.label")
    features = _features(source, names, without=without)
    if frame.empty:
        raise DataError(
            f"A data file must hold records; given: {source.path}, which has none; "
            "check how it was written."
        )
    for name in features:
        _numeric(frame, name, named=bool(source.features), label=source.label)
    matrix = np.stack([_finite(frame, name, what="feature") for name in features], axis=1)
    columns: dict[str, NDArray[np.generic]] = {name: frame[name].to_numpy() for name in names}
    return Table(_records(source, frame, torch.from_numpy(matrix)), columns)


def _records(source: Files, frame: "pandas.DataFrame", features: torch.Tensor) -> Dataset:
    label = source.label
    if source.task == "regression":
        _numeric(frame, label, named=True, label=label)
        return Dataset(features, torch.from_numpy(_finite(frame, label, what="label")[:, None]))
    values: NDArray[np.generic] = frame[label].to_numpy()
    classes, numbers = distinct(values, column=label)
    if values.dtype.kind == "f" and any("." in name or "e" in name for name in classes):
        raise DataError(
            f"Classes must be names or whole numbers; given: {len(classes)} distinct values such "
            f"as {classes[0]} in column {label!r}; set data.source.task to regression, or name "
            "another label."
        )
    if len(classes) < 2:
        raise DataError(
            f"The label must have two or more distinct values; given: only {classes[0]!r} in "
            f"column {label!r}; name another label."
        )
    return Dataset(features, torch.from_numpy(numbers), classes)


def _frame(path: str) -> "pandas.DataFrame":
    import fsspec
    import pandas

    ending = PurePosixPath(path).suffix.lower()
    if ending not in FORMATS:
        raise DataError(
            f"A data file must end in {', '.join(FORMATS)}; given: {path}; convert it, or load it "
            "with data.source.kind custom."
        )
    try:
        with fsspec.open(path, "rb") as opened:
            content: bytes = opened.read()
    except FileNotFoundError:
        raise DataError(
            f"A data file must exist; given: {path}, looked for from {Path.cwd()}; check "
            "data.source.path."
        ) from None
    except Exception as error:  # each of fsspec's file systems raises its own types
        raise DataError(
            f"A data file must be readable; given: {path} ({type(error).__name__}: {error}); check "
            "data.source.path, permissions, and that the package for its protocol is installed."
        ) from error
    try:
        if ending == ".csv":
            # Whole columns at once: in pieces, a column of mixed values gets mixed types.
            return pandas.read_csv(io.BytesIO(content), low_memory=False)
        if ending == ".parquet":
            return pandas.read_parquet(io.BytesIO(content))
        return pandas.DataFrame(_arrays(content, path=path))
    except DataError:
        raise
    except Exception as error:  # parsers, pyarrow and zipfile have no common error
        raise DataError(
            f"A data file must hold what its ending says; given: {path} "
            f"({type(error).__name__}: {error}); check the file."
        ) from error


def _arrays(content: bytes, *, path: str) -> dict[str, NDArray[np.generic]]:
    """The columns of an npz file. Object arrays are pickles, and pickles can run code: refused."""
    columns: dict[str, NDArray[np.generic]] = {}
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        for name in arrays.files:
            values: NDArray[np.generic] = arrays[name]
            if name == "features" and values.ndim == 2:
                columns |= {f"features_{j}": values[:, j] for j in range(values.shape[1])}
            elif values.ndim == 1:
                columns[name] = values
            else:
                raise DataError(
                    f"Arrays in an npz file must be columns [N], or `features` [N, F]; given: "
                    f"{name} {list(values.shape)} in {path}; save it as columns."
                )
    lengths = {name: len(values) for name, values in columns.items()}
    if len(set(lengths.values())) > 1:
        given = ", ".join(f"{name} [{length}]" for name, length in lengths.items())
        raise DataError(
            f"Arrays in an npz file must be equally long; given: {given} in {path}; save one value "
            "for each record."
        )
    return columns


def _known(name: str, names: list[str], *, setting: str) -> None:
    if name not in names:
        raise DataError(
            f"{setting} must name a column of the file; given: {name!r}{nearest(name, names)}; "
            f"columns: {', '.join(names) or 'none'}."
        )


def _features(source: Files, names: list[str], *, without: Collection[str]) -> list[str]:
    if source.features:
        for name in source.features:
            _known(name, names, setting="data.source.features")
        if source.label in source.features or len(set(source.features)) < len(source.features):
            raise DataError(
                "data.source.features must be distinct columns without the label; given: "
                f"{', '.join(source.features)} with the label {source.label}; remove the surplus."
            )
        return list(source.features)
    found = [name for name in names if name != source.label and name not in without]
    if not found:
        raise DataError(
            "A data file must have a column to learn from; given: "
            f"{', '.join(names)}, with the label {source.label!r}; add features, or name them in "
            "data.source.features."
        )
    return found


def _numeric(frame: "pandas.DataFrame", name: str, *, named: bool, label: str) -> None:
    import pandas

    column = frame[name]
    types = pandas.api.types
    if types.is_numeric_dtype(column.dtype) and not types.is_complex_dtype(column.dtype):
        return
    wrong = pandas.to_numeric(column, errors="coerce").isna() & column.notna()
    first = int(wrong.to_numpy().argmax())
    remedy = (
        "turn it into numbers first"
        if named
        else f"name the columns to learn from in data.source.features (the label is {label!r})"
    )
    raise DataError(
        f"Column {name!r} must hold numbers; given: {str(column.iloc[first])!r} in record "
        f"{first + 1} (counted from 1); {remedy}."
    )


def _finite(frame: "pandas.DataFrame", name: str, *, what: str) -> NDArray[np.float32]:
    exact: NDArray[np.float64] = frame[name].to_numpy(dtype=np.float64, na_value=np.nan)
    with np.errstate(over="ignore"):
        values = exact.astype(np.float32)
    wrong = ~np.isfinite(values)
    if wrong.any():
        first = int(wrong.argmax())
        raise DataError(
            f"The {what} {name!r} must be finite in float32; given: {exact[first]} in record "
            f"{first + 1} (counted from 1); fill it in or leave the record out."
        )
    return values
