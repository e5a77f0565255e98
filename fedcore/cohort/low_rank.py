"""A linear layer of K workers that is never copied K times: the shared weight plus low rank.

A step moves a worker's weight [out, in] by a product of its batch's coefficients and inputs, and
decay, momentum and the pull of a proximal rule only scale what was there. So after t steps

    W_k = c_t W + E_k^T A_k        b_k = c_t b + sum over rows of E_k

with A_k [S, in] the layer's inputs so far, E_k [S, out] what the steps made of the gradients
d = dLoss_k / dz, and c_t one number that all workers share. The forward product of a batch a is

    z = c_t (a W^T + b) + (a A_k^T + 1) E_k

where the first term is one product for the whole cohort; the bias is one more input that is
always 1. It pays while a worker sees fewer rows S in a round than the layer is wide.

Letters: K workers, n of them still training, m records of a batch, r rows (a record can have
several: tokens), S rows of all steps.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from fedcore.cohort.batches import Batch
from fedcore.rules import Plain, Proximal
from fedcore.settings.training import Momentum, Sgd
from fedcore.values import Brief

__all__ = ["LowRank", "Recurrence", "Tabled"]


@dataclass(frozen=True)
class Recurrence:
    """How a step maps (c, E) and the velocity's (cv, V) to the next ones.

    With pull p = decay + mu of the rule, learning rate lr and momentum q:

        cv' = q cv + p c - mu         V' = q V + p E + [d]
        c'  = c - lr cv'              E' = E - lr V'

    Nesterov steps along p c - mu + q cv' and p E + [d] + q V' instead; plain descent has q = 0.
    """

    learning_rate: float
    decay: float
    mu: float
    momentum: float
    nesterov: bool

    @classmethod
    def of(cls, brief: Brief) -> "Recurrence | None":
        """None where a step is not linear in gradients and weights, the same for all workers."""
        plan, rule = brief.plan, brief.rule
        if type(rule) not in (Plain, Proximal) or not isinstance(plan.optimiser, Sgd | Momentum):
            return None
        mu = rule.mu if isinstance(rule, Proximal) else 0.0
        if plan.clip_norm is not None and mu:
            # Clipping would scale the rule's pull by another factor for each worker.
            return None
        momentum = plan.optimiser.momentum if isinstance(plan.optimiser, Momentum) else 0.0
        nesterov = isinstance(plan.optimiser, Momentum) and plan.optimiser.nesterov
        return cls(plan.learning_rate, plan.weight_decay, mu, momentum, nesterov)

    @property
    def pull(self) -> float:
        """p."""
        return self.decay + self.mu

    def shares(self, steps: int) -> list[float]:
        """c_0 .. c_steps: the share of the received weights that is left after so many steps."""
        share, velocity = 1.0, 0.0
        found = [share]
        for _ in range(steps):
            slope = self.pull * share - self.mu
            velocity = self.momentum * velocity + slope
            direction = slope + self.momentum * velocity if self.nesterov else velocity
            share -= self.learning_rate * direction
            found.append(share)
        return found

    def advance(
        self, moved: Tensor, velocity: Tensor | None, d: Tensor, new: slice | Tensor
    ) -> None:
        """One step, in place.

        `moved` and `velocity` [n, filled, out] are E and V; `d` [n, r, out] is added at `new`,
        a slice of rows or their positions [n, r].
        """
        lr = self.learning_rate
        if velocity is None:
            if self.pull:
                moved.mul_(1 - lr * self.pull)
            _add_at(moved, d, new, scale=-lr)
            return
        velocity.mul_(self.momentum)
        if self.pull:
            velocity.add_(moved, alpha=self.pull)
        _add_at(velocity, d, new, scale=1.0)
        if self.nesterov:
            moved.mul_(1 - lr * self.pull)
            _add_at(moved, d, new, scale=-lr)
            moved.add_(velocity, alpha=-lr * self.momentum)
        else:
            moved.add_(velocity, alpha=-lr)


def _add_at(rows: Tensor, d: Tensor, new: slice | Tensor, *, scale: float) -> None:
    if isinstance(new, slice):
        rows[:, new].add_(d, alpha=scale)
    else:
        # Adds up where padding repeats a position.
        rows.scatter_add_(1, new[:, :, None].expand(-1, -1, d.shape[2]), d * scale)


@dataclass(frozen=True, eq=False)
class LowRank:
    """A layer whose inputs are computed anew at every step: each step appends its rows."""

    weight: Tensor
    """[out, in], as received."""
    bias: Tensor | None
    """[out]; None where there is none, or where it is kept for each worker by itself."""
    inputs: Tensor
    """A [K, S, in]."""
    moved: Tensor
    """E [K, S, out]."""
    velocity: Tensor | None
    """V [K, S, out] where there is momentum."""
    per_record: int
    """Rows that a record has in one step."""

    @classmethod
    def make(
        cls,
        weight: Tensor,
        bias: Tensor | None,
        *,
        workers: int,
        records: int,
        per_record: int,
        recurrence: Recurrence,
    ) -> "LowRank":
        """Nothing moved yet, and room for so many records of each worker."""
        out, wide = weight.shape
        moved = weight.new_zeros(workers, records * per_record, out)
        return cls(
            weight,
            bias,
            # Zeros, not just room: workers that stop early leave rows unused, and 0 times what
            # happens to lie in memory can be NaN.
            weight.new_zeros(workers, records * per_record, wide),
            moved,
            torch.zeros_like(moved) if recurrence.momentum else None,
            per_record,
        )

    def product(self, a: Tensor, batch: Batch, *, share: float) -> Tensor:
        """z [n, r, out] of inputs a [n, r, in]; differentiable in a."""
        n, rows, wide = a.shape
        z = _shared(a.reshape(n * rows, wide), self.weight, self.bias, share).view(n, rows, -1)
        past = batch.before * self.per_record
        if past:
            gram = _gram(a, self.inputs[:n, :past], self.bias)
            z = torch.baddbmm(z, gram, self.moved[:n, :past])
        return z

    def learn(self, a: Tensor, d: Tensor, batch: Batch, recurrence: Recurrence) -> None:
        """Append the step's inputs [n, r, in] and gradients [n, r, out]."""
        n, rows, _ = a.shape
        past = batch.before * self.per_record
        self.inputs[:n, past : past + rows] = a
        recurrence.advance(
            self.moved[:n, : past + rows],
            None if self.velocity is None else self.velocity[:n, : past + rows],
            d,
            slice(past, past + rows),
        )

    def add_to(
        self, weight: Tensor, bias: Tensor | None, *, weights: Tensor, shares: Tensor
    ) -> None:
        """Add sum_k weights_k W_k to `weight` and that of b_k to `bias`, both float64, in place;
        `weights` and `shares` (c of each) are float64 [K]."""
        _add_to(self, weight, bias, weights, shares)

    def each(self, shares: Tensor) -> tuple[Tensor, Tensor | None]:
        """W_k [K, out, in] and b_k [K, out]."""
        return _each(self, shares)


