"""How many workers are computed together before their numbers fill the memory that is meant.

Letters: N records of a worker, S rows of all its steps.
"""

import math
from collections.abc import Mapping

from fedcore.cohort.anatomy import Anatomy
from fedcore.cohort.batches import Timetable
from fedcore.cohort.fold import reads_records
from fedcore.data.dataset import Dataset
from fedcore.settings.training import Adam, Sgd
from fedcore.values import Brief

__all__ = ["most_together"]

NUMBERS = 2**23
"""Of a group, in all: 32 MB in float32. Twice that was no faster, and a tenth of the process."""


def most_together(
    brief: Brief, anatomy: Anatomy, shared: Mapping[str, int], records: Dataset, size: int
) -> int:
    """How many workers with so many records fit; at least one."""
    timetable = Timetable.of(brief, (size,), device=records.features.device)
    slots, rows = timetable.slots, timetable.records
    optimiser = brief.plan.optimiser
    kept = 0 if isinstance(optimiser, Sgd) else 2 if isinstance(optimiser, Adam) else 1
    parameters = brief.model.parameters
    numbers = slots * (math.prod(records.inputs) + math.prod(records.targets.shape[1:]))
    apart = sum(tensor.numel() for tensor in parameters.values())
    for name, per_record in shared.items():
        out, wide = parameters[name].shape
        apart -= out * wide
        if name == reads_records(anatomy):
            numbers += slots * (slots + (2 + kept) * out)
        else:
            numbers += rows * per_record * (wide + (1 + kept) * out)
    # Weights, gradients, what the optimiser keeps, and the sum's float64.
    return max(1, NUMBERS // (numbers + apart * (4 + kept)))
