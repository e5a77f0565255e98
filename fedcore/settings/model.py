"""What is trained: a model, its loss, what is measured, and where its weights start."""

from typing import Annotated, Literal

from pydantic import Field, JsonValue

from fedcore.settings.choice import Settings, by_kind
from fedcore.settings.data import ENTRYPOINT

__all__ = [
    "Accuracy",
    "BceWithLogits",
    "Cnn",
    "CrossEntropy",
    "CustomLoss",
    "CustomMetric",
    "CustomModel",
    "FromFile",
    "Initial",
    "Inline",
    "Linear",
    "Logistic",
    "Loss",
    "MeanAbsoluteError",
    "Metric",
    "Mlp",
    "Model",
    "Mse",
    "Seeded",
    "SumSquaredError",
]


class CrossEntropy(Settings):
    """Mean cross entropy over classes."""

    kind: Literal["cross_entropy"] = "cross_entropy"


class BceWithLogits(Settings):
    """Mean binary cross entropy of logits."""

    kind: Literal["bce_with_logits"] = "bce_with_logits"


class Mse(Settings):
    """Mean squared error."""

    kind: Literal["mse"] = "mse"


class SumSquaredError(Settings):
    """Sum of squared errors over a batch: the tutorial's loss."""

    kind: Literal["sum_squared_error"] = "sum_squared_error"


class CustomLoss(Settings):
    """Your own: a function of (outputs, targets), or a class of such callables."""

    kind: Literal["custom"] = "custom"
    entrypoint: str = Field("package.module:function", pattern=ENTRYPOINT)
    """module:name of the function or class."""
    arguments: dict[str, JsonValue] = {}
    """Keyword arguments for it."""
    reduction: Literal["mean", "sum"] = "mean"
    """Whether it averages over a batch or adds up."""
    targets: Literal["classes", "values"] = "values"
    """Whether labels are class numbers [N] or values [N, outputs]."""


Loss = Annotated[
    CrossEntropy | BceWithLogits | Mse | SumSquaredError | CustomLoss,
    by_kind(CrossEntropy, BceWithLogits, Mse, SumSquaredError, CustomLoss),
]


class Accuracy(Settings):
    """Share of records whose class is predicted; measured without asking when there are classes."""

    kind: Literal["accuracy"] = "accuracy"


class MeanAbsoluteError(Settings):
    """Mean absolute difference between output and target."""

    kind: Literal["mean_absolute_error"] = "mean_absolute_error"


class CustomMetric(Settings):
    """Your own: a function of (outputs, targets) that returns one number per record [N]."""

    kind: Literal["custom"] = "custom"
    name: str = Field("metric", pattern=r"^[a-z][a-z0-9_]*$", max_length=60)
    """Appears as test_<name>."""
    entrypoint: str = Field("package.module:function", pattern=ENTRYPOINT)
    """module:name of the function."""
    arguments: dict[str, JsonValue] = {}
    """Keyword arguments for it."""


Metric = Annotated[
    Accuracy | MeanAbsoluteError | CustomMetric,
    by_kind(Accuracy, MeanAbsoluteError, CustomMetric),
]


class Seeded(Settings):
    """PyTorch's own initialisation, drawn from the training's seed."""

    kind: Literal["seeded"] = "seeded"


class Inline(Settings):
    """Weights written here."""

    kind: Literal["inline"] = "inline"
    weights: dict[str, JsonValue] = {}
    """Nested lists by parameter name, such as weight: [[0.1, 0.2]]."""


class FromFile(Settings):
    """Weights from a safetensors file, such as `fedrounds model` writes."""

    kind: Literal["file"] = "file"
    path: str = Field("model.safetensors", min_length=1)
    """A file, or any URL that fsspec knows."""


Initial = Annotated[Seeded | Inline | FromFile, by_kind(Seeded, Inline, FromFile)]


class _Trained(Settings):
    metrics: list[Metric] = []
    """Measured on the test records, beside the loss."""
    initial: Initial = Seeded()
    """Where the weights start."""


class Linear(_Trained):
    """One linear layer."""

    kind: Literal["linear"] = "linear"
    bias: bool = True
    """Whether the layer has a bias."""
    loss: Loss = Mse()
    """What training makes small."""


class Logistic(_Trained):
    """Logistic regression: one linear layer, one output per class."""

    kind: Literal["logistic"] = "logistic"
    loss: Loss = CrossEntropy()
    """What training makes small. With bce_with_logits and two classes there is one output."""


class Mlp(_Trained):
    """A perceptron: linear layers with ReLU between them."""

    kind: Literal["mlp"] = "mlp"
    hidden: list[Annotated[int, Field(ge=1, le=100_000)]] = Field([64], max_length=50)
    """Width of each hidden layer."""
    dropout: float = Field(0.0, ge=0, le=0.95)
    """Share of hidden values dropped while training."""
    loss: Loss = CrossEntropy()
    """What training makes small."""


class Cnn(_Trained):
    """Convolutions of 3 x 3 with ReLU and pooling, then one linear layer."""

    kind: Literal["cnn"] = "cnn"
    channels: list[Annotated[int, Field(ge=1, le=4096)]] = Field(
        [16, 32], min_length=1, max_length=8
    )
    """Channels of each convolution; each is followed by 2 x 2 pooling."""
    loss: Loss = CrossEntropy()
    """What training makes small."""


class CustomModel(_Trained):
    """Your own: any torch.nn.Module."""

    kind: Literal["custom"] = "custom"
    entrypoint: str = Field("package.module:Class", pattern=ENTRYPOINT)
    """module:name of the class, or of a function that returns a module."""
    arguments: dict[str, JsonValue] = {}
    """Keyword arguments for it."""
    loss: Loss = CrossEntropy()
    """What training makes small."""


Model = Annotated[
    Linear | Logistic | Mlp | Cnn | CustomModel,
    by_kind(Linear, Logistic, Mlp, Cnn, CustomModel),
]
