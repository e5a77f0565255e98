"""Which records every worker of a group sees at every step, as `fedcore.local` deals them.

Letters: K workers of a group, N slots (the records that a worker's first pass touches), n workers
that still train at a step, m records of a batch. A slot is a record's place in the first pass, so
the batches of that pass are plain slices of tensors laid out by slot.

Workers of other sizes are padded: a batch shorter than m is filled with copies of its own first
record, whose weight in the loss is 0. A copy can only be infinite or NaN where its batch is too.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from fedcore.seeds import derive
from fedcore.values import Brief, Plan

__all__ = ["Batch", "Timetable"]


@dataclass(frozen=True)
class Batch:
    """One step of the first n workers of the group, the ones that still train."""

    workers: int
    size: int
    """m, padding included."""
    step: int
    before: int
    """Records of a worker in the steps before, padding included."""
    slots: slice | Tensor
    """Where its records lie: the same slice for all, or int64 [n, m]."""
    counts: Tensor
    """int64 [n]: how many records of each worker are real; the first ones of its row."""
    padded: bool

    @cached_property
    def real(self) -> Tensor:
        """bool [n, m]."""
        places = torch.arange(self.size, device=self.counts.device)
        return places < self.counts[:, None]

    def of(self, laid_out: Tensor) -> Tensor:
        """The batch's part [n, m, ...] of what is laid out by slot [K, N, ...]."""
        if isinstance(self.slots, slice):
            return laid_out[: self.workers, self.slots]
        which = torch.arange(self.workers, device=self.slots.device)[:, None]
        return laid_out[which, self.slots]


@dataclass(frozen=True)
class Timetable:
    """All the steps of a group of workers whose sizes descend, so that those with more to do come
    first and the ones that still train are always the first n."""

    plan: Plan
    round: int
    sizes: tuple[int, ...]
    device: torch.device

    @classmethod
    def of(cls, brief: Brief, sizes: tuple[int, ...], *, device: torch.device) -> "Timetable":
        """The timetable of a brief for workers of these sizes."""
        return cls(brief.plan, brief.ticket.round, sizes, device)

    @cached_property
    def steps(self) -> tuple[int, ...]:
        """[K], how often each worker steps."""
        if self.plan.steps is not None:
            return (self.plan.steps,) * len(self.sizes)
        return tuple(self.plan.epochs * -(-size // self._block(size)) for size in self.sizes)

    @property
    def several_passes(self) -> bool:
        """Whether any worker sees a record twice."""
        return any(
            steps > self._each_pass(size)
            for size, steps in zip(self.sizes, self.steps, strict=True)
        )

    @cached_property
    def slots(self) -> int:
        """N."""
        largest = self.sizes[0]
        return min(largest, self.steps[0] * self._block(largest))

    @cached_property
    def records(self) -> int:
        """Of the worker with most steps, over all of them, padding included."""
        return sum(self._sizes)

    def seen(self) -> Tensor:
        """float64 [K], records over all steps, counted once per pass."""
        found = []
        for size, steps in zip(self.sizes, self.steps, strict=True):
            block = self._block(size)
            passes, rest = divmod(steps, -(-size // block))
            found.append(float(passes * size + min(rest * block, size)))
        return torch.tensor(found, dtype=torch.float64)

    def rows(self, starts: Tensor) -> Tensor:
        """int64 [K, N]: which record of the holdings lies in each slot; `starts` [K]."""
        return starts[:, None] + self._first_pass[self._kind]

    def batches(self) -> Iterator[Batch]:
        """Step by step."""
        orders: dict[int, Iterator[Tensor]] = {}
        current: dict[int, Tensor] = {}
        if self.several_passes:
            orders = {size: self._passes(size) for size in self._distinct}
            current = {size: next(order) for size, order in orders.items()}
        sizes = torch.tensor(self.sizes, device=self.device)
        before = 0
        for step in range(self.steps[0]):
            n, m = self._workers(step), self._sizes[step]
            kinds = [size for size in self._distinct if size >= self.sizes[n - 1]]
            for size in kinds:
                if step and step % self._each_pass(size) == 0:
                    current[size] = next(orders[size])
            where: slice | Tensor
            if step < self._each_pass(self.sizes[n - 1]):  # then everybody is in the first pass
                start = step * self._block(self.sizes[0])
                counts = (sizes[:n] - start).clamp(max=m)
                where = slice(start, start + m)
                fewest = min(self.sizes[n - 1] - start, m)
            else:
                starts = [step % self._each_pass(s) * self._block(s) for s in kinds]
                taken = [min(s - at, self._block(s)) for s, at in zip(kinds, starts, strict=True)]
                parts = [
                    _filled(current[s][at : at + count], m)
                    for s, at, count in zip(kinds, starts, taken, strict=True)
                ]
                kind = self._kind[:n]
                where = torch.stack(parts)[kind].to(self.device)
                counts = torch.tensor(taken)[kind].to(self.device)
                fewest = min(taken)
            yield Batch(n, m, step, before, where, counts, padded=fewest < m)
            before += m

    @cached_property
    def _distinct(self) -> tuple[int, ...]:
        return tuple(sorted(set(self.sizes), reverse=True))

    @cached_property
    def _kind(self) -> Tensor:
        """int64 [K], the position of each worker's size among the distinct ones."""
        position = {size: i for i, size in enumerate(self._distinct)}
        return torch.tensor([position[size] for size in self.sizes])

    @cached_property
    def _first_pass(self) -> Tensor:
        """int64 [distinct sizes, N]: each slot's record; unused slots repeat their batch's first
        record, or the first of all."""
        block = self._block(self.sizes[0])
        found = []
        for size in self._distinct:
            places = torch.arange(self.slots)
            firsts = places // block * block
            places = torch.where(places < size, places, torch.where(firsts < size, firsts, 0))
            found.append(self._order(size)[places])
        return torch.stack(found)

    def _order(self, size: int, generator: torch.Generator | None = None) -> Tensor:
        if not self.plan.shuffle:
            return torch.arange(size)
        return torch.randperm(size, generator=generator or self._stream())

    def _stream(self) -> torch.Generator:
        return derive(self.plan.seed, self.round, "", "order")

    def _passes(self, size: int) -> Iterator[Tensor]:
        """Each pass's order of slots, int64 [size]; the first is 0, 1, 2, ..."""
        generator = self._stream()
        slot_of_record = self._order(size, generator).argsort()
        yield torch.arange(size)
        while True:
            yield slot_of_record[self._order(size, generator)]

    def _block(self, size: int) -> int:
        return self.plan.batch_size or size

    def _each_pass(self, size: int) -> int:
        return -(-size // self._block(size))

    def _workers(self, step: int) -> int:
        steps = self.steps
        return len(steps) if steps[-1] > step else sum(s > step for s in steps)

    @cached_property
    def _sizes(self) -> list[int]:
        return [self._size(step) for step in range(self.steps[0])]

    def _size(self, step: int) -> int:
        """m: the most records that a worker has in its batch at this step."""
        found = 0
        for size in self._distinct:
            if self.plan.steps is None and step >= self.plan.epochs * self._each_pass(size):
                break
            block = self._block(size)
            found = max(found, min(size - step % self._each_pass(size) * block, block))
            if found == self.plan.batch_size:
                break
        return found


def _filled(slots: Tensor, m: int) -> Tensor:
    return slots if len(slots) == m else torch.cat([slots, slots[:1].expand(m - len(slots))])
