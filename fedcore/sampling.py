"""Who takes part in a round: deterministic in (seed, round)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from fedcore.seeds import derive
from fedcore.settings.training import Uniform
from fedcore.shares import share
from fedcore.terms import Terms
from fedcore.values import ServerState
from fedcore.workers.worker import Worker

__all__ = ["choose", "drawn"]


def drawn(terms: Terms, *, round: int) -> Tensor | None:
    """Who takes part: positions in the roster, int64, ascending; None when everybody does."""
    if not isinstance(terms.sampling, Uniform):
        return None
    generator = derive(terms.seed, round, "", "sampling")
    return torch.randperm(terms.workers, generator=generator)[: terms.sampling.count].sort().values


def choose(workers: Sequence[Worker], terms: Terms, state: ServerState) -> list[Worker]:
    """Whom to ask in the round after `state`, in the order of the roster.

    Fewer handles than workers are hosts, which share whoever is drawn: as many each, whoever they
    are. One whose share is empty is not asked.
    """
    chosen = drawn(terms, round=state.round + 1)
    if chosen is None:
        return list(workers)
    if len(workers) == terms.workers:
        return [workers[place] for place in chosen.tolist()]
    hosts = len(workers)
    shares = (share(len(chosen), host=host, hosts=hosts) for host in range(hosts))
    return [worker for worker, own in zip(workers, shares, strict=True) if own]
