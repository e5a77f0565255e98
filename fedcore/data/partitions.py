"""How the training records are dealt out to workers.

Letters: K workers, N training records, C classes.
"""

import re
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from fedcore.data.dataset import Table
from fedcore.data.distinct import distinct
from fedcore.errors import DataError, Incompatible, nearest
from fedcore.seeds import derive
from fedcore.settings.data import (
    ByColumn,
    Dirichlet,
    ExponentialSizes,
    FeatureNoise,
    Iid,
    LinearSizes,
    Partition,
    QuantitySkew,
    Shards,
)

__all__ = ["partition"]

# A possible request is usually met in a few draws. A thousand take a tenth of a second for hundreds
# of workers, and then settle that it is hopeless.
DRAWS = 1000
LONGEST_ID = 60


def partition(
    table: Table,
    how: Partition,
    *,
    names: list[str] | None,
    seed: int,
    among: NDArray[np.int64],
) -> dict[str, NDArray[np.int64]]:
    """Each worker's positions in the table, workers in the order of `names`.

    Every position in `among` (the training records) goes to exactly one worker, and each worker's
    are ascending: a single worker holds the records in the source's order. `names` None, for a
    partition by column only, makes one worker for each value, or for each few of them.

    Raises:
        DataError: a worker would get no records, or fewer than asked; no such column; names that
            are not as many as the column's values.
        Incompatible: a partition by label of data without classes.
    """
    among = np.sort(among)
    if isinstance(how, ByColumn):
        dealt = _by_column(table, how, names=names, among=among)
    elif not names:
        raise DataError(
            f"A partition {how.kind} must know its workers; given: no names; set workers.ids or "
            "workers.count."
        )
    else:
        stream = np.random.default_rng(derive(seed, 0, "", "partition").initial_seed())
        parts = _parts(table, how, names=names, among=among, stream=stream)
        dealt = dict(zip(names, parts, strict=True))
    _refuse_empty(dealt, how, records=len(among))
    return {name: np.sort(part) for name, part in dealt.items()}


def _parts(
    table: Table,
    how: Iid | Dirichlet | Shards | QuantitySkew | LinearSizes | ExponentialSizes | FeatureNoise,
    *,
    names: list[str],
    among: NDArray[np.int64],
    stream: np.random.Generator,
) -> list[NDArray[np.int64]]:
    if isinstance(how, Iid | FeatureNoise):
        return np.array_split(stream.permutation(among), len(names))
    if isinstance(how, LinearSizes | ExponentialSizes):
        counts = _cut(_sizes(how, workers=len(names)), np.array([len(among)]))
        return np.split(stream.permutation(among), np.cumsum(counts[0])[:-1])
    if isinstance(how, QuantitySkew):
        pools = [among]
    else:
        labels = _labels(table, how)[among]
        if isinstance(how, Shards):
            return _shards(among, labels, each=how.each, names=names, stream=stream)
        pools = [among[labels == label] for label in np.unique(labels)]
    return _skewed(pools, how, names=names, stream=stream)


def _skewed(
    pools: list[NDArray[np.int64]],
    how: Dirichlet | QuantitySkew,
    *,
    names: list[str],
    stream: np.random.Generator,
) -> list[NDArray[np.int64]]:
    """Cut each pool by shares p ~ Dirichlet(alpha, ..., alpha) [K], drawn anew for each pool.

    One pool per class gives label skew, one pool of all records gives quantity skew.
    """
    sizes = np.array([len(pool) for pool in pools])

    def draw() -> NDArray[np.int64]:
        return _cut(stream.dirichlet(np.full(len(names), how.alpha), size=len(pools)), sizes)

    counts = _drawn(draw, how, names=names, records=int(sizes.sum()))
    parts: list[list[NDArray[np.int64]]] = [[] for _ in names]
    for pool, count in zip(pools, counts, strict=True):
        pieces = np.split(stream.permutation(pool), np.cumsum(count)[:-1])
        for part, piece in zip(parts, pieces, strict=True):
            part.append(piece)
    return [np.concatenate(part) for part in parts]


def _sizes(how: LinearSizes | ExponentialSizes, *, workers: int) -> NDArray[np.float64]:
    """Shares [1, K] of the records: k for worker k, or ratio^((k - 1) / (K - 1))."""
    if isinstance(how, LinearSizes):
        relative = np.arange(1.0, workers + 1)
    else:
        relative = how.ratio ** np.linspace(0, 1, workers)
    shares: NDArray[np.float64] = relative / relative.sum()
    return shares[None]


