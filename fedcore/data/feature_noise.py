"""Feature skew: the same kind of records, measured worse at one worker than at another."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from fedcore.data.dataset import Dataset
from fedcore.seeds import derive

__all__ = ["with_feature_noise"]


def with_feature_noise(
    records: Dataset, parts: Mapping[str, NDArray[np.int64]], *, sigma: float, seed: int
) -> Dataset:
    """The records, with noise on the features of those that a worker has.

    For worker k = 1..K, in the order of `parts`, whose values are its positions:

        x <- x + N(0, sigma k / K)             the second being a variance, each feature by itself

    Records that nobody has stay as they are.

    Reference: Li, Diao, Chen, He 2022, Federated Learning on Non-IID Data Silos: An Experimental
    Study, section 4 (noise-based feature imbalance).
    """
    features = records.features.clone()
    for k, (name, part) in enumerate(parts.items(), start=1):
        where = torch.from_numpy(part)
        stream = derive(seed, 0, name, "feature_noise")
        noise = torch.randn(features[where].shape, generator=stream)
        features[where] += (sigma * k / len(parts)) ** 0.5 * noise
    return replace(records, features=features)
