"""Metrics: sums that add, the same numbers as scikit-learn's, whatever the chunk."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, log_loss, mean_absolute_error, mean_squared_error
from torch import Tensor, nn

from fedcore.data import Dataset
from fedcore.errors import ConfigError, DataError, Incompatible
from fedcore.losses import prepare
from fedcore.metrics import Measured, classify, evaluate, measure, meter, predictions
from fedcore.settings import Loss, Metric
from fedcore.settings.model import (
    Accuracy,
    BceWithLogits,
    CrossEntropy,
    CustomMetric,
    MeanAbsoluteError,
    Mse,
    SumSquaredError,
)

ALL: list[Loss] = [CrossEntropy(), BceWithLogits(), Mse(), SumSquaredError()]


def records(n: int, *, classes: int, seed: int = 0) -> Dataset:
    generator = torch.Generator().manual_seed(seed)
    return Dataset(
        torch.randn(n, 4, generator=generator),
        torch.randint(classes, (n,), generator=generator)
        if classes
        else torch.randn(n, 1, generator=generator),
        tuple("abcdefgh"[:classes]),
    )


class Fixed(nn.Module):
    """The first features are the outputs."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.outputs = outputs

    def forward(self, features: Tensor) -> Tensor:
        return features[:, : self.outputs]


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 60),
    st.integers(1, 70),
    st.sampled_from(ALL),
    st.sampled_from([2, 3]),
)
def test_chunks_add_up_to_the_whole(n: int, chunk: int, loss: Loss, classes: int) -> None:
    dataset = prepare(records(n, classes=classes), loss)
    outputs = classes if dataset.targets.ndim == 1 else dataset.targets.shape[1]
    whole = evaluate(Fixed(outputs), dataset, loss=loss, chunk=n)
    parts = evaluate(Fixed(outputs), dataset, loss=loss, chunk=chunk)
    assert list(whole) == ["loss", "accuracy"]
    assert parts == pytest.approx(whole, rel=1e-6)
    measuring = meter(loss, classes=classes)
    together = Measured({}, 0)
    for start, end in pairwise([0, *range(chunk, n, chunk), n]):
        together += measuring.measure(
            dataset.features[start:end, :outputs], dataset.targets[start:end]
        )
    assert measuring.values(together) == pytest.approx(whole, rel=1e-6)
    assert together.count == n


def test_classification_agrees_with_scikit_learn() -> None:
    dataset = records(500, classes=3)
    found = evaluate(Fixed(3), dataset, loss=CrossEntropy(), chunk=7)
    chances = dataset.features[:, :3].double().softmax(dim=1).numpy()
    truth = dataset.targets.numpy()
    assert found["loss"] == pytest.approx(log_loss(truth, chances), rel=1e-6)
    assert found["accuracy"] == pytest.approx(accuracy_score(truth, chances.argmax(1)))
    predicted = predictions(Fixed(3), dataset, loss=CrossEntropy(), chunk=7)
    np.testing.assert_array_equal(predicted.numpy(), chances.argmax(1))


def test_regression_agrees_with_scikit_learn() -> None:
    dataset = records(300, classes=0)
    found = evaluate(Fixed(1), dataset, loss=Mse(), metrics=[MeanAbsoluteError()], chunk=64)
    truth, guess = dataset.targets.numpy(), dataset.features[:, :1].numpy()
    assert list(found) == ["loss", "mean_absolute_error"]
    assert found["loss"] == pytest.approx(mean_squared_error(truth, guess), rel=1e-5)
    assert found["mean_absolute_error"] == pytest.approx(
        mean_absolute_error(truth, guess), rel=1e-5
    )


def test_a_summed_loss_is_the_sum_over_all_records() -> None:
    dataset = records(30, classes=0)
    found = evaluate(Fixed(1), dataset, loss=SumSquaredError(), chunk=4)
    expected = ((dataset.features[:, :1] - dataset.targets) ** 2).sum().item()
    assert found["loss"] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("loss", ALL)
def test_sums_of_workers_add_up_to_the_pooled_value(loss: Loss) -> None:
    pooled = prepare(records(40, classes=3), loss)
    first, second = (pooled.take(index) for index in (np.arange(9), np.arange(9, 40)))
    total = measure(Fixed(3), first, loss=loss) + measure(Fixed(3), second, loss=loss)
    assert total.count == 40
    found = meter(loss, classes=3).values(total)
    assert found == pytest.approx(evaluate(Fixed(3), pooled, loss=loss), rel=1e-6)


