"""Which workers are computed together: as many as memory allows, of sizes that fit.

Letters: K workers, N slots (the most records of a worker in the group).
"""

from collections.abc import Iterator, Mapping, Sequence

__all__ = ["groups"]

WASTE = 0.5
"""Padding per real record at most: beyond that a second pass is cheaper than the padding."""


def groups(
    sizes: Sequence[int], *, pads: bool, most: Mapping[int, int]
) -> Iterator[tuple[int, ...]]:
    """Positions in `sizes`, each group by descending size.

    Without padding a group has one size. `most` says of a size how many
    workers like that fit into memory.

    >>> most = {3: 8, 4: 8, 9: 8}
    >>> list(groups([3, 9, 9, 4], pads=False, most=most))
    [(1, 2), (3,), (0,)]
    >>> list(groups([3, 9, 9, 4], pads=True, most=most))
    [(1, 2, 3, 0)]
    """
    order = sorted(range(len(sizes)), key=lambda k: (-sizes[k], k))
    group: list[int] = []
    padding = 0
    for k in order:
        if group:
            largest = sizes[group[0]]
            padding += largest - sizes[k]
            real = sum(sizes[j] for j in group) + sizes[k]
            full = len(group) >= most[largest]
            if full or (padding > WASTE * real if pads else sizes[k] != largest):
                yield tuple(group)
                group, padding = [], 0
        group.append(k)
    if group:
        yield tuple(group)
