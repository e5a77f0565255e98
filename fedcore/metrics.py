"""What is measured on records, as sums: parts measured apart add up to the whole.

Letters: N records, C classes.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from weakref import WeakKeyDictionary

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

__all__ = [
    "Measured",
    "Meter",
    "classify",
    "evaluate",
    "evaluating",
    "measure",
    "meter",
    "outputs_of",
    "predictions",
]

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
    chunk: int | None = None,
) -> dict[str, float]:
    """Loss and metrics over all records of a prepared data set, `chunk` records at a time.

    Without `chunk`, as many as keep what the layers put out in the processor's cache.

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
    chunk: int | None = None,
) -> Measured:
    """What `evaluate` divides: the sums over a data set, which add to those of other workers.

    Raises:
        DataError, ConfigError: as `evaluate`.
    """
    measuring = meter(loss, metrics, classes=len(dataset.classes))
    return _measure(module, dataset, measuring, chunk=chunk)


def _measure(
    module: nn.Module, dataset: Dataset, measuring: Meter, *, chunk: int | None
) -> Measured:
    _refuse_empty(dataset)
    total = Measured({}, 0)
    with evaluating(module):
        for outputs, targets in outputs_of(module, dataset, chunk=chunk):
            total += measuring.measure(outputs, targets)
    return total


def predictions(
    module: nn.Module, dataset: Dataset, *, loss: Loss, chunk: int | None = None
) -> Tensor:
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
    with evaluating(module):
        parts = [
            classify(outputs, loss=loss, classes=len(dataset.classes))
            for outputs, _ in outputs_of(module, dataset, chunk=chunk)
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


def outputs_of(
    module: nn.Module, dataset: Dataset, *, chunk: int | None = None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Outputs and targets, so many records at a time, in their order; to be used `evaluating`."""
    size = chunk or _records_at_once(module, dataset.features)
    turned = dataset.features.dim() == 4 and _is_channels_last(module)
    for start in range(0, len(dataset), size):
        features, targets = (t[start : start + size] for t in (dataset.features, dataset.targets))
        if turned:  # once, or else every convolution turns its input
            features = features.contiguous(memory_format=torch.channels_last)
        yield module(features), targets


# Measured: a CNN on images of 28 x 28 pixels (50 kB a record) is fastest with 50 to 100 records,
# and takes 1.4 times as long with 500; a perceptron is as fast with 100 as with 4000.
CACHED_BYTES = 4 * 2**20
FEWEST, MOST = 16, 1024

_known_sizes: WeakKeyDictionary[nn.Module, int] = WeakKeyDictionary()


def _records_at_once(module: nn.Module, features: Tensor) -> int:
    """As many records as have the largest output of a layer fit into CACHED_BYTES."""
    if len(features) <= FEWEST:
        return FEWEST
    if module not in _known_sizes:
        # Two, as a module was tried before training; some refuse a single record.
        largest = max([1, *_output_bytes(module, features[:2])])
        _known_sizes[module] = min(max(2 * CACHED_BYTES // largest, FEWEST), MOST)
    return _known_sizes[module]


def _output_bytes(module: nn.Module, records: Tensor) -> list[int]:
    """Bytes that each part of a module puts out for these records."""
    found: list[int] = []

    def note(part: nn.Module, inputs: object, output: object) -> None:
        if isinstance(output, Tensor):
            found.append(output.nbytes)

    hooks = [part.register_forward_hook(note) for part in module.modules()]
    try:
        module(records)
    finally:
        for hook in hooks:
            hook.remove()
    return found


def _is_channels_last(module: nn.Module) -> bool:
    """Whether weights of convolutions [O, I, H, W] lie in the order O, H, W, I."""
    order = torch.channels_last
    return any(
        p.dim() == 4 and p.is_contiguous(memory_format=order) and not p.is_contiguous()
        for p in module.parameters()
    )


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """The module in eval mode without gradients meanwhile, then left as it was."""
    # Part by part: a module may keep some of its parts in eval mode while it trains the rest.
    before = {part: part.training for part in module.modules()}
    module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for part, training in before.items():
            part.training = training
