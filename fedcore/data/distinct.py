"""The distinct values of a column: they become classes, and workers of a partition by column."""

import numpy as np
from numpy.typing import NDArray

from fedcore.errors import DataError

__all__ = ["distinct"]


def distinct(
    values: NDArray[np.generic], *, column: str
) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    """The names of a column's distinct values, and for each record [N] the number of its value.

    Numbers and dates are sorted as such, everything else as text. Whole numbers are written
    without a point, whatever type holds them, so that `1` in one file is `1` in another.

    Raises:
        DataError: a value is missing or infinite.
    """
    missing = _missing(values)
    if missing.any():
        raise DataError(
            f"Every record must have a value in column {column!r}; given: none in record "
            f"{int(missing.argmax()) + 1} (counted from 1); fill it in or leave the record out."
        )
    if values.dtype.kind == "O":
        items: list[object] = values.tolist()
        if not all(isinstance(item, int | float) for item in items):
            return _texts([str(item) for item in items])
        values = np.array(items)
    known, inverse = np.unique(values, return_inverse=True)
    numbers = inverse.astype(np.int64).reshape(-1)
    if known.dtype.kind == "f" and bool((known == np.floor(known)).all()):
        return tuple(f"{value:.0f}" for value in known), numbers
    return tuple(str(value) for value in known), numbers


def _missing(values: NDArray[np.generic]) -> NDArray[np.bool_]:
    if values.dtype.kind in "iubUS":
        return np.zeros(len(values), dtype=np.bool_)
    if values.dtype.kind == "f":
        return ~np.isfinite(values.astype(np.float64))
    return np.array([_is_missing(value) for value in values], dtype=np.bool_)


def _is_missing(value: object) -> bool:
    # NaN, NaT and pandas' NA have different types; what they share is how they are written.
    return value is None or (not isinstance(value, str) and str(value) in _MISSING)


_MISSING = {"nan", "inf", "-inf", "NaT", "<NA>"}


def _texts(items: list[str]) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    # Not through numpy, whose text drops trailing zero characters and makes two values one.
    known = tuple(sorted(set(items)))
    number = {name: position for position, name in enumerate(known)}
    return known, np.array([number[item] for item in items], dtype=np.int64)
