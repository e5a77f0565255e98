"""The cells of a comparison: every case with every seed, each a whole training of its own."""

import itertools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from pydantic import JsonValue

from fedcore.errors import ConfigError
from fedcore.settings.comparison import Comparison
from fedcore.settings.loading import assign, parse
from fedcore.settings.training import TrainingConfig

__all__ = ["Cell", "cells_of"]

LONGEST_LABEL = 80
"""Leaves room for the seed in a training's name."""


@dataclass(frozen=True)
class Cell:
    """One training of a comparison."""

    case: str
    """The row it belongs to."""
    config: TrainingConfig
    varied: Mapping[str, str]
    """What differs from other cells, in words: {"strategy": "fedprox mu 0.1"}."""

    @property
    def label(self) -> str:
        """What tells it from all other cells: the name of its training."""
        return self.config.name


def cells_of(comparison: Comparison) -> list[Cell]:
    """All cells, case after case.

    Raises:
        ConfigError: settings of a cell that cannot be; names the cell.
    """
    seeds = comparison.all_seeds
    made = []
    for case, changes, varied in _cases(comparison):
        for seed in seeds:
            label = f"{case} - seed {seed}" if len(seeds) > 1 else case
            settings = comparison.base.model_dump(mode="json")
            for path, value in changes.items():
                assign(settings, path.split("."), value)
            settings |= {
                "name": label,
                "experiment": comparison.experiment_name,
                "seed": seed,
            }
            try:
                made.append(Cell(case, parse(settings), varied))
            except ConfigError as error:
                raise ConfigError(f"cell {label!r}: {error}") from None
    return made


def _cases(
    comparison: Comparison,
) -> Iterator[tuple[str, Mapping[str, JsonValue], Mapping[str, str]]]:
    """Each case's label, what it changes, and in which words."""
    axes: list[list[tuple[dict[str, JsonValue], dict[str, str]]]] = []
    if comparison.cases:
        axes.append([(case.changes, {"case": case.name}) for case in comparison.cases])
    for path, values in comparison.vary.items():
        words = _words(path, values)
        axes.append([({path: v}, {path: w}) for v, w in zip(values, words, strict=True)])
    differing = [axis for axis in axes if len(axis) > 1]
    seen: dict[str, int] = {}
    for chosen in itertools.product(*axes):
        words = [w for axis, (_, said) in zip(axes, chosen, strict=True) if axis in differing
                 for w in said.values()]  # fmt: skip
        label = (" - ".join(words) or comparison.name)[:LONGEST_LABEL].strip(" -")
        seen[label] = seen.get(label, 0) + 1
        if seen[label] > 1:
            label = f"{label} no {seen[label]}"  # two values that look the same in few letters
        changes = {path: value for part, _ in chosen for path, value in part.items()}
        varied = {path: word for _, said in chosen for path, word in said.items()}
        yield label, changes, varied


def _words(path: str, values: Sequence[JsonValue]) -> list[str]:
    """What tells values apart, in few words.

    >>> _words("strategy", [{"kind": "fedavg"}, {"kind": "fedprox", "mu": 0.1}])
    ['fedavg', 'fedprox']
    >>> _words("workers.partition", [{"kind": "dirichlet", "alpha": a} for a in (0.1, 10)])
    ['alpha 0.1', 'alpha 10']
    >>> _words("local.learning_rate", [0.1, 0.3])
    ['learning_rate 0.1', 'learning_rate 0.3']
    """
    variants = [value for value in values if isinstance(value, dict)]
    if len(variants) < len(values):
        *_, name = path.split(".")
        return [_plain(_short(v) if name == "kind" else f"{name} {_short(v)}") for v in values]
    kinds = [_short(variant.get("kind")) for variant in variants]
    if len(set(kinds)) == len(kinds) and "none" not in kinds:
        return [_plain(kind) for kind in kinds]
    names = {name: None for variant in variants for name in variant}
    telling = [n for n in names if len({_short(v.get(n)) for v in variants}) > 1]
    return [
        _plain(
            " ".join(
                _short(variant[name]) if name == "kind" else f"{name} {_short(variant[name])}"
                for name in telling
                if name in variant
            )
            or kind
        )
        for variant, kind in zip(variants, kinds, strict=True)
    ]


def _short(value: JsonValue) -> str:
    if value is None:
        return "none"
    return value if isinstance(value, str) else json.dumps(value)


def _plain(words: str) -> str:
    """Words with the characters that a training's name may have."""
    kept = re.sub(r"[^A-Za-z0-9_. -]+", " ", words)
    return " ".join(kept.split()).lstrip("_. -") or "value"
