"""What is measured on records, as sums: parts measured apart add up to the whole.

Letters: N records, C classes.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fedcore.data.dataset import Dataset, class_numbers
from fedcore.entrypoints import load_callable
from fedcore.errors import ConfigError, DataError, Incompatible
from fedcore.losses import LossFunction, loss_of, wants_classes
from fedcore.settings.model import (
    Accuracy,
    BceWithLogits,
    CustomMetric,
    Loss,
    MeanAbsoluteError,
    Metric,
)

__all__ = ["Measured", "Meter", "classify", "evaluate", "measure", "meter", "predictions"]

Measure = Callable[[Tensor, Tensor], Tensor]
"""(outputs, targets) -> one number per record [N]."""


@dataclass(frozen=True)
class Measured:
    """Sums over `count` records; the sums of disjoint records add."""

    sums: Mapping[str, float]
    count: int

    def __add__(self, other: "Measured") -> "Measured":
        names = [*self.sums, *(name for name in other.sums if name not in self.sums)]
        return Measured(
            {name: self.sums.get(name, 0.0) + other.sums.get(name, 0.0) for name in names},
            self.count + other.count,
        )


@dataclass(frozen=True)
class Meter:
    """A loss and metrics ready to be measured, batch after batch."""

    loss: LossFunction
    metrics: Mapping[str, Measure]

    def measure(self, outputs: Tensor, targets: Tensor) -> Measured:
        """Sums over a batch: `loss` (a mean loss counts once for each record) and each metric.

        Raises:
            ConfigError: outputs do not fit targets, or a custom metric does not return [N].
        """
        n = len(targets)
        loss = float(self.loss(outputs, targets).double())
        sums = {"loss": loss if self.loss.reduction == "sum" else loss * n}
        for name, metric in self.metrics.items():
            each = metric(outputs, targets)
            sums[name] = float(each.double().sum())
        return Measured(sums, n)

    def values(self, measured: Measured) -> dict[str, float]:
        """What is reported: means over records, and a summed loss as the sum that it is.

        Each value is what one batch of all the records would have given.
        """
        values = {name: total / measured.count for name, total in measured.sums.items()}
        if self.loss.reduction == "sum":
            values["loss"] = measured.sums["loss"]
        return values


def meter(loss: Loss, metrics: Sequence[Metric] = (), *, classes: int) -> Meter:
    """What to measure: the metrics asked for, and accuracy wherever there are classes.

    Raises:
        Incompatible: accuracy without classes, or an absolute error from class numbers.
        ConfigError: two metrics of one name, or a custom one that cannot be loaded.
    """
    chosen: dict[str, Measure] = {}
    if classes:
        chosen["accuracy"] = _accuracy(loss, classes=classes)
    for metric in metrics:
        if isinstance(metric, Accuracy):
            if not classes:
                raise Incompatible(
                    "The metric accuracy must have classes; given: data without classes "
                    "(regression); choose mean_absolute_error."
                )
            continue  # there already
        name = metric.name if isinstance(metric, CustomMetric) else metric.kind
        if name == "loss" or name in chosen:
            raise ConfigError(
                f"Metrics must have distinct names other than loss; given: {name!r} twice; rename "
                "or remove one in model.metrics."
            )
        if isinstance(metric, CustomMetric):
            chosen[name] = _custom(metric)
        else:
            chosen[name] = _absolute_error(metric, loss)
    return Meter(loss_of(loss), chosen)


def evaluate(
    module: nn.Module,
    dataset: Dataset,
    *,
    loss: Loss,
    metrics: Sequence[Metric] = (),
    chunk: int = 1024,
) -> dict[str, float]:
    """Loss and metrics over all records of a prepared data set, `chunk` records at a time.

    `{"loss": ..., "accuracy": ...}` and one value for each metric: what a single batch of all the
    records would give. The module is in eval mode meanwhile, and left as it was.

    Raises:
        DataError: no records.
        ConfigError: as `meter` and `Meter.measure`.
    """
    measuring = meter(loss, metrics, classes=len(dataset.classes))
    return measuring.values(_measure(module, dataset, measuring, chunk=chunk))


def measure(
    module: nn.Module,
    dataset: Dataset,
    *,
    loss: Loss,
    metrics: Sequence[Metric] = (),
    chunk: int = 1024,
) -> Measured:
    """What `evaluate` divides: the sums over a data set, which add to those of other workers.

    Raises:
        DataError, ConfigError: as `evaluate`.
    """
    measuring = meter(loss, metrics, classes=len(dataset.classes))
    return _measure(module, dataset, measuring, chunk=chunk)


def _measure(module: nn.Module, dataset: Dataset, measuring: Meter, *, chunk: int) -> Measured:
    _refuse_empty(dataset)
    total = Measured({}, 0)
    with _evaluating(module):
        for start in range(0, len(dataset), chunk):
            outputs = module(dataset.features[start : start + chunk])
            total += measuring.measure(outputs, dataset.targets[start : start + chunk])
    return total


def predictions(module: nn.Module, dataset: Dataset, *, loss: Loss, chunk: int = 1024) -> Tensor:
    """The predicted class numbers, int64 [N]; with `dataset.labels` they make a confusion matrix.

    Raises:
        DataError: no records.
        Incompatible: data without classes.
    """
    _refuse_empty(dataset)
    if not dataset.classes:
        raise Incompatible(
            "Predicted classes must have classes to choose from; given: data without classes "
            "(regression); use the model's outputs."
        )
    with _evaluating(module):
        parts = [
            classify(
                module(dataset.features[start : start + chunk]),
                loss=loss,
                classes=len(dataset.classes),
            )
            for start in range(0, len(dataset), chunk)
        ]
    return torch.cat(parts)


def classify(outputs: Tensor, *, loss: Loss, classes: int) -> Tensor:
    """Class numbers int64 [N] from outputs [N, C], or [N, 1] for two classes.

    One output is cut where its loss puts the border: at 0 for logits (bce_with_logits), at 0.5
    for values trained towards 0 and 1 (squared errors and custom losses).

    Raises:
        ConfigError: outputs of another shape.
    """
    if outputs.ndim == 2 and outputs.shape[1] == classes:
        return outputs.argmax(dim=1)
    if outputs.ndim == 2 and outputs.shape[1] == 1 and classes == 2:
        border = 0.0 if isinstance(loss, BceWithLogits) else 0.5
        return (outputs[:, 0] > border).long()
    wanted = "[N, 2] or [N, 1]" if classes == 2 else f"[N, {classes}]"
    raise ConfigError(
        f"Outputs must be {wanted} for {classes} classes; given: {list(outputs.shape)}; change "
        "the model's last layer."
    )


def _accuracy(loss: Loss, *, classes: int) -> Measure:
    def hits(outputs: Tensor, targets: Tensor) -> Tensor:
        return classify(outputs, loss=loss, classes=classes) == class_numbers(targets)

    return hits


def _absolute_error(metric: MeanAbsoluteError, loss: Loss) -> Measure:
    if wants_classes(loss):
        raise Incompatible(
            f"The metric {metric.kind} must have targets that are values; given: class numbers, "
            f"as the loss {loss.kind} wants them; remove it from model.metrics, or choose "
            "model.loss.kind mse."
        )

    def errors(outputs: Tensor, targets: Tensor) -> Tensor:
        if outputs.shape != targets.shape:
            raise ConfigError(
                f"Outputs and targets of {metric.kind} must be of the same shape; given: "
                f"{list(outputs.shape)} and {list(targets.shape)}; change the model's last layer "
                "or remove the metric."
            )
        return (outputs - targets).abs().flatten(1).mean(dim=1)

    return errors


def _custom(metric: CustomMetric) -> Measure:
    function = load_callable(
        metric.entrypoint, arguments=metric.arguments, what=f"the metric {metric.name}"
    )

    def each(outputs: Tensor, targets: Tensor) -> Tensor:
        found = function(outputs, targets)
        if not isinstance(found, Tensor) or found.shape != (len(targets),):
            given = list(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise ConfigError(
                f"The metric {metric.name} must return a tensor with one number for each record "
                f"[{len(targets)}]; given: {given} from {metric.entrypoint}; do not average in it."
            )
        return found

    return each


def _refuse_empty(dataset: Dataset) -> None:
    if not len(dataset):
        raise DataError(
            "Measuring must have a record; given: none; raise data.test_share, or leave it out."
        )


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    # Part by part: a module may keep some of its parts in eval mode while it trains the rest.
    before = {part: part.training for part in module.modules()}
    module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for part, training in before.items():
            part.training = training
