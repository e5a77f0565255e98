"""Losses: PyTorch's own numbers, targets in the form that each wants, and never a broadcast."""

import pytest
import torch
from hypothesis import given
from hypothesis import settings as limits
from hypothesis import strategies as st
from torch import Tensor, nn

from fedcore.data import Dataset
from fedcore.errors import ConfigError, DataError, Incompatible
from fedcore.losses import loss_of, prepare
from fedcore.settings import Loss
from fedcore.settings.model import (
    BceWithLogits,
    CrossEntropy,
    CustomLoss,
    Mse,
    SumSquaredError,
)

VALUES: list[Loss] = [BceWithLogits(), Mse(), SumSquaredError()]
ALL: list[Loss] = [CrossEntropy(), *VALUES]


def labelled(labels: list[int], *, classes: int) -> Dataset:
    names = tuple("abcdefgh"[:classes])
    return Dataset(torch.zeros(len(labels), 2), torch.tensor(labels), names)


def numbers(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("settings", "module"),
    [
        (CrossEntropy(), nn.CrossEntropyLoss()),
        (BceWithLogits(), nn.BCEWithLogitsLoss()),
        (Mse(), nn.MSELoss()),
        (SumSquaredError(), nn.MSELoss(reduction="sum")),
    ],
)
def test_losses_are_pytorchs(settings: Loss, module: nn.Module) -> None:
    targets = torch.tensor([0, 2, 1]) if settings.kind == "cross_entropy" else torch.eye(3)
    loss = loss_of(settings)
    torch.testing.assert_close(loss(numbers(3, 3), targets), module(numbers(3, 3), targets))
    assert loss.reduction == ("sum" if settings.kind == "sum_squared_error" else "mean")


def test_sum_squared_error_is_the_tutorials_expression() -> None:
    outputs, targets = numbers(7, 3), numbers(7, 3).exp()
    assert torch.equal(
        loss_of(SumSquaredError())(outputs, targets), ((outputs - targets) ** 2).sum()
    )


@pytest.mark.parametrize("settings", VALUES)
@pytest.mark.parametrize(("outputs", "targets"), [((4,), (4, 1)), ((4, 1), (4,)), ((4, 1), (1, 1))])
def test_nothing_broadcasts(
    settings: Loss, outputs: tuple[int, ...], targets: tuple[int, ...]
) -> None:
    with pytest.raises(ConfigError, match=r"must be of the same shape; given: .* last layer"):
        loss_of(settings)(torch.zeros(outputs), torch.zeros(targets))


@pytest.mark.parametrize(("outputs", "targets"), [((4,), (4,)), ((4, 3), (5,)), ((4, 3), (4, 3))])
def test_cross_entropy_wants_class_numbers(
    outputs: tuple[int, ...], targets: tuple[int, ...]
) -> None:
    with pytest.raises(ConfigError, match=r"\[N, classes\] and \[N\]; given"):
        loss_of(CrossEntropy())(torch.zeros(outputs), torch.zeros(targets))


def test_losses_work_under_vmap() -> None:
    for settings in ALL:
        classes = settings.kind == "cross_entropy"
        targets = torch.zeros(5, 4, dtype=torch.long) if classes else torch.zeros(5, 4, 3)
        loss = loss_of(settings)
        together = torch.func.vmap(loss)(numbers(5, 4, 3), targets)
        apart = [loss(*pair) for pair in zip(numbers(5, 4, 3), targets, strict=True)]
        torch.testing.assert_close(together, torch.stack(apart))


# Targets


@limits(deadline=None)
@given(
    st.integers(2, 6).flatmap(
        lambda c: st.tuples(st.just(c), st.lists(st.integers(0, c - 1), min_size=1))
    )
)
def test_labels_survive_every_form(case: tuple[int, list[int]]) -> None:
    classes, labels = case
    dataset = labelled(labels, classes=classes)
    for settings in ALL:
        prepared = prepare(dataset, settings)
        assert prepared.labels is not None
        assert prepared.labels.tolist() == labels
        assert prepared.labels.dtype == torch.int64
        assert prepared.label_counts == {
            name: labels.count(number) for number, name in enumerate(dataset.classes)
        }
        for other in ALL:
            again = prepare(prepared, other)
            assert again.fingerprint == prepare(dataset, other).fingerprint


