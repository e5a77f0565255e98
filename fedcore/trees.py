"""Arithmetic on named tensors, and the one flat vector they become at boundaries.

Letters: P parameters in all, K workers.
"""

import hashlib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Layout", "Params", "all_finite", "digest", "not_finite", "same"]

Params = Mapping[str, Tensor]
"""Named tensors, detached, on the CPU at every boundary."""


def digest(tensors: Params) -> str:
    """sha256 over name, dtype, shape and bytes of every tensor, sorted by name.

    Two models with equal digests are the same model, bit for bit.

    >>> digest({"w": torch.zeros(2)}) == digest({"w": torch.zeros(2)})
    True
    >>> digest({"w": torch.zeros(2)}) == digest({"w": torch.zeros(1, 2)})
    False
    """
    content = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        content.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        # A view of the bytes also covers dtypes that numpy does not know (bfloat16).
        content.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return content.hexdigest()


def same(left: Params, right: Params) -> bool:
    """Whether two trees have the same names, dtypes, shapes and bits (NaN equals NaN)."""
    return left.keys() == right.keys() and digest(left) == digest(right)


def all_finite(tensor: Tensor) -> bool:
    """Whether no element is NaN or infinite.

    Their sum tells in one pass, unless it overflows: then each is looked at.
    """
    return bool(torch.isfinite(tensor.sum())) or bool(torch.isfinite(tensor).all())


def not_finite(tensors: Params) -> list[str]:
    """The names of the tensors that hold NaN or infinity, sorted."""
    return sorted(
        name
        for name, tensor in tensors.items()
        if tensor.is_floating_point() and not all_finite(tensor)
    )


@dataclass(frozen=True)
class Layout:
    """Names and shapes of floating-point tensors, and where each lies in one flat vector [P].

    Named tensors are the faster form inside a training loop, a flat vector is the simpler one
    where updates of several workers meet; this is the only place that turns one into the other.

    >>> layout = Layout.of({"b": torch.zeros(2), "a": torch.ones(1, 1)})
    >>> layout.size, layout.flatten({"b": torch.zeros(2), "a": torch.ones(1, 1)}).tolist()
    (3, [1.0, 0.0, 0.0])
    """

    entries: tuple[tuple[str, tuple[int, ...], torch.dtype], ...]

    @classmethod
    def of(cls, tensors: Params) -> "Layout":
        """The layout of these tensors, sorted by name so that no dictionary order matters."""
        return cls(tuple((name, tuple(t.shape), t.dtype) for name, t in sorted(tensors.items())))

    @property
    def size(self) -> int:
        """P: the number of elements of the flat vector."""
        return sum(math.prod(shape) for _, shape, _ in self.entries)

    @property
    def dtype(self) -> torch.dtype:
        """The type that holds every tensor of the layout exactly; at least float32."""
        widest = torch.float32
        for _, _, dtype in self.entries:
            widest = torch.promote_types(widest, dtype)
        return widest

    def flatten(self, tensors: Params) -> Tensor:
        """Named tensors to one vector [P].

        Raises:
            ValueError: names or shapes are not the layout's.
        """
        expected = {name: shape for name, shape, _ in self.entries}
        given = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        if expected != given:
            raise ValueError(
                f"The tensors must be {_names(expected)}; given: {_names(given)}; "
                "send what the round's model has."
            )
        if not self.entries:
            return torch.zeros(0)
        return torch.cat([tensors[name].reshape(-1).to(self.dtype) for name, _, _ in self.entries])

    def unflatten(self, vector: Tensor, *, dtype: torch.dtype | None = None) -> dict[str, Tensor]:
        """One vector [P] to named tensors, in the layout's types or all in `dtype`."""
        if vector.shape != (self.size,):
            raise ValueError(
                f"The vector must be [{self.size}]; given: {list(vector.shape)}; "
                "use the layout that flattened it."
            )
        parts = torch.split(vector, [math.prod(shape) for _, shape, _ in self.entries])
        return {
            name: part.reshape(shape).to(dtype or kind)
            for part, (name, shape, kind) in zip(parts, self.entries, strict=True)
        }


def _names(shapes: Mapping[str, Iterable[int]]) -> str:
    return ", ".join(f"{name} {list(shape)}" for name, shape in sorted(shapes.items())) or "none"
