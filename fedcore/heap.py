"""What glibc does with freed memory, so that a training does not fetch the same pages again."""

import torch

__all__ = ["keep_freed_memory"]

# Just under the largest block that moves glibc's threshold (32 MiB on 64 bits).
BLOCK_BYTES = 31 * 2**20


def keep_freed_memory() -> None:
    """Let malloc keep up to 62 MiB of freed memory for the next allocation of this process.

    glibc returns the top of its heap to the system whenever more than a threshold of it is free,
    and activations and gradients free it many times a round: each comes back as page faults, which
    can double the time of a small training. The threshold is twice the largest block below 32 MiB
    that was ever freed, so allocate one, untouched, and free it. Changes no number; without effect
    where the C library is another.
    """
    torch.empty(BLOCK_BYTES, dtype=torch.uint8)
