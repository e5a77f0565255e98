"""Running any model for many workers with torch.func.vmap, its big linear layers excepted.

vmap gives every operation of the model a leading axis of workers, over stacked parameters. The
weight of a linear layer may instead be a stand-in that knows one operation, F.linear: there it
leaves vmap and computes the layer's product for all workers at once, as `low_rank` does. Every
other use of it is refused, and the weight is then stacked like the rest.

Letters: n workers, m records of a batch, r rows of a layer.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from fedcore.cohort.anatomy import Anatomy
from fedcore.cohort.dropout import noise
from fedcore.cohort.forward import Forward, Moment
from fedcore.cohort.unfit import Unfit

__all__ = ["NotLinear", "vectorised"]


class NotLinear(Exception):
    """A weight was used for something else than F.linear; `name` says which."""

    def __init__(self, name: str) -> None:
        self.name = name
        super().__init__(name)


def vectorised(anatomy: Anatomy) -> Forward:
    """The forward pass of any model that vmap takes."""
    module = anatomy.module
    droppers = [part for part in module.modules() if type(part) is nn.Dropout]

    def forward(records: Tensor, moment: Moment) -> Tensor:
        shared = {
            name: _standing_in(name, layer.weight, moment) for name, layer in moment.layers.items()
        }

        def one(parameters: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
            found: object = functional_call(module, {**parameters, **shared}, (inputs,))
            if not isinstance(found, Tensor):
                raise Unfit("the model does not return one tensor")
            return found

        kept = [(buffer, buffer._version) for buffer in module.buffers()]
        for dropper in droppers:
            dropper.forward = _dropping(dropper.p, moment)  # type: ignore[method-assign, assignment]
        try:
            with _PlainAttention():
                outputs: Tensor = vmap(one, randomness="error")(dict(moment.leaves), records)
        except (NotLinear, Unfit):
            raise
        except Exception as error:  # vmap refuses in many ways; the loop repeats what is real
            first = (str(error).strip().splitlines() or [""])[0]
            raise Unfit(f"vmap refuses it ({type(error).__name__}: {first[:120]})") from error
        finally:
            for dropper in droppers:
                del dropper.__dict__["forward"]
        now = list(module.buffers())
        if [(id(b), v) for b, v in kept] != [(id(b), b._version) for b in now]:
            raise Unfit("the model changes its buffers while it trains")
        return outputs

    return forward


class _PlainAttention(TorchFunctionMode):
    """Attention by its formula: the fused kernels have no batching rule.

    A mode belongs to this thread; torch.nn.attention.sdpa_kernel would change the kernels, and so
    the last bits, of every other thread that trains or evaluates meanwhile.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        given = dict(kwargs or {})
        if func is functional.scaled_dot_product_attention:
            return _attention(*args, **given)
        if func is functional.multi_head_attention_forward and not given.get("need_weights", True):
            # It computes by the formula where its weights are wanted.
            return func(*args, **{**given, "need_weights": True})[0], None
        return func(*args, **given)


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    if dropout_p:
        raise Unfit("dropout of attention, which is not drawn worker by worker")
    formula = torch.ops.aten._scaled_dot_product_attention_math
    found: Tensor = formula(
        query, key, value, attn_mask, 0.0, is_causal, scale=scale, enable_gqa=enable_gqa
    )[0]
    return found


class _StandIn(Tensor):
    """A weight that F.linear takes and everything else refuses."""

    weight_name: str
    moment: Moment

    @classmethod
    def __torch_function__(
        cls,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        with torch._C.DisableTorchFunctionSubclass():
            if func in _LOOKS:
                return func(*args, **(kwargs or {}))
            given = dict(zip(("input", "weight", "bias"), args, strict=False)) | dict(kwargs or {})
            weight = given.get("weight")
            standing_in = [a for a in (*args, *(kwargs or {}).values()) if isinstance(a, cls)]
            if func is functional.linear and len(standing_in) == 1 and standing_in[0] is weight:
                z: Tensor = _Product.apply(
                    given["input"], weight.weight_name, _Opaque(weight.moment)
                )  # type: ignore[no-untyped-call]
                bias = given.get("bias")
                return z if bias is None else z + bias
        names = [a.weight_name for a in standing_in]
        raise NotLinear(names[0] if names else "")


# What a module may ask of its weight without computing with it.
_LOOKS = [Tensor.shape.__get__, Tensor.dtype.__get__, Tensor.device.__get__]  # type: ignore[attr-defined]


def _standing_in(name: str, weight: Tensor, moment: Moment) -> Tensor:
    stand_in = weight.as_subclass(_StandIn)
    stand_in.weight_name, stand_in.moment = name, moment
    return stand_in


class _Opaque:
    """Carries a moment through vmap, which would copy a plain container."""

    def __init__(self, moment: Moment) -> None:
        self.moment = moment


class _Product(torch.autograd.Function):
    """Leaves vmap: `vmap` below sees all workers' inputs, and what it computes is recorded for
    plain autograd, which is why there is no backward."""

    @staticmethod
    def forward(a: Tensor, name: str, held: _Opaque) -> Tensor:
        raise NotLinear(name)  # inputs that do not depend on the worker: leave the weight to vmap

    @staticmethod
    def setup_context(ctx: object, inputs: tuple[object, ...], output: object) -> None:
        """Nothing to remember."""

    @staticmethod
    def vmap(
        info: object, in_dims: tuple[int | None, ...], a: Tensor, name: str, held: _Opaque
    ) -> tuple[Tensor, int]:
        """Inputs [m, ..., in] of each worker to products [m, ..., out]."""
        moment, where = held.moment, in_dims[0]
        assert where is not None
        a = a.movedim(where, 0)
        rows = a.reshape(a.shape[0], -1, a.shape[-1])
        # A copy: what the model does in place would cut z off from what it is differentiated by.
        return moment.product(name, rows).clone().view(*a.shape[:-1], -1), 0


def _dropping(p: float, moment: Moment) -> Callable[[Tensor], Tensor]:
    def forward(x: Tensor) -> Tensor:
        if p == 0:
            return x
        dropped: Tensor = _Dropped.apply(x, p, _Opaque(moment))  # type: ignore[no-untyped-call]
        return dropped

    return forward


class _Dropped(torch.autograd.Function):
    """Leaves vmap as `_Product` does, to draw for each worker from its own stream."""

    @staticmethod
    def forward(x: Tensor, p: float, held: _Opaque) -> Tensor:
        raise Unfit("dropout of what does not depend on the worker")

    @staticmethod
    def setup_context(ctx: object, inputs: tuple[object, ...], output: object) -> None:
        """Nothing to remember."""

    @staticmethod
    def vmap(
        info: object, in_dims: tuple[int | None, ...], x: Tensor, p: float, held: _Opaque
    ) -> tuple[Tensor, int]:
        """x [m, ...] of each worker times its noise."""
        moment, where = held.moment, in_dims[0]
        assert where is not None
        x = x.movedim(where, 0)
        if not x[0].is_contiguous():
            raise Unfit("dropout of a transposed tensor, which draws in another order")
        return x * noise(x, moment.batch, p=p, streams=moment.streams), 0