def test_one_output_is_cut_at_the_losss_border() -> None:
    outputs = torch.tensor([[-1.0], [0.25], [0.75]])
    assert classify(outputs, loss=BceWithLogits(), classes=2).tolist() == [0, 1, 1]
    for loss in (Mse(), SumSquaredError()):
        assert classify(outputs, loss=loss, classes=2).tolist() == [0, 0, 1]


@pytest.mark.parametrize(("shape", "classes"), [((4, 2), 3), ((4, 1), 3), ((4,), 2), ((4, 3), 2)])
def test_outputs_that_choose_no_class_are_refused(shape: tuple[int, ...], classes: int) -> None:
    with pytest.raises(ConfigError, match=f"for {classes} classes; given: .* last layer"):
        classify(torch.zeros(shape), loss=Mse(), classes=classes)


def test_the_module_is_left_as_it_was() -> None:
    module = nn.Sequential(nn.Linear(4, 2), nn.BatchNorm1d(2), nn.Dropout(0.5))
    module[1].eval()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    first, second = (
        evaluate(module, records(50, classes=2), loss=CrossEntropy()) for _ in range(2)
    )
    assert first == second
    assert [part.training for part in module] == [True, False, True]
    assert all(torch.equal(before[name], tensor) for name, tensor in module.state_dict().items())


# Custom metrics, and what cannot be measured


def squared(outputs: Tensor, targets: Tensor, *, times: float = 1.0) -> Tensor:
    return times * ((outputs - targets) ** 2).sum(dim=1)


def averaged(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs - targets).mean()


def test_a_custom_metric_is_averaged_over_records() -> None:
    metric = CustomMetric(name="twice", entrypoint=f"{__name__}:squared", arguments={"times": 2})
    found = evaluate(Fixed(1), records(30, classes=0), loss=Mse(), metrics=[metric], chunk=7)
    assert found["twice"] == pytest.approx(2 * found["loss"], rel=1e-6)


def test_a_custom_metric_must_not_average() -> None:
    metric = CustomMetric(name="bad", entrypoint=f"{__name__}:averaged")
    with pytest.raises(ConfigError, match=r"metric bad must return .*\[30\]; given: \[\] from"):
        evaluate(Fixed(1), records(30, classes=0), loss=Mse(), metrics=[metric])


def test_accuracy_may_be_asked_for_too() -> None:
    found = evaluate(
        Fixed(2), records(9, classes=2), loss=CrossEntropy(), metrics=[Accuracy(), Accuracy()]
    )
    assert list(found) == ["loss", "accuracy"]


@pytest.mark.parametrize(
    ("loss", "metrics", "classes", "message"),
    [
        (Mse(), [Accuracy()], 0, "accuracy must have classes.*choose mean_absolute_error"),
        (CrossEntropy(), [MeanAbsoluteError()], 2, "must have targets that are values.*mse"),
    ],
)
def test_metrics_that_do_not_go_with_the_loss_are_refused(
    loss: Loss, metrics: list[Metric], classes: int, message: str
) -> None:
    with pytest.raises(Incompatible, match=message):
        meter(loss, metrics, classes=classes)


def test_metrics_of_one_name_are_refused() -> None:
    for name, classes in (("accuracy", 2), ("loss", 0)):
        metric = CustomMetric(name=name, entrypoint=f"{__name__}:squared")
        with pytest.raises(ConfigError, match=f"distinct names other than loss; given: '{name}'"):
            meter(Mse(), [metric], classes=classes)
    with pytest.raises(ConfigError, match="given: 'mean_absolute_error' twice"):
        meter(Mse(), [MeanAbsoluteError(), MeanAbsoluteError()], classes=0)


def test_nothing_to_measure_is_refused() -> None:
    empty = records(0, classes=2)
    with pytest.raises(DataError, match="must have a record"):
        evaluate(Fixed(2), empty, loss=CrossEntropy())
    with pytest.raises(DataError, match="must have a record"):
        predictions(Fixed(2), empty, loss=CrossEntropy())
    with pytest.raises(Incompatible, match="must have classes to choose from"):
        predictions(Fixed(1), records(3, classes=0), loss=Mse())


def test_an_absolute_error_does_not_broadcast() -> None:
    metrics: list[Metric] = [MeanAbsoluteError()]
    measuring = meter(Mse(), metrics, classes=0)
    with pytest.raises(ConfigError, match="of the same shape"):
        measuring.metrics["mean_absolute_error"](torch.zeros(4), torch.zeros(4, 1))
