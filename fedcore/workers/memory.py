"""Where workers' memories lie: each under its worker and the round it was learnt in."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fedcore.remembering import Remembered
from fedcore.store import open_store
from fedcore.values import Brief

__all__ = ["Memory"]


@dataclass(frozen=True)
class Memory:
    """The memories of the workers behind one handle; `root` is what the URL begins with."""

    root: str

    def recall(self, brief: Brief, workers: Sequence[str]) -> list[Remembered]:
        """What each worker knew after the round that last counted; nothing before the first."""
        if not brief.remembers:
            return []
        store = open_store(self._url(brief))
        return [
            store.get(_key(worker, brief.recall[worker]), Remembered)
            if worker in brief.recall
            else Remembered()
            for worker in workers
        ]

    def keep(self, brief: Brief, learnt: Mapping[str, Remembered]) -> None:
        """Keep what was learnt in the brief's round, which may yet come to nothing: what the
        worker knew before stays as well, and what is older goes.
        """
        store, round = open_store(self._url(brief)), brief.ticket.round
        for worker, remembered in learnt.items():
            store.put(_key(worker, round), remembered, durable=True)
        for key in store.names():
            worker = key.rpartition("/")[0]
            kept = (_key(worker, round), _key(worker, brief.recall.get(worker, 0)))
            if worker in learnt and key not in kept:
                store.drop(key)

    def _url(self, brief: Brief) -> str:
        return f"{self.root}{brief.ticket.run}/memory"


def _key(worker: str, round: int) -> str:
    return f"{worker}/{round:07d}"
