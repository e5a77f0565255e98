"""Every random number comes from here: one setting, one derivation, no global generator.

A stream is named by (seed, round, worker, purpose). Neither the run nor the attempt enters a
stream, so two runs of the same settings, and a round that is repeated, draw the same numbers.
Keys, masks and privacy noise must never come from here: they belong to the operating system.
"""

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

__all__ = ["derive", "global_stream"]

# Layers such as Dropout draw from torch's one global generator. Whoever seeds it for a worker
# must have it alone, or concurrent workers would draw from each other's streams.
_global_generator = threading.RLock()


def derive(seed: int, round: int, worker: str, purpose: str) -> torch.Generator:
    """A generator that depends on these four things and on nothing else.

    `worker` is empty for what is the same for all workers of a round.

    >>> a, b = (derive(7, 1, "bob", "order") for _ in range(2))
    >>> bool((torch.randperm(9, generator=a) == torch.randperm(9, generator=b)).all())
    True
    """
    name = f"fedrounds|{seed}|{round}|{worker}|{purpose}".encode()
    # torch seeds are 64 bits wide and signed; 63 hashed bits leave no two names close.
    number = int.from_bytes(hashlib.sha256(name).digest()[:8], "big") >> 1
    return torch.Generator().manual_seed(number)


@contextmanager
def global_stream(generator: torch.Generator) -> Iterator[None]:
    """Let torch's global generator continue `generator`'s stream; restore it afterwards.

    For code that cannot be given a generator (parameter initialisation, Dropout). One thread
    at a time: the others wait.
    """
    with _global_generator:
        before = torch.get_rng_state()
        torch.set_rng_state(generator.get_state())
        try:
            yield
        finally:
            generator.set_state(torch.get_rng_state())
            torch.set_rng_state(before)
