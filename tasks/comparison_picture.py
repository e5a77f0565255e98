"""The curves of a comparison: the mean over seeds of each case, and how far the seeds spread."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from fedcore.comparison import CellResult, grouped, mean_curve, measured_by
from fedcore.settings.comparison import Target
from tasks.drawing import dress, save

__all__ = ["comparison_picture"]

# Okabe and Ito 2008, Color Universal Design; yellow, which nobody sees on white, is violet.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#222222", "#7F3C8D")
# Every other line has gaps: curves that coincide are both seen.
STYLES = ("-", (0, (4, 2)))
BANDS_UP_TO = 8
"""More bands than that hide each other."""
LOGARITHMIC_FROM = 20.0
LONGEST_NAME = 44


def comparison_picture(results: Sequence[CellResult], target: Target | None, *, path: Path) -> None:
    """Draw how good the model is after each round, a colour for each case, as a PNG.

    One panel for a test metric and one for the loss; without test records the train loss alone.
    Bands are one sample standard deviation over the seeds to either side.
    """
    metrics = _panels(results)
    figure = Figure(figsize=(5.2 * len(metrics) + 3.4, 4.8), dpi=100, layout="constrained")
    panels = figure.subplots(1, len(metrics), squeeze=False)[0]
    cases = list(grouped(results))
    seeds = max(len(cells) for _, cells in cases)
    bands = seeds > 1 and len(cases) <= BANDS_UP_TO
    for axes, metric in zip(panels, metrics, strict=True):
        for number, (case, cells) in enumerate(cases):
            _draw(axes, case, cells, metric, number=number, band=bands)
        words = metric.replace("_", " ")
        dress(axes, title=words[0].upper() + words[1:])
        axes.set_xlabel("round")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=10))
        axes.grid(axis="y", color="#E4E4E4", linewidth=0.8)
        axes.set_axisbelow(True)
        if metric.endswith("loss"):
            _set_loss_scale(axes)
        if target is not None and metric == target.metric:
            axes.axhline(target.value, color="#7A7A7A", linewidth=1, linestyle=(0, (4, 3)))
            axes.annotate(
                f"target {target.value:g}", (0, target.value), (4, 3), fontsize=8,
                xycoords=("axes fraction", "data"), textcoords="offset points", ha="left",
                color="#555555",
            )  # fmt: skip
    title = f"mean of {seeds} seeds" + (", band: ± 1 standard deviation" if bands else "")
    panels[-1].legend(
        loc="upper left",
        bbox_to_anchor=(1.02, 1.0),
        borderaxespad=0.0,
        frameon=False,
        fontsize=9,
        title=title if seeds > 1 else None,
        title_fontsize=8,
        alignment="left",
    )
    save(figure, path)


def _panels(results: Sequence[CellResult]) -> list[str]:
    """At most two metrics that all cells have: one that is no loss, and a loss."""
    shared = [n for n in measured_by(results[0]) if all(n in cell.curves for cell in results)]
    others = [name for name in shared if not name.endswith("loss")]
    losses = [name for name in ("test_loss", "train_loss") if name in shared]
    return [*others[:1], *losses[:1]]


def _draw(
    axes: Axes, case: str, cells: Sequence[CellResult], metric: str, *, number: int, band: bool
) -> None:
    means, deviations = (np.array(column) for column in mean_curve(cells, metric))
    rounds = np.arange(1, len(means) + 1)
    colour = COLOURS[number % len(COLOURS)]
    # Nine cases on, colours come again with the other style.
    style = STYLES[(number + number // len(COLOURS)) % len(STYLES)]
    name = case if len(case) <= LONGEST_NAME else case[: LONGEST_NAME - 1] + "…"
    marker = "o" if len(means) <= 30 else ""
    axes.plot(
        rounds, means, color=colour, linestyle=style, marker=marker, markersize=3.5,
        linewidth=1.8, label=name,
    )  # fmt: skip
    if band:
        low, high = means - deviations, means + deviations
        axes.fill_between(rounds, low, high, color=colour, alpha=0.13, linewidth=0)


def _set_loss_scale(axes: Axes) -> None:
    values = np.concatenate([np.asarray(line.get_ydata(), float) for line in axes.lines])
    values = values[np.isfinite(values)]
    if len(values) and values.min() > 0 and values.max() / values.min() > LOGARITHMIC_FROM:
        axes.set_yscale("log")
