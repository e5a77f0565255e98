"""What a comparison ends in, as rows: for people, for programs, and as points for MLflow."""

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence

from pydantic import JsonValue

from fedcore.comparison import (
    CaseResult,
    CellResult,
    Spread,
    by_case,
    grouped,
    mean_curve,
    measured_by,
)
from fedcore.settings.cells import Cell
from fedcore.settings.comparison import Target

__all__ = [
    "case_figures",
    "cell_rows",
    "points",
    "shown_rows",
    "table_csv",
    "table_json",
    "told_failures",
]

Row = dict[str, str]
UNITS = ("B", "kB", "MB", "GB", "TB")


def shown_rows(
    cells: Sequence[Cell],
    results: Sequence[CellResult],
    failures: Mapping[str, str],
    target: Target | None,
) -> list[Row]:
    """A row for each case, as people read it: mean ± sample standard deviation over seeds."""
    found = {row.case: row for row in by_case(results, target)}
    rows = []
    for case in dict.fromkeys(cell.case for cell in cells):
        labels = [cell.label for cell in cells if cell.case == case]
        lost = {label: failures[label] for label in labels if label in failures}
        finished = len(found[case].seeds) if case in found else 0
        row = {"case": case, "seeds": f"{finished} of {len(labels)}"}
        if case in found:
            row |= _shown(found[case], target)
        if failures:
            row["failed"] = told_failures(lost) or "none"
        rows.append(row)
    columns = dict.fromkeys(name for row in rows for name in row)
    return [{name: row.get(name, "none") for name in columns} for row in rows]


def told_failures(failures: Mapping[str, str]) -> str:
    """Which trainings failed, and why; each reason once.

    >>> told_failures({"a - seed 0": "no route", "a - seed 1": "no route", "b": "no space"})
    'a - seed 0, a - seed 1: no route; b: no space'
    """
    reasons = dict.fromkeys(failures.values())
    return "; ".join(
        f"{', '.join(label for label, why in failures.items() if why == reason)}: {reason}"
        for reason in reasons
    )


def _shown(found: CaseResult, target: Target | None) -> Row:
    tests = [name for name in found.last if name.startswith("test_")]
    # What people compare by comes first; without test records there is the train loss.
    names = sorted(tests, key=lambda name: name.endswith("loss")) or list(found.last)
    row = {name.replace("_", " "): _spread(found.last[name]) for name in names}
    best = found.best.get(f"best_{names[0]}")
    if best is not None:
        row[f"best {names[0].removeprefix('test_').replace('_', ' ')}"] = _spread(best)
    if target is not None:
        rounds, size = found.rounds_to_target, found.bytes_to_target
        row["rounds to target"] = "never" if rounds is None else f"{rounds:g}"
        row["bytes to target"] = "never" if size is None else _bytes(size)
    row["seconds"] = f"{found.seconds.mean:.1f}"
    return row


def _spread(spread: Spread) -> str:
    if not math.isfinite(spread.mean):
        return "not finite"
    said = f"{spread.mean:.4f}"
    return said if spread.deviation is None else f"{said} ± {spread.deviation:.4f}"


def _bytes(size: float) -> str:
    """Bytes in the unit that leaves one to three digits before the point.

    >>> _bytes(1_386_240)
    '1.39 MB'
    """
    power = min(int(math.log10(max(size, 1))) // 3, len(UNITS) - 1)
    return f"{size / 1000**power:.3g} {UNITS[power]}"


def case_figures(
    results: Sequence[CellResult], target: Target | None
) -> list[dict[str, JsonValue]]:
    """Each case's numbers in full; what is not finite or not reached is None."""
    return [
        {
            "case": row.case,
            "seeds": list(row.seeds),
            **{name: _figures(spread) for name, spread in row.last.items()},
            **{name: _figures(spread) for name, spread in row.best.items()},
            "rounds_to_target": row.rounds_to_target,
            "bytes_to_target": row.bytes_to_target,
            "seconds": _figures(row.seconds),
        }
        for row in by_case(results, target)
    ]


def _figures(spread: Spread) -> JsonValue:
    mean = spread.mean if math.isfinite(spread.mean) else None
    return {"mean": mean, "deviation": spread.deviation}


def cell_rows(
    cells: Sequence[Cell], results: Sequence[CellResult], failures: Mapping[str, str]
) -> list[dict[str, JsonValue]]:
    """A row for each cell: how it stands, where its run is, what it ended with."""
    found = {result.label: result for result in results}
    rows: list[dict[str, JsonValue]] = []
    for cell in cells:
        result = found.get(cell.label)
        row: dict[str, JsonValue] = {
            "cell": cell.label,
            "case": cell.case,
            "seed": cell.config.seed,
            "state": "finished" if result else failures.get(cell.label, "not finished"),
        }
        if result is not None:
            row |= {
                "run_id": result.run_id,
                "rounds": len(result.curves["train_loss"]),
                "model_digest": result.model_digest,
                **{name: result.curves[name][-1] for name in measured_by(result)},
            }
        rows.append(row)
    columns = dict.fromkeys(name for row in rows for name in row)
    return [{name: row.get(name) for name in columns} for row in rows]


def table_csv(rows: Sequence[Mapping[str, JsonValue]]) -> bytes:
    """Rows as CSV, which MLflow shows as a table."""
    file = io.StringIO()
    writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue().encode()


def table_json(rows: Sequence[Mapping[str, str]]) -> bytes:
    """Rows in the form that MLflow compares between runs."""
    table = {"columns": list(rows[0]), "data": [list(row.values()) for row in rows]}
    return json.dumps(table, ensure_ascii=False).encode()


def points(
    results: Sequence[CellResult], target: Target | None
) -> list[tuple[str, float, int, int]]:
    """(name, value, timestamp_ms, step) of every case's mean curves and of what it took.

    All follows from the results, so that telling it again changes nothing.
    """
    told = []
    rows = {row.case: row for row in by_case(results, target)}
    for case, cells in grouped(results):
        when = max(cell.ended_ms for cell in cells)
        for name in measured_by(cells[0]):
            means, _ = mean_curve(cells, name)
            told += [(f"{name}/{case}", mean, when, step) for step, mean in enumerate(means, 1)]
            deviation = rows[case].last[name].deviation
            if deviation is not None:
                told.append((f"{name}_deviation/{case}", deviation, when, len(means)))
        for name, value in (
            ("rounds_to_target", rows[case].rounds_to_target),
            ("bytes_to_target", rows[case].bytes_to_target),
            ("seconds", rows[case].seconds.mean),
        ):
            if value is not None:
                told.append((f"{name}/{case}", value, when, 0))
    return told
