"""How the workers' training becomes one model."""

from typing import Annotated, Literal

from pydantic import Field, JsonValue

from fedcore.settings.aggregators import AggregatorSettings, WeightedMean
from fedcore.settings.choice import Settings, by_kind
from fedcore.settings.data import ENTRYPOINT

__all__ = [
    "Averaging",
    "CustomStrategy",
    "Ditto",
    "Fedadagrad",
    "Fedadam",
    "Fedavg",
    "Fedavgm",
    "Fedbn",
    "Feddyn",
    "Fednova",
    "Fedper",
    "Fedprox",
    "Fedsgd",
    "Fedyogi",
    "Qfedavg",
    "Scaffold",
    "Sequential",
    "StrategySettings",
]


class Averaging(Settings):
    """What strategies that average have in common."""

    aggregator: AggregatorSettings = WeightedMean()
    """How the workers' updates become one: their mean, or one that a few bad ones cannot move."""
    exchange: list[Annotated[str, Field(min_length=1, max_length=200)]] = Field([], max_length=100)
    """Patterns of the parameters that travel, like `*lora_*`; none: all of them. Every worker keeps
    and trains the others for itself."""


class Sequential(Settings):
    """The model visits one worker after the other: incremental learning, nothing is averaged.

    Sheller et al. 2019, Multi-Institutional Deep Learning Without Sharing Patient Data
    (cyclic institutional incremental learning).
    """

    kind: Literal["sequential"] = "sequential"


class Fedavg(Averaging):
    """Local training, then the mean weighted by records.

    McMahan et al. 2017, Communication-Efficient Learning, algorithm 1.
    """

    kind: Literal["fedavg"] = "fedavg"


class Fedsgd(Averaging):
    """One plain gradient step on all of a worker's records, then the mean weighted by records.

    local.epochs, steps, batch_size and optimiser do not apply. McMahan et al. 2017, section 2.
    """

    kind: Literal["fedsgd"] = "fedsgd"


class Fedprox(Averaging):
    """FedAvg whose workers are held near the model they received.

    Li et al. 2020, Federated Optimization in Heterogeneous Networks, equation 2.
    """

    kind: Literal["fedprox"] = "fedprox"
    mu: float = Field(0.1, ge=0, le=1000)
    """Strength of the pull; 0 is FedAvg."""


class Scaffold(Settings):
    """FedAvg with control variates, which take out how each worker's data pulls it away.

    Every worker counts the same. Karimireddy et al. 2020, SCAFFOLD, algorithm 1, option II.
    """

    kind: Literal["scaffold"] = "scaffold"
    server_learning_rate: float = Field(1.0, ge=1e-6, le=100)
    """How far the model goes along the mean update."""


class Fednova(Settings):
    """FedAvg that divides each update by the steps it took: who does more steps pulls no harder.

    Wang et al. 2020, Tackling the Objective Inconsistency Problem, equations 6 and 8.
    """

    kind: Literal["fednova"] = "fednova"
    mu: float = Field(0.0, ge=0, le=1000)
    """Strength of a pull to the model received, as in fedprox."""


class Feddyn(Settings):
    """FedAvg whose workers adapt a penalty, so that their own optimum becomes the common one.

    Every worker counts the same. Acar et al. 2021, Federated Learning Based on Dynamic
    Regularization, algorithm 1.
    """

    kind: Literal["feddyn"] = "feddyn"
    alpha: float = Field(0.1, ge=1e-6, le=1000)
    """Strength of the penalty."""


class ServerSettings(Averaging):
    """What strategies with an adaptive server optimiser have in common."""

    server_learning_rate: float = Field(0.1, ge=1e-6, le=100)
    """Step size of the server."""
    beta1: float = Field(0.9, ge=0, le=0.9999)
    """Share of the last mean update that is kept."""
    tau: float = Field(1e-3, ge=1e-12, le=1)
    """Added to the root of the second mean: small is more adaptive."""


