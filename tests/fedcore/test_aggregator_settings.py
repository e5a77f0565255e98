"""The settings of aggregators name what fedcore.aggregators makes."""

from typing import get_args

import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from fedcore.aggregators import (
    Context,
    aggregator_of,
    bucketing,
    bulyan,
    centred_clipping,
    coordinate_median,
    fewest_rows,
    fltrust,
    geometric_median,
    krum,
    mean_around_median,
    multi_krum,
    nearest_neighbour_mixing,
    norm_bounding,
    trimmed_mean,
    weighted_mean,
)
from fedcore.errors import ConfigError
from fedcore.settings.aggregators import AggregatorSettings

KINDS = [
    ({"kind": "weighted_mean"}, weighted_mean),
    ({"kind": "coordinate_median"}, coordinate_median()),
    ({"kind": "trimmed_mean", "faulty": 3}, trimmed_mean(faulty=3)),
    ({"kind": "mean_around_median", "faulty": 3}, mean_around_median(faulty=3)),
    ({"kind": "krum", "faulty": 3}, krum(faulty=3)),
    ({"kind": "multi_krum", "faulty": 3}, multi_krum(faulty=3)),
    ({"kind": "multi_krum", "keep": 4}, multi_krum(faulty=1, keep=4)),
    ({"kind": "bulyan", "faulty": 3}, bulyan(faulty=3)),
    ({"kind": "geometric_median"}, geometric_median()),
    (
        {"kind": "geometric_median", "smoothing": 0.1, "iterations": 3},
        geometric_median(smoothing=0.1, iterations=3),
    ),
    (
        {"kind": "centred_clipping", "radius": 2, "iterations": 5},
        centred_clipping(radius=2, iterations=5),
    ),
    ({"kind": "norm_bounding"}, norm_bounding()),
    ({"kind": "norm_bounding", "bound": 2}, norm_bounding(bound=2)),
    ({"kind": "fltrust"}, fltrust()),
    (
        {"kind": "trimmed_mean", "faulty": 2, "mixing": True},
        nearest_neighbour_mixing(trimmed_mean(faulty=2), faulty=2),
    ),
    ({"kind": "krum", "bucket": 2}, bucketing(krum(faulty=1), size=2)),
    (
        {"kind": "coordinate_median", "faulty": 2, "mixing": True, "bucket": 3},
        bucketing(nearest_neighbour_mixing(coordinate_median(), faulty=2), size=3),
    ),
]
SETTINGS = TypeAdapter(AggregatorSettings)


@pytest.mark.parametrize(("given", "wanted"), KINDS)
def test_settings_name_an_aggregator(given, wanted):
    assert aggregator_of(SETTINGS.validate_python(given)) == wanted


def test_every_kind_of_the_settings_is_an_aggregator():
    union, _ = get_args(AggregatorSettings)
    known = {variant().kind for variant in get_args(union)}
    assert known == {given["kind"] for given, _ in KINDS} | {"custom"}


@pytest.mark.parametrize(
    "given",
    [
        {"kind": "trimmed_mean", "faulty": -1},
        {"kind": "krum", "bucket": 0},
        {"kind": "multi_krum", "keep": 0},
        {"kind": "centred_clipping", "radius": 0},
        {"kind": "geometric_median", "iterations": 0},
        {"kind": "fltrust", "mixing": True},
        {"kind": "meadian"},
    ],
)
def test_settings_out_of_bounds_are_refused(given):
    with pytest.raises(ValidationError):
        SETTINGS.validate_python(given)


def test_an_aggregator_of_ones_own(tmp_path, monkeypatch):
    (tmp_path / "own_aggregators.py").write_text(
        "class Largest:\n"
        "    least = 3\n"
        "    def __init__(self, scale):\n"
        "        self.scale = scale\n"
        "    def __call__(self, rows, weights, context):\n"
        "        return self.scale * rows.amax(dim=0)\n"
        "def first(rows, weights, context, *, scale):\n"
        "    return scale * rows[0] * context.round\n"
    )
    monkeypatch.chdir(tmp_path)
    rows, weights = torch.tensor([[1, 2, 3], [4, 5, 6], [7, 8, 9]]).double(), torch.ones(3).double()
    for name, least, wanted in (("Largest", 3, [14, 16, 18]), ("first", 1, [10, 20, 30])):
        own = {"kind": "custom", "entrypoint": f"own_aggregators:{name}", "arguments": {"scale": 2}}
        made = aggregator_of(SETTINGS.validate_python(own))
        assert fewest_rows(made) == least
        assert made(rows, weights, Context(round=5)).tolist() == wanted
    with pytest.raises(ConfigError, match=r"has no 'last'.*correct the name"):
        aggregator_of(
            SETTINGS.validate_python({"kind": "custom", "entrypoint": "own_aggregators:last"})
        )
