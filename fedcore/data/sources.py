"""Where records come from: a setting becomes a Table.

Every source gives features float32 [N, ...], classes with int64 labels [N] (or values float32
[N, outputs]), and the columns that a partition may split by, the label among them as `label`.
"""

from collections.abc import Collection, Mapping

import numpy as np
import torch
from numpy.typing import NDArray

from fedcore.data.dataset import Dataset, Table
from fedcore.data.files import read_table
from fedcore.data.synthetic import generate
from fedcore.entrypoints import load_entrypoint
from fedcore.errors import DataError
from fedcore.settings.data import (
    BreastCancer,
    CustomSource,
    Digits,
    Files,
    Source,
    Synthetic,
    Toy,
)

__all__ = ["check_table", "load"]


def load(source: Source, *, seed: int, without: Collection[str] = ()) -> Table:
    """The records of a source; `seed` matters to generated ones only.

    `without` names columns of a file that are no features unless `features` names them: the
    column that the workers are told apart by must not be learnt from by accident.

    Raises:
        DataError: the source cannot be read, or does not hold what the settings ask.
        ConfigError: a custom entrypoint that cannot be loaded.
    """
    if isinstance(source, Toy):
        return _toy()
    if isinstance(source, Digits):
        return _digits()
    if isinstance(source, BreastCancer):
        return _breast_cancer()
    if isinstance(source, Synthetic):
        return generate(source, seed=seed)
    if isinstance(source, Files):
        return read_table(source, without=without)
    return _custom(source)


def _toy() -> Table:
    features = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    labels = torch.tensor([0, 0, 1, 1])
    columns = {"x1": features[:, 0].numpy(), "x2": features[:, 1].numpy(), "label": labels.numpy()}
    return Table(Dataset(features, labels, ("0", "1")), columns)


def _digits() -> Table:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    pixels: NDArray[np.float64] = bunch.data
    labels: NDArray[np.int64] = bunch.target.astype(np.int64)
    # Pixels are 0 to 16; their scale is known beforehand, so nothing is learnt from the records.
    return _classified(
        pixels / 16,
        labels,
        classes=[str(digit) for digit in bunch.target_names],
        names=list(bunch.feature_names),
        label=labels,
    )


def _breast_cancer() -> Table:
    from sklearn.datasets import load_breast_cancer

    bunch = load_breast_cancer()
    labels: NDArray[np.int64] = bunch.target.astype(np.int64)
    return _classified(
        bunch.data,
        labels,
        classes=[str(name) for name in bunch.target_names],
        names=[str(name) for name in bunch.feature_names],
        label=bunch.target_names[labels],
    )


def _classified(
    features: NDArray[np.float64],
    labels: NDArray[np.int64],
    *,
    classes: list[str],
    names: list[str],
    label: NDArray[np.generic],
) -> Table:
    single = features.astype(np.float32)
    columns: dict[str, NDArray[np.generic]] = {
        name: single[:, position] for position, name in enumerate(names)
    }
    records = Dataset(torch.from_numpy(single), torch.from_numpy(labels), tuple(classes))
    return Table(records, {**columns, "label": label})


def _custom(source: CustomSource) -> Table:
    make = load_entrypoint(source.entrypoint, what="a custom data source")
    try:
        table = make(**source.arguments)
    except Exception as error:
        raise DataError(
            f"{source.entrypoint} must return a fedcore.data.Table; given the arguments "
            f"{source.arguments} it raised {type(error).__name__}: {error}; mend the function or "
            "data.source.arguments."
        ) from error
    if not isinstance(table, Table) or not isinstance(table.records, Dataset):
        raise DataError(
            f"{source.entrypoint} must return a fedcore.data.Table; given: a "
            f"{type(table).__name__}; return Table(Dataset(features, targets, classes), columns)."
        )
    check_table(table, what=source.entrypoint)
    return table


def check_table(table: Table, *, what: str) -> None:
    """Refuse a table that training could only fail on later; `what` made it.

    Raises:
        DataError: naming what must hold and what was given.
    """
    for must, given, remedy in _mistakes(table.records, table.columns):
        raise DataError(f"{what}: {must}; given: {given}; {remedy}.")


def _mistakes(
    records: Dataset, columns: Mapping[str, NDArray[np.generic]]
) -> list[tuple[str, str, str]]:
    features, targets, classes = records.features, records.targets, records.classes
    if not (isinstance(features, torch.Tensor) and isinstance(targets, torch.Tensor)):
        given = f"{type(features).__name__} and {type(targets).__name__}"
        return [("features and targets must be tensors", given, "use torch.from_numpy")]
    n = len(features) if features.ndim else 0
    shape = list(targets.shape)
    found: list[tuple[str, str, str]] = []
    if features.ndim < 2 or features.dtype != torch.float32 or features.numel() == 0:
        given = f"{list(features.shape)} {features.dtype}"
        found.append(("features must be float32 [N, ...] of N > 0 records", given, "convert them"))
    elif not bool(torch.isfinite(features).all()):
        bad = int((~torch.isfinite(features)).flatten(1).any(dim=1).nonzero()[0])
        given = f"NaN or infinity in record {bad + 1} (counted from 1)"
        found.append(("features must be finite", given, "fill it in or leave the record out"))
    elif classes and (targets.dtype != torch.int64 or shape != [n]):
        given = f"{shape} {targets.dtype}"
        found.append((f"targets must be int64 class numbers [{n}]", given, "convert them"))
    elif classes and (len(classes) < 2 or len(set(classes)) < len(classes)):
        given = ", ".join(str(name) for name in classes)
        found.append(("classes must be two or more distinct names", given, "rename them"))
    elif classes and not 0 <= int(targets.min()) <= int(targets.max()) < len(classes):
        given = f"{int(targets.min())} to {int(targets.max())}"
        must = f"targets must be 0 to {len(classes) - 1}, a number for each class"
        found.append((must, given, "number the labels from 0, or name more classes"))
    elif not classes and (
        targets.ndim != 2 or targets.dtype != torch.float32 or len(targets) != n or not shape[1]
    ):
        given = f"{shape} {targets.dtype}"
        must = f"targets without classes must be float32 [{n}, outputs]"
        found.append((must, given, "convert them, or name classes"))
    elif not classes and not bool(torch.isfinite(targets).all()):
        found.append(("targets must be finite", "NaN or infinity", "leave those records out"))
    for name, values in columns.items():
        if not isinstance(values, np.ndarray) or values.shape != (n,):
            given = f"{type(values).__name__} {list(np.shape(values))}"
            must = f"column {name!r} must be a numpy array [{n}]"
            found.append((must, given, "give one value for each record"))
    return found
