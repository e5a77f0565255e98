"""What a comparison found: one row for each case, means and spreads over its seeds."""

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from fedcore.settings.comparison import Target

__all__ = [
    "CaseResult",
    "CellResult",
    "Spread",
    "by_case",
    "bytes_to",
    "grouped",
    "mean_curve",
    "measured_by",
    "median_or_never",
    "rounds_to",
]


@dataclass(frozen=True)
class CellResult:
    """A finished training of a comparison: its metrics after every round, [R] each."""

    case: str
    label: str
    seed: int
    run_id: str
    model_digest: str
    curves: Mapping[str, Sequence[float]]
    best: Mapping[str, float]
    """What was measured in its best round: `best_round`, `best_test_loss`, ..."""
    ended_ms: int
    """When its last round was finished."""


@dataclass(frozen=True)
class Spread:
    """Mean and sample standard deviation of n numbers; of one number there is no deviation.

    mean = sum(x) / n;  deviation = sqrt(sum((x - mean)^2) / (n - 1))
    """

    mean: float
    deviation: float | None

    @classmethod
    def of(cls, numbers: Sequence[float]) -> "Spread":
        """The spread of at least one number; what is not finite makes it NaN."""
        if not all(map(math.isfinite, numbers)):
            return cls(math.nan, None)
        deviation = statistics.stdev(numbers) if len(numbers) > 1 else None
        return cls(statistics.fmean(numbers), deviation)


@dataclass(frozen=True)
class CaseResult:
    """One row of the table: a case over the seeds that finished."""

    case: str
    seeds: tuple[int, ...]
    last: Mapping[str, Spread]
    """After the last round: train_loss and every test metric."""
    best: Mapping[str, Spread]
    """In each training's best round."""
    rounds_to_target: float | None
    """Median over seeds; None: never, that is not in half of the seeds."""
    bytes_to_target: float | None
    seconds: Spread
    """Sum of `round_seconds`; trainings that ran beside it are in there."""


def by_case(results: Sequence[CellResult], target: Target | None) -> list[CaseResult]:
    """One row for each case with a finished training, in the order of `results`."""
    rows = []
    for case, cells in grouped(results):
        rows.append(
            CaseResult(
                case,
                tuple(cell.seed for cell in cells),
                {
                    n: Spread.of([cell.curves[n][-1] for cell in cells])
                    for n in measured_by(cells[0])
                },
                {n: Spread.of([cell.best[n] for cell in cells]) for n in cells[0].best},
                median_or_never([rounds_to(target, cell.curves) for cell in cells]),
                median_or_never([bytes_to(target, cell.curves) for cell in cells]),
                Spread.of([math.fsum(cell.curves["round_seconds"]) for cell in cells]),
            )
        )
    return rows


def measured_by(cell: CellResult) -> list[str]:
    """The metrics that say how good a model is: train_loss and every test metric."""
    return [name for name in cell.curves if name == "train_loss" or name.startswith("test_")]


def grouped(results: Sequence[CellResult]) -> Iterator[tuple[str, list[CellResult]]]:
    """The trainings of each case, in the order of `results`."""
    for case in dict.fromkeys(result.case for result in results):
        yield case, [result for result in results if result.case == case]


def rounds_to(target: Target | None, curves: Mapping[str, Sequence[float]]) -> int | None:
    """The first round after which the target holds, counted from 1; None: never, or no target."""
    if target is None or target.metric not in curves:
        return None
    sign = 1 if target.reach == "at_least" else -1
    for round, value in enumerate(curves[target.metric], start=1):
        if sign * value >= sign * target.value:
            return round
    return None


def bytes_to(target: Target | None, curves: Mapping[str, Sequence[float]]) -> float | None:
    """Bytes up and down until the target holds: sum(bytes_up[r] + bytes_down[r], r <= R)."""
    rounds = rounds_to(target, curves)
    if rounds is None:
        return None
    return math.fsum([*curves["bytes_up"][:rounds], *curves["bytes_down"][:rounds]])


def median_or_never(values: Sequence[float | None]) -> float | None:
    """The median, where None is later than any number.

    >>> median_or_never([4, None, 6]), median_or_never([4, None]), median_or_never([4, 6])
    (6, None, 5.0)
    """
    middle = statistics.median([math.inf if value is None else value for value in values])
    return middle if math.isfinite(middle) else None


def mean_curve(cells: Sequence[CellResult], metric: str) -> tuple[list[float], list[float]]:
    """Mean and sample standard deviation after each round that all of them have, [R] each.

    The deviation of one training is 0.
    """
    columns = zip(*(cell.curves[metric] for cell in cells), strict=False)
    spreads = [Spread.of(column) for column in columns]
    return [s.mean for s in spreads], [s.deviation or 0.0 for s in spreads]
