"""Synthetic(alpha, beta): classification whose data holders disagree as much as you ask.

Reference: Li, Sahu, Zaheer, Sanjabi, Talwalkar, Smith 2020, Federated Optimization in
Heterogeneous Networks, section 5.1, and the authors' generate_synthetic.py.
"""

import numpy as np
import torch
from numpy.typing import NDArray

from fedcore.data.dataset import Dataset, Table
from fedcore.errors import DataError
from fedcore.seeds import derive
from fedcore.settings.data import Synthetic

__all__ = ["generate"]

FEATURES = 60
CLASSES = 10
# The log-normal tail reaches sizes that fill a machine (one holder in 10,000 above 90,000).
LARGEST_GROUP = 10_000
# 1.2 GB of features.
MOST_RECORDS = 5_000_000


def generate(source: Synthetic, *, seed: int) -> Table:
    """Records of all groups, group after group; the column `group` counts them from 1.

    For group k, with j = 1..60 and variances as second arguments:

        u_k ~ N(0, alpha)       W_k [60, 10], b_k [10] ~ N(u_k, 1)
        B_k ~ N(0, beta)        v_k [60] ~ N(B_k, 1)
        x ~ N(v_k, diag(j^-1.2))                 y = argmax softmax(x W_k + b_k)
        N_k = min(50 + floor(lognormal(4, 2)), 10,000)

    The authors' code takes alpha and beta for standard deviations. At 0 and 1 both readings agree;
    what it calls Synthetic(0.5, 0.5) is alpha = beta = 0.25 here. It has no largest size. Each
    group has its own stream: more groups leave the first ones as they were.

    Raises:
        DataError: so many groups that the records would not fit into memory.
    """
    streams = [
        np.random.default_rng(derive(seed, 0, f"group-{k}", "source").initial_seed())
        for k in range(1, source.groups + 1)
    ]
    sizes = [min(50 + int(stream.lognormal(4, 2)), LARGEST_GROUP) for stream in streams]
    if sum(sizes) > MOST_RECORDS:
        raise DataError(
            f"Synthetic data must have at most {MOST_RECORDS:,} records; given: {sum(sizes):,} in "
            f"{source.groups:,} groups; lower data.source.groups."
        )
    parts = [_group(source, stream, size) for stream, size in zip(streams, sizes, strict=True)]
    features = np.concatenate([x for x, _ in parts])
    labels = np.concatenate([y for _, y in parts])
    columns: dict[str, NDArray[np.generic]] = {
        f"x{j}": features[:, j - 1] for j in range(1, FEATURES + 1)
    }
    columns["label"] = labels
    columns["group"] = np.repeat(np.arange(1, source.groups + 1), sizes)
    records = Dataset(
        torch.from_numpy(features),
        torch.from_numpy(labels),
        tuple(str(number) for number in range(CLASSES)),
    )
    return Table(records, columns)


def _group(
    source: Synthetic, stream: np.random.Generator, size: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    u = stream.normal(0, source.alpha**0.5)
    weight = stream.normal(u, 1, (FEATURES, CLASSES))
    bias = stream.normal(u, 1, CLASSES)
    v = stream.normal(stream.normal(0, source.beta**0.5), 1, FEATURES)
    deviation = np.arange(1, FEATURES + 1) ** -0.6
    x = stream.normal(v, deviation, (size, FEATURES))
    # softmax keeps the order, so the largest logit is the largest probability.
    y = (x @ weight + bias).argmax(axis=1)
    return x.astype(np.float32), y.astype(np.int64)
