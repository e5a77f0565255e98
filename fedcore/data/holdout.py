"""The central test set: records that no worker gets."""

import numpy as np
from numpy.typing import NDArray

from fedcore.data.dataset import Table
from fedcore.errors import DataError
from fedcore.seeds import derive

__all__ = ["hold_out"]


def hold_out(
    table: Table, *, share: float, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Split the records into training and test positions, both ascending.

    round(share * N) records are for testing, at least one unless `share` is 0. Where there are
    classes, each gives its share to within one record, and keeps at least one for training.

    Raises:
        DataError: nothing would be left to train on, or nothing to test on.
    """
    n = len(table.records)
    if share == 0:
        return np.arange(n), np.empty(0, dtype=np.int64)
    labels = table.records.labels
    strata = np.zeros(n, dtype=np.int64) if labels is None else labels.numpy()
    sizes = np.bincount(strata)
    quotas = _quotas(sizes, share=share, count=max(1, int(share * n + 0.5)))
    if quotas.sum() == 0:
        raise DataError(
            "A test set must leave every class a record to train on; given: data.test_share "
            f"{share} of {n} records in {int((sizes > 0).sum())} classes; add records, or set "
            "data.test_share to 0."
        )
    stream = np.random.default_rng(derive(seed, 0, "", "holdout").initial_seed())
    test = np.zeros(n, dtype=np.bool_)
    order = stream.permutation(n)
    by_class = order[np.argsort(strata[order], kind="stable")]
    for start, quota in zip(np.cumsum(sizes) - sizes, quotas, strict=True):
        test[by_class[start : start + quota]] = True
    return np.flatnonzero(~test), np.flatnonzero(test)


def _quotas(sizes: NDArray[np.int64], *, share: float, count: int) -> NDArray[np.int64]:
    """Test records per class by largest remainders: they add up to `count` where classes allow."""
    most = np.maximum(sizes - 1, 0)
    exact = sizes * share
    quotas: NDArray[np.int64] = np.minimum(np.floor(exact).astype(np.int64), most)
    # Ties go to the class with the smaller number, so that nothing depends on the sort's whims.
    order = np.argsort(np.floor(exact) - exact, kind="stable")
    first = order[quotas[order] < most[order]][: max(0, count - int(quotas.sum()))]
    quotas[first] += 1
    return quotas
