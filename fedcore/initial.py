"""Where a model's weights start, and how a module and a ModelState exchange tensors."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from fedcore.errors import ConfigError, nearest
from fedcore.models import Blueprint, build
from fedcore.seeds import derive
from fedcore.settings.model import FromFile, Inline
from fedcore.trees import not_finite
from fedcore.values import ModelState

__all__ = ["initial_state", "load_into", "state_of"]


def initial_state(blueprint: Blueprint, *, seed: int) -> ModelState:
    """The model before the first round.

    Seeded: PyTorch's initialisation from the training's seed. Inline or from a file: every
    parameter as given, in the model's own types; buffers that inline weights leave out are the
    fresh module's.

    Raises:
        ConfigError: a name, shape or type that is not the model's, a tensor that is missing or
            not finite, or a file that cannot be read.
    """
    fresh = state_of(build(blueprint, generator=derive(seed, 0, "", "model")))
    initial = blueprint.model.initial
    if isinstance(initial, Inline):
        given = {name: _tensor(name, value) for name, value in initial.weights.items()}
        return _adopted(given, fresh, where="model.initial.weights", complete=fresh.parameters)
    if isinstance(initial, FromFile):
        given = _read(initial.path)
        return _adopted(given, fresh, where=initial.path, complete=fresh.tensors)
    return fresh


def state_of(module: nn.Module) -> ModelState:
    """Copies of a module's parameters and persistent buffers, detached, on the CPU."""
    kept = module.state_dict().keys()
    return ModelState(
        {name: _copy(tensor) for name, tensor in module.named_parameters()},
        {name: _copy(tensor) for name, tensor in module.named_buffers() if name in kept},
    )


def load_into(module: nn.Module, state: ModelState) -> None:
    """Write a state's tensors into a module of the same model.

    Raises:
        ConfigError: names or shapes are not the module's; the module is unchanged then.
    """
    kept = module.state_dict().keys()
    own: dict[str, Tensor] = dict(module.named_parameters())
    own |= {name: tensor for name, tensor in module.named_buffers() if name in kept}
    _check_names(state.tensors, own, where="the state", complete=own)
    for name, tensor in state.tensors.items():
        _check_shape(name, tensor, own[name], where="the state")
    with torch.no_grad():
        for name, tensor in state.tensors.items():
            own[name].copy_(tensor)


def _copy(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().clone(memory_format=torch.contiguous_format)


def _adopted(
    given: Mapping[str, Tensor],
    fresh: ModelState,
    *,
    where: str,
    complete: Mapping[str, Tensor],
) -> ModelState:
    """`fresh` with the given tensors, each checked; `complete` must all be given."""
    own = fresh.tensors
    _check_names(given, own, where=where, complete=complete)
    adopted: dict[str, Tensor] = {}
    for name, tensor in given.items():
        _check_shape(name, tensor, own[name], where=where)
        if tensor.is_floating_point() and not own[name].is_floating_point():
            raise ConfigError(
                f"{name} in {where} must hold {own[name].dtype}; given: {tensor.dtype}; save it "
                "in the model's type."
            )
        adopted[name] = tensor.to(own[name].dtype)
    wrong = not_finite(adopted)
    if wrong:
        raise ConfigError(
            f"Initial weights must be finite; given: NaN or infinity in {', '.join(wrong)} of "
            f"{where}; start from other weights."
        )
    return fresh.replaced(adopted)


def _check_names(
    given: Mapping[str, Tensor],
    own: Mapping[str, Tensor],
    *,
    where: str,
    complete: Mapping[str, Tensor],
) -> None:
    known = ", ".join(f"{name} {list(tensor.shape)}" for name, tensor in own.items())
    for name in given:
        if name not in own:
            raise ConfigError(
                f"Tensors in {where} must be the model's; given: {name!r}{nearest(name, own)}; "
                f"the model has {known}."
            )
    missing = [name for name in complete if name not in given]
    if missing:
        raise ConfigError(
            f"All of the model's tensors must be in {where}; missing: {', '.join(missing)}; the "
            f"model has {known}; add them."
        )


def _check_shape(name: str, tensor: Tensor, own: Tensor, *, where: str) -> None:
    if tensor.shape != own.shape:
        raise ConfigError(
            f"{name} in {where} must be {list(own.shape)}; given: {list(tensor.shape)}; check the "
            "model's settings and the weights' order."
        )


def _tensor(name: str, value: object) -> Tensor:
    try:
        array = np.asarray(value)
    except ValueError:  # rows of different lengths
        array = np.asarray(None)
    if array.dtype.kind not in "iuf":
        raise ConfigError(
            f"model.initial.weights.{name} must be numbers in lists of equal length; given: "
            f"{str(value)[:80]}; write for example [[0.1, 0.2], [0.3, 0.4]]."
        )
    # Whole numbers stay whole, for buffers that count; parameters become floats when adopted.
    return torch.from_numpy(array.astype(np.float64 if array.dtype.kind == "f" else np.int64))


def _read(path: str) -> dict[str, Tensor]:
    import fsspec
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        with fsspec.open(path, "rb") as opened:
            content: bytes = opened.read()
    except FileNotFoundError:
        raise ConfigError(
            f"The file of initial weights must exist; given: {path}; check model.initial.path."
        ) from None
    except Exception as error:  # each of fsspec's file systems raises its own types
        raise ConfigError(
            f"The file of initial weights must be readable; given: {path} "
            f"({type(error).__name__}: {error}); check model.initial.path, permissions, and that "
            "the package for its protocol is installed."
        ) from error
    try:
        return load(content)
    except (SafetensorError, ValueError, KeyError) as error:
        raise ConfigError(
            f"Initial weights must be a safetensors file; given: {path} ({error}); write it with "
            "`fedrounds model` or safetensors.torch.save_file."
        ) from None
