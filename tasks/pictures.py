"""Two pictures of a training: losses over the rounds, and which classes are taken for which."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from torch import Tensor

from fedcore.values import RoundRecord
from tasks.drawing import COLOURS, FAINT, INK, canvas, dress, plain, save

__all__ = ["confusion_picture", "loss_picture"]

TRAIN, TEST, *WORKER_COLOURS = COLOURS[:7]
WORKER_STYLES = ("-", "--")
MOST_NAMED = 10
"""As many as colours times styles: each worker named in the legend looks different."""
LOGARITHMIC_FROM = 50.0
"""Largest over smallest loss: on a linear axis the later rounds would be one flat line."""
MOST_COUNTS = 20
"""Classes up to which every cell of a confusion matrix holds its count."""
MOST_TICKS = 40


def loss_picture(records: Sequence[RoundRecord], *, path: Path) -> None:
    """Draw train and test loss over the rounds, with a thin line for each worker, as a PNG.

    Up to 10 workers are named, up to 50 drawn; of more than that, the band that holds the middle
    80 % of them is drawn instead.
    """
    figure = canvas(8, 4.5)
    axes = figure.add_subplot()
    if records and "train_loss_p50" in records[0].metrics:
        _draw_band(axes, records)
    else:
        _draw_workers(axes, _worker_curves(records))
    # White under the two lines that matter: they stay readable across many thin ones.
    for name, label, colour in (
        ("train_loss", "train loss, all workers", TRAIN),
        ("test_loss", "test loss", TEST),
    ):
        points = [(r.round, r.metrics[name]) for r in records if name in r.metrics]
        if points:
            x, y = zip(*points, strict=True)
            marker = "o" if len(points) <= 30 else ""
            axes.plot(x, y, color="white", linewidth=4.5, zorder=3)
            axes.plot(
                x, y, color=colour, linewidth=2.2, marker=marker, ms=4.5, label=label, zorder=4
            )
    dress(axes, title="Loss in each round" if records else "Loss: no round is finished yet")
    axes.set_xlabel("round")
    axes.set_ylabel("loss (mean over records)")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=12))
    axes.grid(axis="y", color="#E4E4E4", linewidth=0.8)
    axes.set_axisbelow(True)
    if _spread(axes) > LOGARITHMIC_FROM:
        axes.set_yscale("log")
    if len(records) == 1:
        axes.set_xticks([records[0].round])
    elif records:
        margin = 0.02 * (records[-1].round - records[0].round)
        axes.set_xlim(records[0].round - margin, records[-1].round + margin)
    if axes.get_legend_handles_labels()[0]:
        handles, labels = axes.get_legend_handles_labels()
        # The two main lines first: they were drawn last.
        order = sorted(range(len(labels)), key=lambda i: " loss" not in labels[i])
        axes.legend(
            [handles[i] for i in order],
            [labels[i] for i in order],
            loc="upper left",
            bbox_to_anchor=(1.01, 1.0),
            borderaxespad=0.0,
            frameon=False,
            fontsize=9,
        )
    save(figure, path)


def _worker_curves(records: Sequence[RoundRecord]) -> Mapping[str, list[tuple[int, float]]]:
    curves: dict[str, list[tuple[int, float]]] = {}
    for record in records:
        for contribution in record.contributions:
            curves.setdefault(contribution.worker, []).append(
                (record.round, contribution.train_loss)
            )
    # One worker's curve is the train loss itself.
    return dict(sorted(curves.items())) if len(curves) > 1 else {}


def _draw_workers(axes: Axes, workers: Mapping[str, list[tuple[int, float]]]) -> None:
    named = len(workers) <= MOST_NAMED
    for number, (worker, points) in enumerate(workers.items()):
        x, y = zip(*points, strict=True)
        label = plain(worker) if named else f"each of {len(workers)} workers" if not number else ""
        axes.plot(
            x,
            y,
            color=WORKER_COLOURS[number % len(WORKER_COLOURS)] if named else FAINT,
            linestyle=WORKER_STYLES[number // len(WORKER_COLOURS)] if named else "-",
            linewidth=1.1 if named else 0.8,
            marker="." if len(points) == 1 else "",
            label=label or None,
            zorder=2,
        )


def _draw_band(axes: Axes, records: Sequence[RoundRecord]) -> None:
    ends = ("train_loss_p10", "train_loss_p90")
    low, high = np.array([[record.metrics[end] for end in ends] for record in records]).T
    rounds = np.array([record.round for record in records])
    axes.fill_between(
        rounds, low, high, color=FAINT, alpha=0.5, linewidth=0, label="middle 80 % of workers"
    )


def _spread(axes: Axes) -> float:
    values = np.array([y for line in axes.lines for y in np.asarray(line.get_ydata(), float)])
    values = values[np.isfinite(values)]
    return float(values.max() / values.min()) if len(values) and values.min() > 0 else 1.0


def confusion_picture(
    labels: Tensor, predictions: Tensor, classes: Sequence[str], *, path: Path
) -> None:
    """Draw how often records of each class are taken for which class, as a PNG.

    `labels` and `predictions` are class numbers [N]. Colour is the share of a class's records.
    """
    count = len(classes)
    cells = labels.long() * count + predictions.long()
    matrix = np.bincount(cells.numpy(), minlength=count * count).reshape(count, count)
    totals = matrix.sum(axis=1, keepdims=True)
    shares = matrix / np.maximum(totals, 1)
    side = float(np.clip(2.2 + 0.42 * count, 4.2, 9.0))
    figure = canvas(side + 0.9, side)
    axes = figure.add_subplot()
    image = axes.imshow(shares, cmap="Blues", vmin=0.0, vmax=1.0, aspect="equal")
    bar = figure.colorbar(image, ax=axes, fraction=0.046, pad=0.03, format="{x:.0%}")
    bar.set_label("share of the class's records")
    bar.outline.set_visible(False)
    if count <= MOST_COUNTS:
        _write_counts(axes, matrix, shares)
    every = -(-count // MOST_TICKS)
    shown = range(0, count, every)
    names = [plain(classes[i]) for i in shown]
    longest = max((len(name) for name in names), default=0)
    axes.set_xticks(list(shown), names, rotation=45 if longest > 3 else 0,
                    ha="right" if longest > 3 else "center", rotation_mode="anchor")  # fmt: skip
    axes.set_yticks(list(shown), names)
    accuracy = float(np.trace(matrix)) / max(int(matrix.sum()), 1)
    dress(axes, title=f"{accuracy:.1%} of {matrix.sum():,} test records are right")
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class")
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    save(figure, path)


def _write_counts(axes: Axes, matrix: NDArray[np.int64], shares: NDArray[np.float64]) -> None:
    for row, column in zip(*np.nonzero(matrix), strict=True):
        axes.text(
            column,
            row,
            f"{matrix[row, column]}",
            ha="center",
            va="center",
            fontsize=9,
            color="white" if shares[row, column] > 0.55 else INK,
        )
