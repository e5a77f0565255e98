"""Parameters of which every worker has its own copy: [K, ...] tensors that are stepped together.

Letters: K workers, n of them still training.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor

from fedcore.optimisers import Step, stepper
from fedcore.rules import Plain
from fedcore.values import Brief

__all__ = ["Stacked"]


@dataclass(frozen=True, eq=False)
class Stacked:
    """Copies of some parameters, and an optimiser for each run of workers that stop together."""

    brief: Brief
    received: Mapping[str, Tensor]
    weights: Mapping[str, Tensor]
    """[K, ...]."""
    runs: tuple[tuple[int, int, Step], ...]
    """(start, stop, optimiser): an optimiser's memory has the shape of its first gradients, so
    workers that stop earlier need one of their own."""

    @classmethod
    def make(cls, brief: Brief, received: Mapping[str, Tensor], steps: Sequence[int]) -> "Stacked":
        """`steps` [K] descend: how often each worker steps."""
        plan = brief.plan
        runs, start = [], 0
        for _, run in groupby(steps):
            stop = start + len(list(run))
            step = stepper(
                plan.optimiser, learning_rate=plan.learning_rate, weight_decay=plan.weight_decay
            )
            runs.append((start, stop, step))
            start = stop
        weights = {
            name: tensor.expand(len(steps), *tensor.shape).clone(
                memory_format=torch.contiguous_format
            )
            for name, tensor in received.items()
        }
        return cls(brief, received, weights, tuple(runs))

    def leaves(self, workers: int) -> dict[str, Tensor]:
        """Views of the first n copies, to differentiate by; they follow the steps."""
        return {name: w[:workers].detach().requires_grad_() for name, w in self.weights.items()}

    def correct(self, gradients: Sequence[Tensor], workers: int) -> list[Tensor]:
        """The gradients [n, ...] as the rule wants them."""
        rule = self.brief.rule
        if isinstance(rule, Plain):
            return list(gradients)
        corrected = [
            rule.correct(g, w[:workers], w0.expand_as(g))
            for g, w, w0 in zip(
                gradients, self.weights.values(), self.received.values(), strict=True
            )
        ]
        if not rule.offset:
            return corrected
        named = zip(self.weights, corrected, strict=True)
        return [g + rule.offset[name][:workers] if name in rule.offset else g for name, g in named]

    def step(self, gradients: Sequence[Tensor], workers: int) -> None:
        """Step the first n copies, in place."""
        copies = list(self.weights.values())
        for start, stop, step in self.runs:
            if start < workers:
                step([w[start:stop] for w in copies], [g[start:stop] for g in gradients])

    def add_to(self, sums: Mapping[str, Tensor], weights: Tensor) -> None:
        """Add sum_k weights_k w_k to `sums`, float64, in place; `weights` float64 [K]."""
        for name, w in self.weights.items():
            sums[name].add_(torch.mv(w.view(len(w), -1).t().double(), weights).view(w.shape[1:]))
