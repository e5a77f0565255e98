"""Which labels each worker holds: how different the workers are, in one table."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedcore.values import Description

__all__ = ["LabelCounts", "label_counts"]

MOST_WORKERS = 1000
"""More rows than a picture has pixels tell nothing."""


@dataclass(frozen=True, eq=False)
class LabelCounts:
    """`counts` int64 [K, C]: records of each worker and class."""

    workers: tuple[str, ...]
    classes: tuple[str, ...]
    counts: NDArray[np.int64]


def label_counts(descriptions: Sequence[Description]) -> LabelCounts | None:
    """What the workers let be known of their labels, and nothing else, as a table.

    None where there is nothing to compare: no classes, a single worker, more than 1,000 workers,
    or one that does not tell.
    """
    told = {w: labels for one in descriptions for w, labels in one.labels_of_each.items()}
    everybody = sum(description.workers for description in descriptions)
    if not 1 < len(told) == everybody <= MOST_WORKERS or not all(told.values()):
        return None
    classes = tuple(dict.fromkeys(name for labels in told.values() for name in labels))
    counts = [[labels.get(name, 0) for name in classes] for labels in told.values()]
    return LabelCounts(tuple(told), classes, np.array(counts, dtype=np.int64))
