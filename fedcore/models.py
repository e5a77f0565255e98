"""Models: from settings and the shape of the data to a torch module.

Letters: N records, C channels, H x W pixels. This file knows nothing of `fedcore.values`, which
imports Blueprint from here.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fedcore.data.dataset import Dataset
from fedcore.entrypoints import load_entrypoint
from fedcore.errors import ConfigError, DataError, Incompatible
from fedcore.losses import loss_of, prepare, wants_classes
from fedcore.metrics import classify, meter
from fedcore.seeds import derive, global_stream
from fedcore.settings.model import (
    Cnn,
    CustomLoss,
    CustomModel,
    Linear,
    Logistic,
    Mlp,
    Model,
    Mse,
    SumSquaredError,
)

__all__ = ["Blueprint", "blueprint", "build", "check_fit"]


@dataclass(frozen=True)
class Blueprint:
    """Everything needed to build the module anywhere: settings and shapes, JSON, no tensors."""

    model: Model
    inputs: tuple[int, ...]
    """Shape of one record's features."""
    outputs: int
    """Numbers that the module returns for each record."""
    classes: int
    """How many classes the labels have; 0 where they are values."""


def blueprint(model: Model, dataset: Dataset) -> Blueprint:
    """The model for this data: inputs and outputs follow from the records and the loss.

    One output per class for a loss of class numbers, else as many as the targets' values.

    Raises:
        Incompatible: the loss and the data, or the loss and the model, cannot go together.
        DataError: no records.
    """
    if not len(dataset):
        raise DataError(
            "A model must have a record to take its shape from; given: none; check the source."
        )
    if isinstance(model, Logistic) and isinstance(model.loss, Mse | SumSquaredError):
        raise Incompatible(
            "A logistic model must have the loss cross_entropy or bce_with_logits; given: "
            f"{model.loss.kind}; change model.loss.kind, or choose model.kind linear."
        )
    probe = prepare(dataset.take(_two(dataset)), model.loss)
    classes = len(dataset.classes)
    outputs = classes if wants_classes(model.loss) else probe.targets.shape[1]
    return Blueprint(model, dataset.inputs, outputs, classes)


def build(blueprint: Blueprint, *, generator: torch.Generator | None = None) -> nn.Module:
    """A new module with PyTorch's initialisation drawn from `generator`, or else a fixed stream.

    torch's global generator is left as it was.

    Raises:
        ConfigError: no such model can be made for these inputs, or a custom one that cannot be
            loaded, fails, or is not a torch.nn.Module.
    """
    with global_stream(generator or derive(0, 0, "", "model")):
        model = blueprint.model
        if isinstance(model, Linear):
            return _linear(blueprint, bias=model.bias)
        if isinstance(model, Logistic):
            return _linear(blueprint, bias=True)
        if isinstance(model, Mlp):
            return _mlp(model, blueprint)
        if isinstance(model, Cnn):
            return _cnn(model, blueprint)
        return _custom(model)


