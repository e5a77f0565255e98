"""How several hosts share what there is to do."""

__all__ = ["share"]


def share(count: int, *, host: int, hosts: int) -> range:
    """Which of `count` things are for number `host` of so many: shares differ by one at most.

    >>> [list(share(5, host=host, hosts=2)) for host in range(2)]
    [[0, 1], [2, 3, 4]]
    """
    return range(count * host // hosts, count * (host + 1) // hosts)
