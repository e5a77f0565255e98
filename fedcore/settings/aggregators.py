"""How what the workers changed becomes one step: aggregators that bear faulty workers."""

from typing import Annotated, Literal

from pydantic import Field, JsonValue

from fedcore.settings.choice import Settings, by_kind
from fedcore.settings.data import ENTRYPOINT

__all__ = [
    "AggregatorSettings",
    "Bulyan",
    "CentredClipping",
    "CoordinateMedian",
    "CustomAggregator",
    "FLTrust",
    "GeometricMedian",
    "Krum",
    "MeanAroundMedian",
    "MultiKrum",
    "NormBounding",
    "Robust",
    "TrimmedMean",
    "WeightedMean",
]


class WeightedMean(Settings):
    """The mean weighted by records: one faulty worker moves it anywhere.

    McMahan et al. 2017, Communication-Efficient Learning, algorithm 1.
    """

    kind: Literal["weighted_mean"] = "weighted_mean"


class Robust(Settings):
    """What every aggregator of rows can be told."""

    faulty: int = Field(1, ge=0, le=10_000)
    """Workers that may send anything: fewer than half of a round's. The medians, norm_bounding and
    centred_clipping bear what they bear without it; only mixing in front of them looks at it."""
    mixing: bool = False
    """Replace each update by the mean of those nearest to it, all but `faulty`, before: for
    workers whose records differ. Allouah et al. 2023, Fixing by Mixing (NNM)."""
    bucket: int = Field(1, ge=1, le=10_000)
    """Workers in a bucket, drawn anew every round, whose mean stands for them; 1: none. Each faulty
    worker spoils a bucket. Karimireddy et al. 2022, Learning via Bucketing, algorithm 1."""


class CoordinateMedian(Robust):
    """The median of every coordinate.

    Yin et al. 2018, Byzantine-Robust Distributed Learning, definition 1.
    """

    kind: Literal["coordinate_median"] = "coordinate_median"


class TrimmedMean(Robust):
    """Of every coordinate the mean without the `faulty` smallest and as many largest values.

    Yin et al. 2018, Byzantine-Robust Distributed Learning, definition 2.
    """

    kind: Literal["trimmed_mean"] = "trimmed_mean"


class MeanAroundMedian(Robust):
    """Of every coordinate the mean of the values nearest to its median, all but `faulty`.

    Xie et al. 2018, Generalized Byzantine-tolerant SGD (mean around median).
    """

    kind: Literal["mean_around_median"] = "mean_around_median"


class Krum(Robust):
    """The one update with the nearest neighbours; 2 faulty + 3 workers or more. For teaching.

    Blanchard et al. 2017, Machine Learning with Adversaries, section 4.
    """

    kind: Literal["krum"] = "krum"


class MultiKrum(Robust):
    """The mean of the updates with the nearest neighbours; 2 faulty + 3 workers or more.

    Blanchard et al. 2017, Machine Learning with Adversaries, section 6 (Multi-Krum).
    """

    kind: Literal["multi_krum"] = "multi_krum"
    keep: int | None = Field(None, ge=1, le=10_000)
    """How many updates are averaged; none: all but `faulty`."""


class Bulyan(Robust):
    """Krum again and again, then a mean around the median; 4 faulty + 3 workers or more.

    El Mhamdi et al. 2018, The Hidden Vulnerability of Distributed Learning in Byzantium.
    """

    kind: Literal["bulyan"] = "bulyan"


class GeometricMedian(Robust):
    """The point with the smallest sum of distances to the updates, weighted by records.

    Pillutla et al. 2022, Robust Aggregation for Federated Learning, algorithm 2.
    """

    kind: Literal["geometric_median"] = "geometric_median"
    smoothing: float = Field(1e-6, ge=1e-12, le=1)
    """Distances below this count as this."""
    iterations: int = Field(100, ge=1, le=10_000)
    """Steps of Weiszfeld's algorithm."""


class CentredClipping(Robust):
    """The mean of what is near to the round before's, several times over.

    Karimireddy et al. 2021, Learning from History for Byzantine Robust Optimization, algorithm 2.
    """

    kind: Literal["centred_clipping"] = "centred_clipping"
    radius: float = Field(1.0, ge=1e-12, le=1e12)
    """L2 norm to which differences are cut; in the order of what honest workers differ by."""
    iterations: int = Field(3, ge=1, le=10_000)
    """How often the centre moves in a round."""


class NormBounding(Robust):
    """The mean weighted by records of updates cut to one L2 norm.

    Sun et al. 2019, Can You Really Backdoor Federated Learning? (norm thresholding).
    """

    kind: Literal["norm_bounding"] = "norm_bounding"
    bound: float | None = Field(None, ge=1e-12, le=1e12)
    """The norm; none: the median of the round's."""


class FLTrust(Settings):
    """Updates count as far as they point where training on the coordinator's own records points.

    Cao et al. 2021, FLTrust: Byzantine-robust Federated Learning via Trust Bootstrapping.
    """

    kind: Literal["fltrust"] = "fltrust"
    records: int = Field(100, ge=1, le=1_000_000)
    """So many of the central test records are what the coordinator trains on, and tests no more."""


class CustomAggregator(Settings):
    """Your own: a function of (rows, weights, context), or a class of such callables."""

    kind: Literal["custom"] = "custom"
    entrypoint: str = Field("package.module:function", pattern=ENTRYPOINT)
    """module:name of the function or class."""
    arguments: dict[str, JsonValue] = {}
    """Keyword arguments for it."""


AggregatorSettings = Annotated[
    WeightedMean
    | CoordinateMedian
    | TrimmedMean
    | MeanAroundMedian
    | Krum
    | MultiKrum
    | Bulyan
    | GeometricMedian
    | CentredClipping
    | NormBounding
    | FLTrust
    | CustomAggregator,
    by_kind(
        WeightedMean,
        CoordinateMedian,
        TrimmedMean,
        MeanAroundMedian,
        Krum,
        MultiKrum,
        Bulyan,
        GeometricMedian,
        CentredClipping,
        NormBounding,
        FLTrust,
        CustomAggregator,
    ),
]
