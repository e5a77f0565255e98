"""Where the data comes from, and how it is dealt out to virtual workers."""

from typing import Annotated, Literal

from pydantic import Field, JsonValue

from fedcore.settings.choice import Settings, by_kind

__all__ = [
    "BreastCancer",
    "ByColumn",
    "CustomSource",
    "DataSettings",
    "Digits",
    "Dirichlet",
    "ExponentialSizes",
    "FeatureNoise",
    "Files",
    "Iid",
    "LinearSizes",
    "Partition",
    "QuantitySkew",
    "Shards",
    "Source",
    "Synthetic",
    "Toy",
]

ENTRYPOINT = r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$"


class Toy(Settings):
    """The tutorial's four rows: two features, the label is the first one."""

    kind: Literal["toy"] = "toy"


class Digits(Settings):
    """1,797 handwritten digits of 8 x 8 pixels, ten classes (scikit-learn's load_digits)."""

    kind: Literal["digits"] = "digits"


class BreastCancer(Settings):
    """569 records of 30 features, benign or malignant (scikit-learn's load_breast_cancer)."""

    kind: Literal["breast_cancer"] = "breast_cancer"
    standardise: bool = True
    """Scale each feature to mean 0 and variance 1 over the training records."""


class Synthetic(Settings):
    """Synthetic(alpha, beta) of FedProx: every worker has its own model and its own inputs.

    Li et al. 2020, Federated Optimization in Heterogeneous Networks, section 5.1.
    """

    kind: Literal["synthetic"] = "synthetic"
    alpha: float = Field(1.0, ge=0, le=100)
    """How much the workers' true models differ (variance)."""
    beta: float = Field(1.0, ge=0, le=100)
    """How much the workers' inputs differ (variance)."""
    groups: int = Field(30, ge=1, le=100_000)
    """How many data holders are generated; the column `group` names the holder of each record."""


class Files(Settings):
    """A table in a file: CSV, Parquet or npz, with named columns."""

    kind: Literal["files"] = "files"
    path: str = Field("data.csv", min_length=1)
    """A file, or any URL that fsspec knows; its ending says the format."""
    features: list[str] = []
    """Columns to learn from; none: every column but the label and the partition's column."""
    label: str = Field("label", min_length=1)
    """The column to predict."""
    task: Literal["classification", "regression"] = "classification"
    """Classification: the label's distinct values, sorted, are the classes."""
    standardise: bool = True
    """Scale each feature to mean 0 and variance 1 over the training records."""


class CustomSource(Settings):
    """Your own: a function that returns a fedcore.data.Table."""

    kind: Literal["custom"] = "custom"
    entrypoint: str = Field("package.module:function", pattern=ENTRYPOINT)
    """module:name of the function."""
    arguments: dict[str, JsonValue] = {}
    """Keyword arguments for it."""


Source = Annotated[
    Digits | Toy | BreastCancer | Synthetic | Files | CustomSource,
    by_kind(Digits, Toy, BreastCancer, Synthetic, Files, CustomSource),
]


class DataSettings(Settings):
    """What is learnt from, and the coordinator's own test records."""

    source: Source = Digits()
    """Where the records come from."""
    test_share: float = Field(0.2, ge=0, le=0.9)
    """Share of the records that no worker gets: the central test set. 0: no test set."""


class Iid(Settings):
    """Shuffled and dealt out evenly."""

    kind: Literal["iid"] = "iid"


class Dirichlet(Settings):
    """Label shares drawn from a Dirichlet distribution for every class.

    Yurochkin et al. 2019, Bayesian Nonparametric Federated Learning, section 4; Li et al. 2022,
    Federated Learning on Non-IID Data Silos, section 4 (distribution-based label imbalance).
    """

    kind: Literal["dirichlet"] = "dirichlet"
    alpha: float = Field(0.5, ge=0.001, le=10_000)
    """Small: few labels per worker. Large: close to iid."""
    least: int = Field(1, ge=1)
    """Fewest records a worker may get; drawn again until it holds."""


class Shards(Settings):
    """Sorted by label, cut into shards, a few shards for each worker.

    McMahan et al. 2017, Communication-Efficient Learning, section 3.
    """

    kind: Literal["shards"] = "shards"
    each: int = Field(2, ge=1, le=1000)
    """Shards per worker."""


class QuantitySkew(Settings):
    """The same labels everywhere, but very different numbers of records.

    Li et al. 2022, Federated Learning on Non-IID Data Silos, section 4 (quantity skew).
    """

    kind: Literal["quantity_skew"] = "quantity_skew"
    alpha: float = Field(0.5, ge=0.001, le=10_000)
    """Small: few workers hold nearly all. Large: even."""
    least: int = Field(1, ge=1)
    """Fewest records a worker may get; drawn again until it holds."""


class LinearSizes(Settings):
    """The second worker gets twice the records of the first, the third three times as many.

    The sizes of LinearPartitioner in Flower Datasets.
    """

    kind: Literal["linear_sizes"] = "linear_sizes"


class ExponentialSizes(Settings):
    """Every worker gets more records than the one before, by the same factor.

    The sizes of ExponentialPartitioner in Flower Datasets, whose factor is e, however many
    workers there are.
    """

    kind: Literal["exponential_sizes"] = "exponential_sizes"
    ratio: float = Field(100.0, ge=1, le=1_000_000)
    """Records of the last worker for each one of the first."""


class FeatureNoise(Settings):
    """Dealt out evenly, then blurred: a little at the first worker, most at the last.

    Worker k of K adds noise of variance sigma k / K to its training features; test records stay
    clean. Li et al. 2022, Federated Learning on Non-IID Data Silos, section 4 (noise-based feature
    imbalance).
    """

    kind: Literal["feature_noise"] = "feature_noise"
    sigma: float = Field(0.1, ge=0, le=1_000_000)
    """Variance of the last worker's noise, in the units of the features the model sees."""


class ByColumn(Settings):
    """One worker for each value of a column, in sorted order."""

    kind: Literal["by_column"] = "by_column"
    column: str = Field("group", min_length=1)
    """A column of the source, feature or not: hospital, region, device."""
    each: int = Field(1, ge=1)
    """Values per worker: neighbours in sorted order share one. The last may get fewer."""


Partition = Annotated[
    Iid
    | Dirichlet
    | Shards
    | QuantitySkew
    | LinearSizes
    | ExponentialSizes
    | FeatureNoise
    | ByColumn,
    by_kind(
        Iid,
        Dirichlet,
        Shards,
        QuantitySkew,
        LinearSizes,
        ExponentialSizes,
        FeatureNoise,
        ByColumn,
    ),
]
