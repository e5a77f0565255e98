"""Aggregators: what K workers changed [K, P] and their weights [K] become one step [P].

A mean is moved anywhere by one worker; the others bound what a minority can do. What each
promises, and how many faulty workers it bears (its breakdown point): docs/robustness.md.

Each is a small frozen value, called with rows, weights and a Context; none changes its arguments.
Letters: K workers, P elements of the flat vector, f faulty workers (they may send anything).
"""

from fedcore.aggregators.aggregator import (
    Aggregator,
    Context,
    fewest_rows,
    needs_previous,
    needs_trusted,
)
from fedcore.aggregators.bucketing import bucketing
from fedcore.aggregators.centred_clipping import centred_clipping
from fedcore.aggregators.choice import aggregator_of
from fedcore.aggregators.fltrust import fltrust
from fedcore.aggregators.geometric_median import geometric_median
from fedcore.aggregators.krum import bulyan, krum, multi_krum
from fedcore.aggregators.mean import weighted_mean
from fedcore.aggregators.mixing import nearest_neighbour_mixing
from fedcore.aggregators.norm_bounding import norm_bounding
from fedcore.aggregators.order import coordinate_median, mean_around_median, trimmed_mean

__all__ = [
    "Aggregator",
    "Context",
    "aggregator_of",
    "bucketing",
    "bulyan",
    "centred_clipping",
    "coordinate_median",
    "fewest_rows",
    "fltrust",
    "geometric_median",
    "krum",
    "mean_around_median",
    "multi_krum",
    "nearest_neighbour_mixing",
    "needs_previous",
    "needs_trusted",
    "norm_bounding",
    "trimmed_mean",
    "weighted_mean",
]
