"""What a model is made of, as far as training many workers at once depends on it.

Letters: N records.
"""

import threading
from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn
from torch.nn.modules import module as module_hooks
from torch.nn.modules.batchnorm import _NormBase

from fedcore.data.dataset import Dataset
from fedcore.models import Blueprint, _FlatLinear, build

__all__ = ["Anatomy", "Part", "anatomy_of"]

Part = tuple[str, nn.Module]
"""A layer and its name."""

_ELEMENTWISE = (
    nn.ELU,
    nn.GELU,
    nn.Identity,
    nn.LeakyReLU,
    nn.ReLU,
    nn.SiLU,
    nn.Sigmoid,
    nn.Softplus,
    nn.Tanh,
)
_FOLDED = (nn.Linear, _FlatLinear, nn.LayerNorm, nn.Dropout, nn.Flatten, nn.Unflatten)


@dataclass(frozen=True, eq=False)
class Anatomy:
    """A module of its own, built once and never trained, and what is known of it."""

    module: nn.Module
    parts: tuple[Part, ...]
    """Its layers one after the other, each known to treat records alone; none if it is not a
    plain sequence of such layers."""
    linears: Mapping[str, str | None]
    """Weights [out, in] of linear layers, by name, and the name of each one's bias."""
    obstacle: str
    """Why only the loop can train it; empty if others may."""

    @property
    def folds(self) -> bool:
        """Whether it is a sequence of known layers."""
        return bool(self.parts)

    @property
    def draws(self) -> bool:
        """Whether it has dropout that draws."""
        return _draws(self.module)

    @property
    def convolves(self) -> bool:
        """Whether it has convolutions."""
        return _convolves(self.module)


_mine = threading.local()


def anatomy_of(blueprint: Blueprint, records: Dataset) -> Anatomy:
    """The anatomy of a blueprint's model; a thread keeps the one it used last."""
    kept: dict[str, Anatomy] = _mine.__dict__.setdefault("anatomies", {})
    key = repr(blueprint)
    if key not in kept:
        kept.clear()
        kept[key] = _inspected(build(blueprint), records)
    return kept[key]


def _inspected(module: nn.Module, records: Dataset) -> Anatomy:
    module.train()
    obstacle = _obstacle(module, records)
    linears = {
        _joined(name, "weight"): _joined(name, "bias") if part.bias is not None else None
        for name, part in module.named_modules()
        if isinstance(part, nn.Linear) and "weight" in dict(part.named_parameters(recurse=False))
    }
    return Anatomy(module, () if obstacle else _parts("", module) or (), linears, obstacle)


def _obstacle(module: nn.Module, records: Dataset) -> str:
    """Why not even an attempt would be right."""
    parameters = list(module.named_parameters(remove_duplicate=False))
    tensors = [*(p for _, p in parameters), *module.buffers()]
    if len({t.untyped_storage().data_ptr() for t in tensors if t.numel()}) < sum(
        1 for t in tensors if t.numel()
    ):
        return "the model ties weights"
    if not parameters:
        return "the model has no weights"
    if any(not p.requires_grad for _, p in parameters):
        return "the model has frozen weights"
    if len({p.dtype for _, p in parameters}) != 1 or not parameters[0][1].is_floating_point():
        return "the model mixes types of weights"
    for part in module.modules():
        if isinstance(part, _NormBase) and part.running_mean is not None:
            return f"{type(part).__name__} keeps statistics"
        if isinstance(part, nn.RNNBase):
            return f"{type(part).__name__} is recurrent"
        if isinstance(part, nn.Dropout) and (part.p == 1 or part.inplace):
            return "a Dropout works in place, or keeps nothing"
        if type(part) is nn.Dropout and records.features.device.type != "cpu":
            return "on this device nobody can draw a worker's dropout apart from the others'"
        if any(part.__dict__.get(kind) for kind in _HOOKS):
            return "the model has hooks"
    if _draws(module) and _convolves(module):
        return "dropout among convolutions draws in the order in which they keep their numbers"
    if any(getattr(module_hooks, f"_global{kind}", None) for kind in _HOOKS):
        return "torch has global module hooks"
    return ""


def _draws(module: nn.Module) -> bool:
    return any(isinstance(part, nn.Dropout) and part.p > 0 for part in module.modules())


def _convolves(module: nn.Module) -> bool:
    return any(isinstance(part, nn.Conv1d | nn.Conv2d | nn.Conv3d) for part in module.modules())


_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def _parts(name: str, module: nn.Module) -> tuple[Part, ...] | None:
    """A sequence's layers in order, nested sequences included; None where one is not known."""
    # Exact types: a subclass may do anything in its forward.
    if type(module) is nn.Sequential:
        found: list[Part] = []
        for child, part in _children(module):
            inner = _parts(_joined(name, child), part)
            if inner is None:
                return None
            found += inner
        return tuple(found)
    if type(module) is nn.Flatten and module.start_dim < 1:
        return None
    if type(module) is nn.Unflatten and (not isinstance(module.dim, int) or module.dim < 1):
        return None
    if type(module) in _ELEMENTWISE or type(module) in _FOLDED:
        return ((name, module),)
    return None


def _children(module: nn.Module) -> list[tuple[str, nn.Module]]:
    # Not named_children(), which leaves out the second of two places that share a module.
    return [(name, part) for name, part in module._modules.items() if part is not None]


def _joined(name: str, last: str) -> str:
    return f"{name}.{last}" if name else last