def test_targets_take_the_form_the_loss_wants() -> None:
    two, three = labelled([0, 1, 1], classes=2), labelled([0, 2, 1], classes=3)
    for settings in VALUES:
        assert prepare(two, settings).targets.tolist() == [[0], [1], [1]]
        assert prepare(three, settings).targets.tolist() == [[1, 0, 0], [0, 0, 1], [0, 1, 0]]
        assert prepare(three, settings).targets.dtype == torch.float32
    assert prepare(two, CrossEntropy()).targets.tolist() == [0, 1, 1]


def test_values_pass_as_they_are_and_have_no_labels() -> None:
    values = Dataset(torch.zeros(3, 1), torch.tensor([[0.0], [0.5], [1.0]]))
    for settings in VALUES:
        assert prepare(values, settings).targets is values.targets
    assert values.labels is None
    assert values.label_counts == {}


def test_classes_are_asked_for_where_a_loss_needs_them() -> None:
    values = Dataset(torch.zeros(3, 1), torch.zeros(3, 1))
    for settings in (CrossEntropy(), CustomLoss(entrypoint="m:f", targets="classes")):
        with pytest.raises(Incompatible, match=f"loss {settings.kind} must have classes.*kind mse"):
            prepare(values, settings)


def test_bce_wants_values_between_0_and_1() -> None:
    for wrong in (1.5, -0.1):
        values = Dataset(torch.zeros(3, 1), torch.tensor([[0.0], [wrong], [1.0]]))
        with pytest.raises(DataError, match=r"between 0 and 1; given: \[.*\] in record 2 "):
            prepare(values, BceWithLogits())


# Custom


def huber(outputs: Tensor, targets: Tensor, *, delta: float = 1.0) -> Tensor:
    return nn.functional.huber_loss(outputs, targets, delta=delta)


class Weighted:
    def __init__(self, weight: float) -> None:
        self.weight = weight

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return self.weight * nn.functional.cross_entropy(outputs, targets, reduction="sum")


def each(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs - targets) ** 2


def number(outputs: Tensor, targets: Tensor) -> float:
    return 1.0


def test_a_custom_loss_is_a_function_or_a_class() -> None:
    outputs, targets = numbers(4, 2), torch.zeros(4, 2)
    function = CustomLoss(entrypoint=f"{__name__}:huber", arguments={"delta": 0.1})
    assert torch.equal(loss_of(function)(outputs, targets), huber(outputs, targets, delta=0.1))
    made = CustomLoss(
        entrypoint=f"{__name__}:Weighted",
        arguments={"weight": 2},
        reduction="sum",
        targets="classes",
    )
    loss = loss_of(made)
    labels = prepare(labelled([0, 1, 1, 0], classes=2), made).targets
    assert loss.reduction == "sum"
    torch.testing.assert_close(
        loss(outputs, labels), 2 * 4 * nn.functional.cross_entropy(outputs, labels)
    )


@pytest.mark.parametrize(("name", "given"), [("each", r"\[4, 2\]"), ("number", "float")])
def test_a_custom_loss_must_return_one_number(name: str, given: str) -> None:
    loss = loss_of(CustomLoss(entrypoint=f"{__name__}:{name}"))
    with pytest.raises(ConfigError, match=f"must return one number as a tensor; given: {given}"):
        loss(torch.zeros(4, 2), torch.zeros(4, 2))


def test_a_custom_loss_of_other_records_is_refused() -> None:
    loss = loss_of(CustomLoss(entrypoint=f"{__name__}:each"))
    with pytest.raises(ConfigError, match="loss custom must be of the same shape"):
        loss(torch.zeros(4, 2), torch.zeros(1, 2))
