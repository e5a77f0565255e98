"""A module whose parameters and gradients are views of flat vectors.

Then clearing all gradients is one operation, so is a step of plain gradient descent, and nothing
is gathered or scattered between. Letters: O, I, H, W of a convolution's weight.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

__all__ = ["FlatModule", "flatten"]


@dataclass(frozen=True)
class FlatModule:
    """A module, and the vectors that its trained parameters and their gradients are views of.

    There is a pair of vectors for each type of number. Frozen parameters (`requires_grad` False)
    are in none of them: no step moves them.
    """

    module: nn.Module
    weights: tuple[Tensor, ...]
    gradients: tuple[Tensor, ...]
    channels_last: bool
    """Whether weights [O, I, H, W] lie in the order O, H, W, I."""
    parameters: Mapping[str, Tensor]
    """All of them by name, detached: writing to them writes to the module."""
    buffers: tuple[str, ...]
    """Names of the persistent ones; a forward pass may put another tensor under such a name."""

    def load(self, tensors: Mapping[str, Tensor]) -> bool:
        """Write tensors into the module; False, and nothing is written, where they do not fit."""
        own = self._tensors()
        if tensors.keys() != own.keys() or any(own[n].shape != t.shape for n, t in tensors.items()):
            return False
        with torch.no_grad():
            for name, tensor in tensors.items():
                own[name].copy_(tensor)
        return True

    def copies(self, names: Iterable[str]) -> dict[str, Tensor]:
        """Copies of these tensors, their elements in the usual order."""
        own = self._tensors()
        return {
            name: own[name].detach().clone(memory_format=torch.contiguous_format) for name in names
        }

    def _tensors(self) -> dict[str, Tensor]:
        return {
            **self.parameters,
            **{name: self.module.get_buffer(name) for name in self.buffers},
        }


def flatten(module: nn.Module, *, channels_last: bool) -> FlatModule:
    """Move a module's parameters into flat vectors, in place, their values as they were.

    `channels_last` stores weights [O, I, H, W] in the order O, H, W, I, in which convolutions and
    poolings on a CPU take about half the time; shapes and values stay what they are.
    """
    alone = _alone(module)
    weights: list[Tensor] = []
    gradients: list[Tensor] = []
    groups: dict[tuple[torch.dtype, torch.device], list[nn.Parameter]] = {}
    for parameter in module.parameters():
        if not parameter.requires_grad:
            continue
        if id(parameter) in alone:
            groups.setdefault((parameter.dtype, parameter.device), []).append(parameter)
        else:
            # It shares its memory with another tensor of the module, and must go on to.
            parameter.grad = torch.zeros_like(parameter)
            weights.append(parameter.detach())
            gradients.append(parameter.grad)
    for members in groups.values():
        sizes = [parameter.numel() for parameter in members]
        values = members[0].new_empty(sum(sizes), requires_grad=False)
        slopes = torch.zeros_like(values)
        parts = zip(torch.split(values, sizes), torch.split(slopes, sizes), strict=True)
        for parameter, (value, slope) in zip(members, parts, strict=True):
            view = _shaped(value, parameter.shape, channels_last=channels_last)
            parameter.data = view.copy_(parameter.detach())
            parameter.grad = _shaped(slope, parameter.shape, channels_last=channels_last)
        weights.append(values)
        gradients.append(slopes)
    persistent = module.state_dict().keys()
    return FlatModule(
        module,
        tuple(weights),
        tuple(gradients),
        channels_last,
        {name: parameter.detach() for name, parameter in module.named_parameters()},
        tuple(name for name, _ in module.named_buffers() if name in persistent),
    )


def _alone(module: nn.Module) -> set[int]:
    """The ids of the parameters that share their memory with no other tensor of the module."""
    dense = [t for t in (*module.parameters(), *module.buffers()) if t.layout == torch.strided]
    holders = Counter(t.untyped_storage().data_ptr() for t in dense)
    return {id(t) for t in dense if holders[t.untyped_storage().data_ptr()] == 1}


def _shaped(vector: Tensor, shape: torch.Size, *, channels_last: bool) -> Tensor:
    if channels_last and len(shape) == 4:
        o, i, h, w = shape
        return vector.view(o, h, w, i).permute(0, 3, 1, 2)
    return vector.view(shape)
