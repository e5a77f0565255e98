"""Losses, and the form in which each wants its targets.

Letters: N records of a batch, C classes. Nothing here broadcasts: [N] against [N, 1] would
silently become [N, N], a mean over the wrong pairs that still goes down while training.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from fedcore.data.dataset import Dataset
from fedcore.entrypoints import load_callable
from fedcore.errors import ConfigError, DataError, Incompatible
from fedcore.settings.model import BceWithLogits, CrossEntropy, CustomLoss, Loss, SumSquaredError

__all__ = ["LossFunction", "loss_of", "prepare", "wants_classes"]


@dataclass(frozen=True)
class LossFunction:
    """A loss ready to use: (outputs, targets) -> scalar.

    `reduction` says whether it averages over the records of a batch or adds them up, which is
    what whoever joins the losses of several batches must know.
    """

    settings: Loss
    function: Callable[..., object]

    @property
    def reduction(self) -> Literal["mean", "sum"]:
        """mean: over the records of a batch. sum: over them."""
        if isinstance(self.settings, CustomLoss):
            return self.settings.reduction
        return "sum" if isinstance(self.settings, SumSquaredError) else "mean"

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The loss of a batch, a scalar [].

        Raises:
            ConfigError: the shapes of outputs and targets do not belong together, or a custom
                loss returns something else than a scalar tensor.
        """
        kind = self.settings.kind
        if isinstance(self.settings, CrossEntropy):
            fits = outputs.ndim == 2 and targets.ndim == 1 and len(outputs) == len(targets)
        elif isinstance(self.settings, CustomLoss):
            # What its targets mean is its own business, but never another number of records.
            fits = outputs.ndim > 0 and len(outputs) == len(targets)
        else:
            fits = outputs.shape == targets.shape
        if not fits:
            wanted = "[N, classes] and [N]" if kind == "cross_entropy" else "of the same shape"
            raise ConfigError(
                f"Outputs and targets of the loss {kind} must be {wanted}; given: "
                f"{list(outputs.shape)} and {list(targets.shape)}; change the model's last layer "
                "or model.loss."
            )
        loss = self.function(outputs, targets)
        if not isinstance(loss, Tensor) or loss.ndim:
            given = list(loss.shape) if isinstance(loss, Tensor) else type(loss).__name__
            raise ConfigError(
                f"A loss must return one number as a tensor; given: {given} from {kind}; end it "
                "with .mean() or .sum()."
            )
        return loss


def loss_of(settings: Loss) -> LossFunction:
    """The loss that the settings name.

    Raises:
        ConfigError: a custom entrypoint that cannot be loaded.
    """
    if isinstance(settings, CustomLoss):
        made = load_callable(
            settings.entrypoint, arguments=settings.arguments, what="a custom loss"
        )
        return LossFunction(settings, made)
    if isinstance(settings, CrossEntropy):
        return LossFunction(settings, functional.cross_entropy)
    if isinstance(settings, BceWithLogits):
        return LossFunction(settings, functional.binary_cross_entropy_with_logits)
    if isinstance(settings, SumSquaredError):
        return LossFunction(settings, _sum_squared_error)
    return LossFunction(settings, functional.mse_loss)


def _sum_squared_error(outputs: Tensor, targets: Tensor) -> Tensor:
    return ((outputs - targets) ** 2).sum()


def wants_classes(loss: Loss) -> bool:
    """Whether targets must be class numbers [N] (else values [N, outputs])."""
    if isinstance(loss, CustomLoss):
        return loss.targets == "classes"
    return isinstance(loss, CrossEntropy)


def prepare(dataset: Dataset, loss: Loss) -> Dataset:
    """The same records with targets in the form that the loss wants.

    Class numbers: int64 [N]. Values: float32 [N, outputs]; of two classes [N, 1] with 0 and 1, of
    more classes one-hot [N, C]. Preparing twice, or for another loss, is harmless.

    Raises:
        Incompatible: the loss wants classes and the data has none.
        DataError: bce_with_logits over values outside 0 to 1.
    """
    labels = dataset.labels
    if wants_classes(loss):
        if labels is None:
            raise Incompatible(
                f"The loss {loss.kind} must have classes; given: data without classes "
                "(regression); choose model.loss.kind mse, or a source with classes."
            )
        return replace(dataset, targets=labels)
    if labels is not None:
        return replace(dataset, targets=_values(labels, classes=len(dataset.classes)))
    if isinstance(loss, BceWithLogits):
        outside = ((dataset.targets < 0) | (dataset.targets > 1)).any(dim=1)
        if bool(outside.any()):
            first = int(outside.nonzero()[0])
            raise DataError(
                "The loss bce_with_logits must have labels between 0 and 1; given: "
                f"{dataset.targets[first].tolist()} in record {first + 1} (counted from 1); "
                "choose model.loss.kind mse, or scale the label."
            )
    return dataset


def _values(labels: Tensor, *, classes: int) -> Tensor:
    if classes == 2:
        return labels[:, None].to(torch.float32)
    return functional.one_hot(labels, classes).to(torch.float32)