def _cut(shares: NDArray[np.float64], sizes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Counts [C, K]: each pool of `sizes` [C], cut by its shares [C, K]."""
    ends = np.floor(np.cumsum(shares, axis=1) * sizes[:, None] + 1e-9).astype(np.int64)
    ends[:, -1] = sizes  # the shares add up to 1 only to rounding
    counts: NDArray[np.int64] = np.diff(np.minimum(ends, sizes[:, None]), axis=1, prepend=0)
    return counts


def _drawn(
    draw: Callable[[], NDArray[np.int64]],
    how: Dirichlet | QuantitySkew,
    *,
    names: list[str],
    records: int,
) -> NDArray[np.int64]:
    """Counts [C, K] whose every worker has at least `how.least` records."""
    if records < how.least * len(names):
        raise DataError(
            f"Every worker must get at least {how.least} records (workers.partition.least); given: "
            f"{records} training records for {len(names)} workers; lower least or take fewer "
            "workers."
        )
    best, fewest = "", -1
    for _ in range(DRAWS):
        counts = draw()
        held = counts.sum(axis=0)
        if held.min() >= how.least:
            return counts
        if held.min() > fewest:
            fewest, best = int(held.min()), names[int(held.argmin())]
    raise DataError(
        f"Every worker must get at least {how.least} records (workers.partition.least); given: "
        f"{records} records for {len(names)} workers with alpha {how.alpha}, and even the best "
        f"draw of {DRAWS} left {best} with {fewest}; raise workers.partition.alpha, lower least, "
        "or take fewer workers."
    )


def _shards(
    among: NDArray[np.int64],
    labels: NDArray[np.int64],
    *,
    each: int,
    names: list[str],
    stream: np.random.Generator,
) -> list[NDArray[np.int64]]:
    count = each * len(names)
    if count > len(among):
        raise DataError(
            f"Every shard must hold a record; given: {len(names)} workers with {each} shards each "
            f"for {len(among)} records; lower workers.partition.each or take fewer workers."
        )
    # Shuffled before the stable sort: which records of a class share a shard is left to chance.
    order = stream.permutation(len(among))
    by_label = among[order[np.argsort(labels[order], kind="stable")]]
    shards = np.array_split(by_label, count)
    deck = stream.permutation(count).reshape(len(names), each)
    return [np.concatenate([shards[shard] for shard in hand]) for hand in deck]


def _labels(table: Table, how: Dirichlet | Shards) -> NDArray[np.int64]:
    labels = table.records.labels
    if labels is None:
        raise Incompatible(
            f"A partition {how.kind} must have classes to go by; given: data without classes "
            "(regression); choose workers.partition.kind iid, quantity_skew or by_column."
        )
    return labels.numpy()


def _by_column(
    table: Table, how: ByColumn, *, names: list[str] | None, among: NDArray[np.int64]
) -> dict[str, NDArray[np.int64]]:
    if how.column not in table.columns:
        raise DataError(
            f"workers.partition.column must be a column of the data; given: {how.column!r}"
            f"{nearest(how.column, table.columns)}; columns: "
            f"{', '.join(table.columns) or 'none'}."
        )
    values, numbers = distinct(table.columns[how.column], column=how.column)
    if how.each > 1:
        starts = range(0, len(values), how.each)
        groups = [values[start : start + how.each] for start in starts]
        values, numbers = tuple(map(_span, groups)), numbers // how.each
    made = _ids(how.column, values)
    if names is not None and len(names) != len(values):
        what = "value" if how.each == 1 else "group"
        raise DataError(
            f"There must be a name for each {what} of column {how.column!r}; given: {len(names)} "
            f"names for {len(values)} {what}s ({_few(values)}); give as many in workers.ids, or "
            "none."
        )
    held = numbers[among]
    by_value = among[np.argsort(held, kind="stable")]
    parts = np.split(by_value, np.cumsum(np.bincount(held, minlength=len(values)))[:-1])
    if names is None:
        names = made
    for own in (list(values), made):
        # Names that are the values, in whatever order, must get their own records.
        if set(names) == set(own):
            part_of = dict(zip(own, parts, strict=True))
            return {name: part_of[name] for name in names}
    return dict(zip(names, parts, strict=True))


def _span(group: tuple[str, ...]) -> str:
    return group[0] if len(group) == 1 else f"{group[0]}-to-{group[-1]}"


def _ids(column: str, values: tuple[str, ...]) -> list[str]:
    """A distinct id for each value that also serves as a name of files and runs."""
    made: dict[str, None] = {}
    for value in values:
        slug = re.sub(r"[^A-Za-z0-9_.-]+", "-", f"{column}-{value}").lstrip("_.-")
        name = slug[:LONGEST_ID] or "worker"
        copy = 1
        while name in made:
            copy += 1
            name = f"{slug[: LONGEST_ID - 1 - len(str(copy))] or 'worker'}-{copy}"
        made[name] = None
    return list(made)


def _refuse_empty(dealt: dict[str, NDArray[np.int64]], how: Partition, *, records: int) -> None:
    empty = [name for name, part in dealt.items() if not len(part)]
    if not empty:
        return
    remedy = "take fewer workers or more records"
    if isinstance(how, ByColumn):
        remedy = f"lower data.test_share, or merge rare values of column {how.column!r}"
    elif isinstance(how, ExponentialSizes):
        remedy = f"lower workers.partition.ratio, or {remedy}"
    raise DataError(
        f"Every worker must have a record to train on; given: {records} training records, and "
        f"none for {_few(tuple(empty))}; {remedy}."
    )


def _few(names: tuple[str, ...]) -> str:
    """The first names, so that a message about thousands stays readable."""
    more = f" and {len(names) - 12} more" if len(names) > 12 else ""
    return ", ".join(names[:12]) + more
