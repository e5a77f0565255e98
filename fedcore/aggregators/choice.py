"""The aggregator that the settings name."""

from typing import cast

from fedcore.aggregators.aggregator import Aggregator
from fedcore.aggregators.bucketing import bucketing
from fedcore.aggregators.centred_clipping import centred_clipping
from fedcore.aggregators.fltrust import fltrust
from fedcore.aggregators.geometric_median import geometric_median
from fedcore.aggregators.krum import bulyan, krum, multi_krum
from fedcore.aggregators.mean import weighted_mean
from fedcore.aggregators.mixing import nearest_neighbour_mixing
from fedcore.aggregators.norm_bounding import norm_bounding
from fedcore.aggregators.order import coordinate_median, mean_around_median, trimmed_mean
from fedcore.entrypoints import load_callable
from fedcore.settings.aggregators import (
    AggregatorSettings,
    Bulyan,
    CentredClipping,
    CoordinateMedian,
    CustomAggregator,
    FLTrust,
    GeometricMedian,
    Krum,
    MeanAroundMedian,
    MultiKrum,
    NormBounding,
    Robust,
    TrimmedMean,
    WeightedMean,
)

__all__ = ["aggregator_of"]


def aggregator_of(settings: AggregatorSettings) -> Aggregator:
    """Buckets first, then mixing, then the rule.

    Raises:
        ConfigError: a custom entrypoint that cannot be loaded.
    """
    rule = _rule(settings)
    if isinstance(settings, Robust):
        if settings.mixing:
            rule = nearest_neighbour_mixing(rule, faulty=settings.faulty)
        if settings.bucket > 1:
            rule = bucketing(rule, size=settings.bucket)
    return rule


def _rule(settings: AggregatorSettings) -> Aggregator:
    match settings:
        case WeightedMean():
            return weighted_mean
        case CoordinateMedian():
            return coordinate_median()
        case TrimmedMean(faulty=faulty):
            return trimmed_mean(faulty=faulty)
        case MeanAroundMedian(faulty=faulty):
            return mean_around_median(faulty=faulty)
        case Krum(faulty=faulty):
            return krum(faulty=faulty)
        case MultiKrum(faulty=faulty, keep=keep):
            return multi_krum(faulty=faulty, keep=keep)
        case Bulyan(faulty=faulty):
            return bulyan(faulty=faulty)
        case GeometricMedian(smoothing=smoothing, iterations=iterations):
            return geometric_median(smoothing=smoothing, iterations=iterations)
        case CentredClipping(radius=radius, iterations=iterations):
            return centred_clipping(radius=radius, iterations=iterations)
        case NormBounding(bound=bound):
            return norm_bounding(bound=bound)
        case FLTrust():
            return fltrust()
        case CustomAggregator(entrypoint=entrypoint, arguments=arguments):
            made = load_callable(entrypoint, arguments=arguments, what="a custom aggregator")
            return cast(Aggregator, made)