@dataclass(frozen=True, eq=False)
class Tabled:
    """A layer whose inputs are the records themselves: one row for each record, however often it
    is seen, and all products with the received weight computed once."""

    weight: Tensor
    bias: Tensor | None
    inputs: Tensor
    """[K, N, in], by slot."""
    moved: Tensor
    """E [K, N, out]."""
    velocity: Tensor | None
    received: Tensor
    """X W^T + b [K, N, out]."""
    gram: Tensor | None
    """X X^T, plus 1 where there is a bias [K, N, N]; None where there is one pass, in which each
    step needs no more than its own part."""
    per_record: int = 1
    """Rows that a record has in one step."""

    @classmethod
    def make(
        cls,
        weight: Tensor,
        bias: Tensor | None,
        inputs: Tensor,
        *,
        several_passes: bool,
        recurrence: Recurrence,
    ) -> "Tabled":
        """Nothing moved yet."""
        workers, slots, wide = inputs.shape
        received = _shared(inputs.reshape(-1, wide), weight, bias, 1.0).view(workers, slots, -1)
        gram = _gram(inputs, inputs, bias) if several_passes else None
        moved = torch.zeros_like(received)
        velocity = torch.zeros_like(received) if recurrence.momentum else None
        return cls(weight, bias, inputs, moved, velocity, received, gram)

    def product(self, batch: Batch, *, share: float) -> Tensor:
        """z [n, m, out] of the batch's records."""
        z = batch.of(self.received)
        if share != 1:
            z = z * share
        filled = self._filled(batch, new=False)
        if filled:
            n = batch.workers
            if self.gram is None:
                gram = _gram(batch.of(self.inputs), self.inputs[:n, :filled], self.bias)
            else:
                gram = batch.of(self.gram)[:, :, :filled]
            z = torch.baddbmm(z, gram, self.moved[:n, :filled])
        return z

    def learn(self, a: Tensor, d: Tensor, batch: Batch, recurrence: Recurrence) -> None:
        """Add the step's gradients [n, m, out] to their records' rows, which hold `a` already."""
        n, filled = batch.workers, self._filled(batch, new=True)
        recurrence.advance(
            self.moved[:n, :filled],
            None if self.velocity is None else self.velocity[:n, :filled],
            d,
            batch.slots,
        )

    def add_to(
        self, weight: Tensor, bias: Tensor | None, *, weights: Tensor, shares: Tensor
    ) -> None:
        """As LowRank.add_to."""
        _add_to(self, weight, bias, weights, shares)

    def each(self, shares: Tensor) -> tuple[Tensor, Tensor | None]:
        """As LowRank.each."""
        return _each(self, shares)

    def _filled(self, batch: Batch, *, new: bool) -> int:
        """Rows that can have moved; in the first pass those before (or with) the batch's."""
        if isinstance(batch.slots, slice):
            filled: int = batch.slots.stop if new else batch.slots.start
            return filled
        return self.moved.shape[1]