class Fedavgm(Averaging):
    """FedAvg with momentum at the server.

    Hsu et al. 2019, Measuring the Effects of Non-Identical Data Distribution, section 4.3.
    """

    kind: Literal["fedavgm"] = "fedavgm"
    server_learning_rate: float = Field(1.0, ge=1e-6, le=100)
    """Step size of the server."""
    momentum: float = Field(0.9, ge=0, le=0.9999)
    """Share of the last step that is kept."""


class Fedadagrad(ServerSettings):
    """Adagrad at the server. Reddi et al. 2021, Adaptive Federated Optimization, algorithm 2."""

    kind: Literal["fedadagrad"] = "fedadagrad"
    beta1: float = Field(0.0, ge=0, le=0.9999)
    """Share of the last mean update that is kept."""


class Fedadam(ServerSettings):
    """Adam at the server. Reddi et al. 2021, Adaptive Federated Optimization, algorithm 2."""

    kind: Literal["fedadam"] = "fedadam"
    beta2: float = Field(0.99, ge=0, le=0.99999)
    """Share of the last mean of squares that is kept."""


class Fedyogi(ServerSettings):
    """Yogi at the server. Reddi et al. 2021, Adaptive Federated Optimization, algorithm 2."""

    kind: Literal["fedyogi"] = "fedyogi"
    beta2: float = Field(0.99, ge=0, le=0.99999)
    """How quickly the mean of squares follows."""


class Qfedavg(Settings):
    """FedAvg in which workers with a higher loss count more, for accuracy that is even.

    Li et al. 2020, Fair Resource Allocation in Federated Learning, algorithm 2.
    """

    kind: Literal["qfedavg"] = "qfedavg"
    q: float = Field(1.0, ge=0, le=20)
    """Exponent of the loss: 0 counts every worker the same."""


class Fedbn(Averaging):
    """FedAvg in which every worker keeps its own batch normalisation.

    Li et al. 2021, FedBN, algorithm 1.
    """

    kind: Literal["fedbn"] = "fedbn"


class Fedper(Averaging):
    """FedAvg in which every worker keeps its own last layers.

    Arivazhagan et al. 2019, Federated Learning with Personalization Layers, algorithm 1.
    """

    kind: Literal["fedper"] = "fedper"
    layers: int = Field(1, ge=1, le=1000)
    """How many layers stay, counted from the end."""


class Ditto(Averaging):
    """FedAvg, and beside it a whole model of each worker's own, held near the common one.

    Li et al. 2021, Ditto: Fair and Robust Federated Learning Through Personalization, algorithm 1.
    """

    kind: Literal["ditto"] = "ditto"
    pull: float = Field(0.1, ge=0, le=1000)
    """Strength of the pull to the common model (the paper's lambda)."""


class CustomStrategy(Settings):
    """Your own: a function that returns a fedcore.strategy.Strategy."""

    kind: Literal["custom"] = "custom"
    entrypoint: str = Field("package.module:function", pattern=ENTRYPOINT)
    """module:name of the function."""
    arguments: dict[str, JsonValue] = {}
    """Keyword arguments for it."""


StrategySettings = Annotated[
    Fedavg
    | Fedsgd
    | Fedprox
    | Scaffold
    | Fednova
    | Feddyn
    | Fedavgm
    | Fedadagrad
    | Fedadam
    | Fedyogi
    | Qfedavg
    | Fedbn
    | Fedper
    | Ditto
    | Sequential
    | CustomStrategy,
    by_kind(
        Fedavg,
        Fedsgd,
        Fedprox,
        Scaffold,
        Fednova,
        Feddyn,
        Fedavgm,
        Fedadagrad,
        Fedadam,
        Fedyogi,
        Qfedavg,
        Fedbn,
        Fedper,
        Ditto,
        Sequential,
        CustomStrategy,
    ),
]
