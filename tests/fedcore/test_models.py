"""Models: the layers that the settings name, shapes from the data, mismatches said beforehand."""

import json
from dataclasses import asdict

import pytest
import torch
from torch import Tensor, nn

from fedcore.data import Dataset
from fedcore.errors import ConfigError, DataError, Incompatible
from fedcore.losses import loss_of, prepare
from fedcore.models import Blueprint, blueprint, build, check_fit
from fedcore.seeds import derive
from fedcore.settings import Loss, Model
from fedcore.settings.model import (
    BceWithLogits,
    Cnn,
    CrossEntropy,
    CustomLoss,
    CustomMetric,
    CustomModel,
    Linear,
    Logistic,
    MeanAbsoluteError,
    Mlp,
    Mse,
    SumSquaredError,
)


def data(*inputs: int, classes: int = 3, n: int = 6) -> Dataset:
    features = torch.randn(n, *inputs, generator=torch.Generator().manual_seed(0))
    if not classes:
        return Dataset(features, features.flatten(1)[:, :1].clone())
    return Dataset(features, torch.arange(n) % classes, tuple("abcdefghij"[:classes]))


def shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in module.named_parameters()}


def made(model: Model, dataset: Dataset) -> nn.Module:
    return build(blueprint(model, dataset))


@pytest.mark.parametrize(
    ("loss", "classes", "outputs"),
    [
        (CrossEntropy(), 2, 2),
        (CrossEntropy(), 10, 10),
        (BceWithLogits(), 2, 1),
        (BceWithLogits(), 3, 3),
        (Mse(), 2, 1),
        (Mse(), 0, 1),
        (SumSquaredError(), 4, 4),
    ],
)
def test_outputs_follow_from_loss_and_targets(loss: Loss, classes: int, outputs: int) -> None:
    dataset = data(5, classes=classes, n=20)
    plan = blueprint(Mlp(loss=loss), dataset)
    assert (plan.inputs, plan.outputs, plan.classes) == ((5,), outputs, classes)
    assert blueprint(Mlp(loss=loss), prepare(dataset, loss)) == plan
    check_fit(plan, dataset)


def test_a_linear_model_is_one_plain_layer() -> None:
    module = made(Linear(), data(3, 2, classes=0))
    assert shapes(module) == {"weight": (1, 6), "bias": (1,)}
    assert shapes(made(Linear(bias=False), data(2, classes=0))) == {"weight": (1, 2)}
    x = data(3, 2).features
    parameters = dict(module.named_parameters())
    expected = x.flatten(1) @ parameters["weight"].T + parameters["bias"]
    torch.testing.assert_close(module(x), expected)


def test_logistic_regression_has_an_output_per_class_or_one_logit() -> None:
    assert shapes(made(Logistic(), data(4)))["weight"] == (3, 4)
    two = data(4, classes=2)
    assert shapes(made(Logistic(loss=BceWithLogits()), two))["weight"] == (1, 4)


def test_a_perceptron_has_the_hidden_layers_asked_for() -> None:
    module = made(Mlp(hidden=[7, 5], dropout=0.5), data(4))
    kinds = [type(layer).__name__ for layer in module.children()]
    assert kinds == ["Linear", "ReLU", "Dropout", "Linear", "ReLU", "Dropout", "Linear"]
    assert [shape for name, shape in shapes(module).items() if "weight" in name] == [
        (7, 4),
        (5, 7),
        (3, 5),
    ]
    assert shapes(made(Mlp(hidden=[]), data(4))) == {"0.weight": (3, 4), "0.bias": (3,)}


@pytest.mark.parametrize("model", [Linear(loss=CrossEntropy()), Logistic(), Mlp()])
def test_features_of_any_shape_are_flattened(model: Model) -> None:
    dataset = data(2, 3, 4)
    check_fit(blueprint(model, dataset), dataset)
    flat = Dataset(dataset.features.flatten(1), dataset.targets, dataset.classes)
    whole = made(model, dataset)(dataset.features)
    assert torch.equal(whole, made(model, flat)(flat.features))


@pytest.mark.parametrize("inputs", [(1, 8, 8), (8, 8), (64,)])
def test_a_cnn_sees_the_same_image_in_every_form(inputs: tuple[int, ...]) -> None:
    image = data(1, 8, 8)
    dataset = Dataset(image.features.reshape(6, *inputs), image.targets, image.classes)
    module = made(Cnn(channels=[4, 6]), dataset)
    assert list(shapes(module).values()) == [
        (4, 1, 3, 3), (4,), (6, 4, 3, 3), (6,), (3, 24), (3,),
    ]  # fmt: skip
    check_fit(blueprint(Cnn(channels=[4, 6]), dataset), dataset)
    expected = made(Cnn(channels=[4, 6]), image)(image.features)
    assert torch.equal(module(dataset.features), expected)


def test_a_cnn_takes_channels_and_oblong_images() -> None:
    dataset = data(3, 9, 5)
    check_fit(blueprint(Cnn(channels=[2, 2]), dataset), dataset)


def test_a_blueprint_is_json() -> None:
    plan = asdict(blueprint(Mlp(), data(4)))
    plan["model"] = plan["model"].model_dump(mode="json")
    assert json.loads(json.dumps(plan))["inputs"] == [4]


def test_building_follows_its_generator_and_disturbs_nobody() -> None:
    plan = blueprint(Mlp(), data(4))
    before = torch.get_rng_state()
    one, again, other = (build(plan, generator=derive(seed, 0, "", "model")) for seed in (1, 1, 2))
    check_fit(plan, data(4))
    assert torch.equal(before, torch.get_rng_state())
    first = [next(module.parameters()) for module in (one, again, other)]
    assert torch.equal(first[0], first[1])
    assert not torch.equal(first[0], first[2])