class _FlatLinear(nn.Linear):
    """A linear layer over all of a record's features [N, ...], named as a plain one."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input.flatten(1))


def _linear(blueprint: Blueprint, *, bias: bool) -> nn.Module:
    return _FlatLinear(math.prod(blueprint.inputs), blueprint.outputs, bias=bias)


def _mlp(model: Mlp, blueprint: Blueprint) -> nn.Module:
    layers: list[nn.Module] = [nn.Flatten()] if len(blueprint.inputs) > 1 else []
    width = math.prod(blueprint.inputs)
    for hidden in model.hidden:
        layers += [nn.Linear(width, hidden), nn.ReLU()]
        if model.dropout:
            layers.append(nn.Dropout(model.dropout))
        width = hidden
    return nn.Sequential(*layers, nn.Linear(width, blueprint.outputs))


def _cnn(model: Cnn, blueprint: Blueprint) -> nn.Module:
    image = _image(blueprint.inputs)
    channels, height, width = image
    pools = len(model.channels)
    if min(height, width) >> pools == 0:
        raise ConfigError(
            f"An image must outlast the poolings of a cnn, one for each of model.channels; given: "
            f"{height} x {width} pixels and {pools} poolings, which need {2**pools} x {2**pools}; "
            f"give at most {min(height, width).bit_length() - 1} channels, or choose model.kind "
            "mlp."
        )
    layers: list[nn.Module] = []
    if image != blueprint.inputs:
        layers.append(nn.Flatten())
        layers.append(nn.Unflatten(1, image))
    for out in model.channels:
        layers += [nn.Conv2d(channels, out, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
        channels = out
    left = channels * (height >> pools) * (width >> pools)
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(left, blueprint.outputs))


def _image(inputs: tuple[int, ...]) -> tuple[int, int, int]:
    """[C, H, W] as it is, [H, W] with one channel, [side * side] as a square with one channel."""
    if len(inputs) == 3:
        return inputs[0], inputs[1], inputs[2]
    if len(inputs) == 2:
        return 1, inputs[0], inputs[1]
    if len(inputs) == 1 and math.isqrt(inputs[0]) ** 2 == inputs[0]:
        return 1, math.isqrt(inputs[0]), math.isqrt(inputs[0])
    raise ConfigError(
        "The records of a cnn must be images [C, H, W], [H, W], or flat with a square number of "
        f"pixels; given: {list(inputs)}; choose model.kind mlp, or give images."
    )


def _custom(model: CustomModel) -> nn.Module:
    make = load_entrypoint(model.entrypoint, what="a custom model")
    try:
        module = make(**model.arguments)
    except Exception as error:
        raise ConfigError(
            f"{model.entrypoint} must accept model.arguments; given: {model.arguments}, and it "
            f"raised {type(error).__name__}: {error}; correct the arguments."
        ) from error
    if not isinstance(module, nn.Module):
        raise ConfigError(
            f"{model.entrypoint} must be or return a torch.nn.Module; given: a "
            f"{type(module).__name__}; name the module's class."
        )
    return module


def check_fit(blueprint: Blueprint, dataset: Dataset) -> None:
    """Try the model on two records, so that a mismatch shows before any worker is contacted.

    Raises:
        ConfigError: wrong number of inputs, outputs that do not fit the labels, a loss that is
            not one finite number or does not depend on the model, metrics that cannot be measured.
    """
    model = blueprint.model
    if (dataset.inputs, len(dataset.classes)) != (blueprint.inputs, blueprint.classes):
        raise ConfigError(
            f"The records must have the model's inputs {list(blueprint.inputs)} and "
            f"{blueprint.classes} classes; given: {list(dataset.inputs)} and "
            f"{len(dataset.classes)}; make the blueprint from this data."
        )
    probe = prepare(dataset.take(_two(dataset)), model.loss)
    outputs = _forward(build(blueprint), blueprint, probe)
    _check_outputs(outputs, blueprint, probe)
    loss = _checked_loss(outputs, blueprint, probe)
    if not loss.requires_grad:
        raise ConfigError(
            f"The loss must depend on the model's weights; given: {model.loss.kind} of a "
            f"{model.kind} model, which has no gradient; remove .detach() or no_grad from it, and "
            "let the model have parameters."
        )
    measuring = meter(model.loss, model.metrics, classes=blueprint.classes)
    measuring.measure(outputs.detach(), probe.targets)


def _two(dataset: Dataset) -> NDArray[np.int64]:
    # Two, because batch statistics need as many; the same one twice where there is one.
    return np.array([0, min(1, len(dataset) - 1)])


def _forward(module: nn.Module, blueprint: Blueprint, probe: Dataset) -> Tensor:
    kind = blueprint.model.kind
    try:
        with global_stream(derive(0, 0, "", "check")):
            outputs: object = module(probe.features)
    except Exception as error:
        reason = " ".join(str(error).split())
        raise ConfigError(
            f"The model {kind} must take records of shape {list(blueprint.inputs)}; given: a batch "
            f"{list(probe.features.shape)}, on which it raised {type(error).__name__}: {reason}; "
            "change its first layer or its arguments."
        ) from error
    if not isinstance(outputs, Tensor):
        raise ConfigError(
            f"The model {kind} must return a tensor [N, {blueprint.outputs}]; given: a "
            f"{type(outputs).__name__}; return the outputs alone."
        )
    return outputs


def _check_outputs(outputs: Tensor, blueprint: Blueprint, probe: Dataset) -> None:
    model, given = blueprint.model, list(outputs.shape)
    if not isinstance(model.loss, CustomLoss) and given != [len(probe), blueprint.outputs]:
        meant = f"{blueprint.classes} classes" if blueprint.classes else "values"
        raise ConfigError(
            f"The model's output must fit the labels: [{len(probe)}, {blueprint.outputs}] for two "
            f"records of {meant} under the loss {model.loss.kind}; given: {given}; change the "
            "model's last layer, or model.loss."
        )
    if blueprint.classes:
        classify(outputs.detach(), loss=model.loss, classes=blueprint.classes)


def _checked_loss(outputs: Tensor, blueprint: Blueprint, probe: Dataset) -> Tensor:
    kind = blueprint.model.loss.kind
    function = loss_of(blueprint.model.loss)
    try:
        loss = function(outputs, probe.targets)
    except ConfigError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())
        raise ConfigError(
            f"The loss {kind} must accept outputs {list(outputs.shape)} and targets "
            f"{list(probe.targets.shape)} {probe.targets.dtype}; given these, it raised "
            f"{type(error).__name__}: {reason}; change the model's last layer or model.loss."
        ) from error
    if not bool(torch.isfinite(loss)):
        raise ConfigError(
            f"The loss must be a finite number; given: {loss.item()} from {kind} on the first "
            "records; check the model's initialisation and the scale of the features."
        )
    return loss
