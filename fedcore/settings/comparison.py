"""A comparison: which trainings are set side by side, over which seeds, and what they aim at."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, JsonValue, ValidationError, field_validator

from fedcore.errors import ConfigError
from fedcore.settings.choice import Settings
from fedcore.settings.loading import explain, read, replace
from fedcore.settings.training import TrainingConfig

__all__ = ["Case", "Comparison", "Target", "configured_comparison", "parse_comparison"]


def _dotted(given: object) -> object:
    """Nested names as dotted ones, so that a file may write either; a variant stays whole.

    >>> _dotted({"local": {"epochs": [1, 5]}, "strategy": {"kind": "fedprox", "mu": 1}})
    {'local.epochs': [1, 5], 'strategy': {'kind': 'fedprox', 'mu': 1}}
    """
    if not isinstance(given, Mapping):
        return given
    flat: dict[str, object] = {}
    for name, value in given.items():
        whole = not isinstance(value, Mapping) or not value or isinstance(value.get("kind"), str)
        inner = {"": value} if whole else _dotted(value)
        assert isinstance(inner, Mapping)
        flat |= {f"{name}.{below}".rstrip("."): each for below, each in inner.items()}
    return flat


class Case(Settings):
    """A named variant of the base."""

    name: str = Field("case", pattern=r"^[A-Za-z0-9][A-Za-z0-9_. -]{0,59}$")
    """What its rows and runs are called."""
    changes: Annotated[dict[str, JsonValue], BeforeValidator(_dotted)] = {}
    """Settings that differ from the base: local.epochs: 1; a choice is written whole."""


class Target(Settings):
    """What a training should reach: how many rounds and bytes that took is told."""

    metric: str = Field("test_accuracy", pattern=r"^[a-z][a-z0-9_]*$", max_length=80)
    """A metric of every round."""
    reach: Literal["at_least", "at_most"] = "at_least"
    """at_least for what should grow, at_most for losses."""
    value: float = 0.95
    """The metric's value that counts as reached."""


class Comparison(Settings):
    """Trainings that differ in a few settings, each over several seeds: cases x vary x seeds."""

    name: str = Field("comparison", pattern=r"^[A-Za-z0-9][A-Za-z0-9_. -]{0,99}$")
    """What the run of the whole is called in Prefect and MLflow."""
    experiment: str | None = Field(None, min_length=1, max_length=200)
    """MLflow experiment of all its runs; none: the base's."""
    base: TrainingConfig = TrainingConfig()
    """The training that all cells are variants of. Its name and seed are replaced."""
    cases: list[Case] = []
    """Named variants; none: the base alone."""
    vary: Annotated[dict[str, list[JsonValue]], BeforeValidator(_dotted)] = {}
    """A grid: for each setting, by its dotted name, the values it takes."""
    seeds: list[Annotated[int, Field(ge=0, le=2**53)]] | Annotated[int, Field(ge=1, le=1000)] = 3
    """Seeds of every case, or how many: the base's seed and the ones after it."""
    target: Target | None = None
    """If given, rounds and bytes until it is reached are told."""
    concurrency: int = Field(2, ge=1, le=64)
    """Trainings at a time, in threads of one process."""

    @field_validator("cases")
    @classmethod
    def _distinct_names(cls, cases: list[Case]) -> list[Case]:
        names = [case.name for case in cases]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"cases must have distinct names; given twice: {', '.join(twice)}")
        return cases

    @field_validator("vary")
    @classmethod
    def _distinct_values(cls, vary: dict[str, list[JsonValue]]) -> dict[str, list[JsonValue]]:
        for path, values in vary.items():
            if path in ("name", "experiment", "seed"):
                raise ValueError(f"{path} cannot be varied: the comparison sets it")
            if not values:
                raise ValueError(f"{path} must have values")
            if any(value in values[:place] for place, value in enumerate(values)):
                raise ValueError(f"{path} must have distinct values")
        return vary

    @field_validator("seeds")
    @classmethod
    def _distinct_seeds(cls, seeds: list[int] | int) -> list[int] | int:
        if isinstance(seeds, list) and (not seeds or len(set(seeds)) < len(seeds)):
            raise ValueError("seeds must be distinct, and at least one")
        return seeds

    @property
    def all_seeds(self) -> list[int]:
        """The seeds of every case."""
        if isinstance(self.seeds, list):
            return list(self.seeds)
        return [self.base.seed + number for number in range(self.seeds)]

    @property
    def experiment_name(self) -> str:
        """The MLflow experiment of all its runs."""
        return self.experiment or self.base.experiment_name


def configured_comparison(path: Path, changes: Iterable[str]) -> Comparison:
    """The comparison in a file, with changes; both checked.

    Raises:
        ConfigError: every mistake, one line each.
    """
    complete = parse_comparison(read(path)).model_dump(mode="json")
    return parse_comparison(replace(complete, changes))


def parse_comparison(settings: Mapping[str, object]) -> Comparison:
    """A checked comparison; its cells are checked when they are made.

    Raises:
        ConfigError: every mistake, one line each.
    """
    try:
        return Comparison.model_validate(settings)
    except ValidationError as error:
        raise ConfigError(explain(error, settings, model=Comparison)) from None