# Custom models


class Net(nn.Module):
    def __init__(self, inputs: int = 4, outputs: int = 3, behaviour: str = "") -> None:
        super().__init__()
        self.layer = nn.Linear(inputs, outputs)
        self.normal = nn.BatchNorm1d(outputs)
        self.behaviour = behaviour

    def forward(self, features: Tensor) -> Tensor:
        outputs: Tensor = self.normal(self.layer(features))
        changed = {
            "tuple": (outputs, 1),
            "nan": outputs * torch.nan,
            "detached": outputs.detach(),
            "flat": outputs[:, 0],
        }
        return changed.get(self.behaviour, outputs)  # type: ignore[return-value]


def net(**arguments: int | str) -> CustomModel:
    return CustomModel(entrypoint=f"{__name__}:Net", arguments={**arguments})


def lossless(outputs: Tensor, targets: Tensor) -> Tensor:
    raise RuntimeError("no\nloss")


def average(outputs: Tensor, targets: Tensor) -> Tensor:
    return outputs.mean()


def test_a_custom_model_that_fits_passes() -> None:
    for n in (1, 6):
        check_fit(blueprint(net(), data(4, n=n)), data(4, n=n))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"inputs": 5}, r"must take records of shape \[4\]; given: a batch \[2, 4\].*first layer"),
        (
            {"outputs": 2},
            r"output must fit the labels: \[2, 3\] for two records of 3 classes under the loss "
            r"cross_entropy; given: \[2, 2\]; change the model's last layer",
        ),
        ({"outputs": 9}, r"output must fit the labels: \[2, 3\].*given: \[2, 9\]"),
        ({"behaviour": "flat"}, r"output must fit the labels.*given: \[2\]"),
        ({"behaviour": "tuple"}, r"must return a tensor \[N, 3\]; given: a tuple"),
        ({"behaviour": "nan"}, r"loss must be a finite number; given: nan from cross_entropy"),
        ({"behaviour": "detached"}, r"loss must depend on the model's weights"),
        ({"depth": 3}, r"must accept model.arguments; given: .*TypeError.*depth"),
    ],
)
def test_a_custom_model_that_does_not_fit_is_refused(
    arguments: dict[str, int | str], message: str
) -> None:
    dataset = data(4)
    with pytest.raises(ConfigError, match=message):
        check_fit(blueprint(net(**arguments), dataset), dataset)


def test_what_is_not_a_module_is_refused() -> None:
    model = CustomModel(entrypoint=f"{__name__}:shapes", arguments={"module": {}})
    with pytest.raises(ConfigError, match=r"must accept model.arguments; given: .*AttributeError"):
        build(blueprint(model, data(4)))
    with pytest.raises(ConfigError, match=r"torch.nn.Module; given: a dict"):
        build(blueprint(CustomModel(entrypoint="builtins:dict"), data(4)))


def test_losses_and_metrics_are_tried_too() -> None:
    dataset = data(4)
    broken = CustomLoss(entrypoint=f"{__name__}:lossless", targets="classes")
    model = net().but(loss=broken)
    with pytest.raises(ConfigError, match=r"loss custom must accept outputs \[2, 3\] .*: no loss;"):
        check_fit(blueprint(model, dataset), dataset)
    metric = CustomMetric(name="bad", entrypoint=f"{__name__}:average")
    with pytest.raises(ConfigError, match=r"metric bad must return .* \[2\]; given: \[\]"):
        check_fit(blueprint(Mlp(metrics=[metric]), dataset), dataset)
    with pytest.raises(Incompatible, match="mean_absolute_error must have targets that are values"):
        check_fit(blueprint(Mlp(metrics=[MeanAbsoluteError()]), dataset), dataset)


# What cannot go together


def test_records_of_another_shape_are_refused() -> None:
    plan = blueprint(Mlp(), data(4))
    with pytest.raises(ConfigError, match=r"the model's inputs \[4\] and .*; given: \[5\]"):
        check_fit(plan, data(5))


@pytest.mark.parametrize(
    ("model", "inputs", "message"),
    [
        (Cnn(channels=[2, 2, 2, 2]), (8, 8), r"8 x 8 pixels and 4 poolings, .* at most 3 channels"),
        (Cnn(), (63,), r"square number of pixels; given: \[63\]; choose model.kind mlp"),
        (Cnn(), (1, 2, 8, 8), r"must be images .*given: \[1, 2, 8, 8\]"),
    ],
)
def test_images_that_a_cnn_cannot_take_are_refused(
    model: Model, inputs: tuple[int, ...], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        build(blueprint(model, data(*inputs)))


def test_choices_that_cannot_go_together_are_refused() -> None:
    with pytest.raises(Incompatible, match=r"loss cross_entropy or bce_with_logits; given: mse"):
        blueprint(Logistic(loss=Mse()), data(4))
    with pytest.raises(Incompatible, match="cross_entropy must have classes"):
        blueprint(Mlp(), data(4, classes=0))
    with pytest.raises(DataError, match="must have a record"):
        blueprint(Mlp(), Dataset(torch.zeros(0, 4), torch.zeros(0, dtype=torch.long), ("a", "b")))


def test_a_blueprint_for_other_labels_is_refused() -> None:
    plan = Blueprint(Mlp(), (4,), 2, 2)
    with pytest.raises(ConfigError, match=r"\[4\] and 2 classes; given: \[4\] and 3; make"):
        check_fit(plan, data(4, classes=3))


def test_the_first_step_can_be_taken() -> None:
    dataset = data(4)
    module = made(Mlp(), dataset)
    loss = loss_of(CrossEntropy())(module(dataset.features), dataset.targets)
    gradients = torch.autograd.grad(loss, list(module.parameters()))
    assert all(bool(gradient.any()) for gradient in gradients)
