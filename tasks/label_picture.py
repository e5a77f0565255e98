"""A picture of how the labels lie with the workers: how much heterogeneity there is, and where.

Letters: K workers, C classes.
"""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from fedcore.label_counts import LabelCounts
from tasks.drawing import COLOURS, FAINT, canvas, dress, plain, save

__all__ = ["label_picture"]

MOST_BARS = 30
"""Workers that have a bar each; more become rows of a heat map."""
MOST_ROWS_NAMED, MOST_COLUMNS_NAMED = 40, 26
"""Of a heat map."""


def label_picture(labels: LabelCounts, *, path: Path) -> None:
    """Draw the records of each class at each worker, as a PNG.

    A bar for each of up to 30 workers, as long as it has records, where colours tell the classes
    apart; else a heat map of the share of each class at each worker, and how much each has.
    """
    if len(labels.workers) <= MOST_BARS and len(labels.classes) <= len(COLOURS):
        _bars(labels, path)
    else:
        _heat_map(labels, path)


def _title(labels: LabelCounts) -> str:
    return (
        f"{len(labels.workers):,} workers hold {labels.counts.sum():,} records "
        f"of {len(labels.classes):,} classes"
    )


def _bars(labels: LabelCounts, path: Path) -> None:
    figure = canvas(8, 1.5 + 0.28 * max(len(labels.workers), 4))
    axes = figure.add_subplot()
    rows = np.arange(len(labels.workers))
    ends = labels.counts.cumsum(axis=1)
    for name, count, end, colour in zip(
        labels.classes, labels.counts.T, ends.T, COLOURS, strict=False
    ):
        axes.barh(rows, count, left=end - count, height=0.82, color=colour, label=plain(name),
                  edgecolor="white", linewidth=0.4)  # fmt: skip
    for row, total in zip(rows, ends[:, -1], strict=True):
        axes.annotate(f"{total:,}", (total, row), xytext=(4, 0), textcoords="offset points",
                      va="center", fontsize=8)  # fmt: skip
    dress(axes, title=_title(labels))
    axes.set_yticks(rows, [plain(worker) for worker in labels.workers])
    axes.set_ylim(len(rows) - 0.4, -0.6)  # the first on top
    axes.set_xlim(0, 1.15 * float(ends[:, -1].max()))  # room for the number at the end
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.set_xlabel("records")
    axes.tick_params(axis="y", length=0)
    axes.legend(title="class", loc="upper left", bbox_to_anchor=(1.01, 1.0), borderaxespad=0.0,
                frameon=False, fontsize=9)  # fmt: skip
    save(figure, path)


def _heat_map(labels: LabelCounts, path: Path) -> None:
    order = _alike(labels.counts)
    counts, workers = labels.counts[order], [labels.workers[k] for k in order]
    totals = counts.sum(axis=1)
    figure = canvas(8.5, float(np.clip(1.5 + 0.16 * len(workers), 4.0, 9.0)))
    grid = figure.add_gridspec(1, 2, width_ratios=[5, 1])
    axes = figure.add_subplot(grid[0])
    shares = counts / np.maximum(totals, 1)[:, None]
    # The root of a share: of a hundred classes even a large one is a few percent of a worker.
    image = axes.imshow(shares, cmap="Blues", norm=PowerNorm(0.5, vmin=0, vmax=1), aspect="auto",
                        interpolation="nearest")  # fmt: skip
    dress(axes, title=_title(labels))
    every = -(-len(labels.classes) // MOST_COLUMNS_NAMED)
    names = [plain(name) for name in labels.classes[::every]]
    upright = max(map(len, names)) <= 3
    axes.set_xticks(range(0, len(labels.classes), every), names, rotation=0 if upright else 45,
                    ha="center" if upright else "right", rotation_mode="anchor")  # fmt: skip
    axes.set_xlabel("class")
    if len(workers) <= MOST_ROWS_NAMED:
        axes.set_yticks(range(len(workers)), [plain(worker) for worker in workers])
    else:
        axes.set_yticks([])
        axes.set_ylabel("workers, those with the same main class together")
    axes.tick_params(length=0)
    _sizes(figure.add_subplot(grid[1], sharey=axes), totals)
    bar = figure.colorbar(image, ax=figure.axes, fraction=0.04, pad=0.02, aspect=30,
                          ticks=[0, 0.01, 0.05, 0.1, 0.25, 0.5, 1], format="{x:.0%}")  # fmt: skip
    bar.set_label("share of the worker's records")
    bar.outline.set_visible(False)
    save(figure, path)


def _alike(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """The workers by their largest class, and by its share, largest first: blocks, not noise."""
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    order: NDArray[np.int64] = np.lexsort((-shares.max(axis=1), shares.argmax(axis=1)))
    return order


def _sizes(axes: Axes, totals: NDArray[np.int64]) -> None:
    axes.barh(np.arange(len(totals)), totals, height=1.0, color=FAINT)
    dress(axes, title="")
    axes.tick_params(axis="y", left=False, labelleft=False)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=2))
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.set_xlabel("records")
