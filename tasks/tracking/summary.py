"""What a training reached: its best round, by the loss on test records where there are any."""

import math
from collections.abc import Sequence

from fedcore.values import RoundRecord

__all__ = ["best_record", "summary"]


def best_record(records: Sequence[RoundRecord]) -> RoundRecord:
    """The record with the smallest test_loss, or train_loss if no round was measured on test
    records. Of rounds that were, where not all are.

    The earliest of equals; a loss that is not finite is never best while another is.
    """

    def rank(record: RoundRecord) -> tuple[bool, float, int]:
        loss = record.metrics.get("test_loss", record.metrics["train_loss"])
        return (not math.isfinite(loss), loss if math.isfinite(loss) else 0.0, record.round)

    tested = [record for record in records if "test_loss" in record.metrics]
    return min(tested or records, key=rank)


def summary(records: Sequence[RoundRecord]) -> dict[str, float]:
    """`best_round`, and what was measured in it: `best_test_loss`, `best_test_accuracy`, ...

    All are of that one round, which is the round of the logged model `best`.
    """
    best = best_record(records)
    measured = {
        f"best_{name}": value
        for name, value in best.metrics.items()
        if name == "train_loss" or name.startswith("test_")
    }
    return {"best_round": float(best.round), **measured}
