"""Every aggregator in plain loops, from the papers: slow, and compared with the fast forms.

Shares nothing with fedcore.aggregators but the derivation of random streams. Rows are lists of
lists, so nothing is vectorised by accident.
"""

import math
from collections.abc import Callable, Sequence

import torch

from fedcore.seeds import derive

Row = list[float]
Rows = list[Row]


def weighted_mean(rows: Rows, weights: Row) -> Row:
    total = math.fsum(weights)
    return [
        math.fsum(w * v for w, v in zip(weights, column, strict=True)) / total
        for column in zip(*rows, strict=True)
    ]


def mean(rows: Rows) -> Row:
    return weighted_mean(rows, [1.0] * len(rows))


def norm(row: Sequence[float]) -> float:
    return math.sqrt(math.fsum(v * v for v in row))


def squared_distance(left: Row, right: Row) -> float:
    return math.fsum((a - b) ** 2 for a, b in zip(left, right, strict=True))


def middle(values: Sequence[float]) -> float:
    ordered = sorted(values)
    half = len(ordered) // 2
    return ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2


def coordinate_median(rows: Rows) -> Row:
    return [middle(column) for column in zip(*rows, strict=True)]


def trimmed_mean(rows: Rows, *, faulty: int) -> Row:
    found = []
    for column in zip(*rows, strict=True):
        left = list(column)
        for _ in range(faulty):
            left.remove(min(left))
            left.remove(max(left))
        found.append(math.fsum(left) / len(left))
    return found


def mean_of_nearest(rows: Rows, *, keep: int) -> Row:
    found = []
    for column in zip(*rows, strict=True):
        centre, left, taken = middle(column), list(column), []
        for _ in range(keep):
            nearest = min(left, key=lambda v: (abs(v - centre), v))
            left.remove(nearest)
            taken.append(nearest)
        found.append(math.fsum(taken) / keep)
    return found


def scores(rows: Rows, *, faulty: int) -> Row:
    found = []
    for i, row in enumerate(rows):
        others = sorted(squared_distance(row, r) for j, r in enumerate(rows) if j != i)
        found.append(math.fsum(others[: max(1, len(rows) - faulty - 2)]))
    return found


def krum(rows: Rows, *, faulty: int) -> Row:
    score = scores(rows, faulty=faulty)
    return rows[score.index(min(score))]


def multi_krum(rows: Rows, *, faulty: int, keep: int) -> Row:
    score = scores(rows, faulty=faulty)
    best = sorted(range(len(rows)), key=lambda i: (score[i], i))[:keep]
    return mean([rows[i] for i in best])


def bulyan(rows: Rows, *, faulty: int) -> Row:
    left, taken = list(rows), []
    for _ in range(len(rows) - 2 * faulty):
        best = krum(left, faulty=faulty)
        left.remove(best)
        taken.append(best)
    return mean_of_nearest(taken, keep=len(taken) - 2 * faulty)


def geometric_median(rows: Rows, weights: Row, *, smoothing: float, iterations: int) -> Row:
    z = [0.0] * len(rows[0])
    for _ in range(iterations):
        pull = [
            w / max(smoothing, math.sqrt(squared_distance(row, z)))
            for row, w in zip(rows, weights, strict=True)
        ]
        z = weighted_mean(rows, pull)
    return z


def centred_clipping(rows: Rows, previous: Row, *, radius: float, iterations: int) -> Row:
    v = list(previous)
    for _ in range(iterations):
        cut = []
        for row in rows:
            away = [a - b for a, b in zip(row, v, strict=True)]
            scale = min(1.0, radius / norm(away)) if norm(away) else 1.0
            cut.append([scale * a for a in away])
        v = [a + b for a, b in zip(v, mean(cut), strict=True)]
    return v


def norm_bounding(rows: Rows, weights: Row, *, bound: float | None) -> Row:
    limit = middle([norm(row) for row in rows]) if bound is None else bound
    cut = [[v * min(1.0, limit / norm(row)) for v in row] if norm(row) else row for row in rows]
    return weighted_mean(cut, weights)


def fltrust(rows: Rows, trusted: Row) -> Row:
    length = norm(trusted)
    trust, turned = [], []
    for row in rows:
        cosine = 0.0
        if norm(row) and length:
            inner = math.fsum(a * b for a, b in zip(row, trusted, strict=True))
            cosine = inner / norm(row) / length
        trust.append(max(0.0, cosine))
        turned.append([v * length / norm(row) if norm(row) else 0.0 for v in row])
    return weighted_mean(turned, trust) if sum(trust) else [0.0] * len(trusted)


def mixed(rows: Rows, *, faulty: int) -> Rows:
    found = []
    for row in rows:
        order = sorted(
            range(len(rows)),
            key=lambda j: (squared_distance(row, rows[j]), j),
        )
        found.append(mean([rows[j] for j in order[: len(rows) - faulty]]))
    return found


def bucketed(
    rows: Rows, weights: Row, inner: Callable[[Rows, Row], Row], *, size: int, seed: int, round: int
) -> Row:
    order = torch.randperm(len(rows), generator=derive(seed, round, "", "bucketing")).tolist()
    means, sums = [], []
    while order:
        bucket, order = order[:size], order[size:]
        means.append(mean([rows[i] for i in bucket]))
        sums.append(math.fsum(weights[i] for i in bucket))
    return inner(means, sums)
