"""Running a sequence of known layers for many workers, layer by layer, with no machinery.

Letters: n workers, m records of a batch, r rows of a layer.
"""

from collections.abc import Callable
from copy import copy
from typing import cast

from torch import Tensor, nn
from torch.nn import functional

from fedcore.cohort.anatomy import Anatomy, Part
from fedcore.cohort.dropout import noise
from fedcore.cohort.forward import Forward, Moment
from fedcore.cohort.low_rank import Tabled
from fedcore.models import _FlatLinear

__all__ = ["fold", "reads_records"]

_Layer = Callable[[Tensor, Moment], Tensor]
"""inputs [n m, ...] -> outputs [n m, ...]."""


def fold(anatomy: Anatomy) -> Forward:
    """The forward pass of a model that is a sequence of known layers."""
    layers = [_layer(part) for part in anatomy.parts]

    def forward(records: Tensor, moment: Moment) -> Tensor:
        x = records.flatten(0, 1)
        for layer in layers:
            x = layer(x, moment)
        return x.view(moment.batch.workers, moment.batch.size, *x.shape[1:])

    return forward


def reads_records(anatomy: Anatomy) -> str | None:
    """The weight of the linear layer whose inputs are the records, flattened; None if none is."""
    for name, part in anatomy.parts:
        if isinstance(part, nn.Linear):
            return _weight(name)
        if type(part) not in (nn.Flatten, nn.Identity):
            return None
    return None


def _layer(part: Part) -> _Layer:
    name, module = part
    if isinstance(module, nn.Linear):
        return _linear(name, module)
    if isinstance(module, nn.LayerNorm):
        return _layer_norm(name, module)
    if isinstance(module, nn.Dropout):
        return _dropout(module.p)
    if getattr(module, "inplace", False):
        module = copy(module)
        module.__dict__["inplace"] = False  # in place it would change what a table holds
    return lambda x, moment: cast(Tensor, module(x))


def _linear(name: str, module: nn.Linear) -> _Layer:
    weight, bias = _weight(name), None if module.bias is None else _named(name, "bias")
    flat = isinstance(module, _FlatLinear)

    def layer(x: Tensor, moment: Moment) -> Tensor:
        n, m = moment.batch.workers, moment.batch.size
        if flat:
            x = x.flatten(1)
        known = moment.layers.get(weight)
        if isinstance(known, Tabled):
            return moment.product(weight, x).flatten(0, 1)
        a = x.reshape(n, -1, x.shape[-1])
        if known is not None:
            z = moment.product(weight, a)
        else:
            w = moment.leaves[weight].mT
            z = a.bmm(w) if bias is None else moment.leaves[bias].unsqueeze(1).baddbmm(a, w)
        return z.view(n * m, *x.shape[1:-1], -1)

    return layer


def _layer_norm(name: str, module: nn.LayerNorm) -> _Layer:
    shape, eps = module.normalized_shape, module.eps
    weight = None if module.weight is None else _named(name, "weight")
    bias = None if module.bias is None else _named(name, "bias")

    def layer(x: Tensor, moment: Moment) -> Tensor:
        n, m = moment.batch.workers, moment.batch.size
        y = functional.layer_norm(x, shape, eps=eps).view(n, m, *x.shape[1:])
        inner = (1,) * (y.dim() - 1 - len(shape))
        if weight is not None:
            y = y * moment.leaves[weight].view(n, *inner, *shape)
        if bias is not None:
            y = y + moment.leaves[bias].view(n, *inner, *shape)
        return y.flatten(0, 1)

    return layer


def _dropout(p: float) -> _Layer:
    def layer(x: Tensor, moment: Moment) -> Tensor:
        if p == 0:
            return x
        batch = moment.batch
        apart = x.view(batch.workers, batch.size, *x.shape[1:])
        return (apart * noise(apart, batch, p=p, streams=moment.streams)).flatten(0, 1)

    return layer


def _weight(name: str) -> str:
    return _named(name, "weight")


def _named(name: str, last: str) -> str:
    return f"{name}.{last}" if name else last