def _gram(a: Tensor, earlier: Tensor, bias: Tensor | None) -> Tensor:
    """a A^T [n, r, S], plus 1 where the layer has its bias with it."""
    if bias is None:
        return torch.bmm(a, earlier.mT)
    return torch.baddbmm(a.new_ones(1, 1, 1), a, earlier.mT)


def _shared(a: Tensor, weight: Tensor, bias: Tensor | None, share: float) -> Tensor:
    """c (a W^T + b), one product for all the rows [rows, in]."""
    if bias is not None:
        return torch.addmm(bias, a, weight.t(), beta=share, alpha=share)
    z = torch.mm(a, weight.t())
    return z if share == 1 else z * share


def _add_to(
    layer: LowRank | Tabled,
    weight: Tensor,
    bias: Tensor | None,
    weights: Tensor,
    shares: Tensor,
) -> None:
    scaled = (layer.moved * weights.to(layer.moved.dtype)[:, None, None]).flatten(0, 1)
    left = float((weights * shares).sum())
    weight.add_(layer.weight, alpha=left)
    weight.add_(torch.mm(scaled.t(), layer.inputs.flatten(0, 1)))
    if bias is not None and layer.bias is not None:
        bias.add_(layer.bias, alpha=left)
        bias.add_(scaled.sum(0))


def _each(layer: LowRank | Tabled, shares: Tensor) -> tuple[Tensor, Tensor | None]:
    left = shares.to(layer.weight.dtype)
    received = layer.weight * left[:, None, None]
    weight = torch.baddbmm(received, layer.moved.mT, layer.inputs)
    if layer.bias is None:
        return weight, None
    return weight, layer.bias * left[:, None] + layer.moved.sum(1)
