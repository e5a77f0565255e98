"""A picture of a cross-site evaluation: whose local model does well on whose records.

Letters: M models, K workers.
"""

from pathlib import Path

import numpy as np

from fedcore.cross_site import CrossSite
from tasks.drawing import INK, canvas, dress, plain, save

__all__ = ["cross_site_picture"]

MOST_WRITTEN = 16
"""Workers up to which every cell holds its number."""


def cross_site_picture(found: CrossSite, *, path: Path) -> None:
    """Draw the accuracy (or the loss, without classes) of each model at each worker, as a PNG."""
    name = found.judged_by
    cells = found.values[name].numpy()
    models, workers = cells.shape
    side = float(np.clip(2.6 + 0.45 * workers, 4.6, 9.0))
    figure = canvas(side + 1.4, side + 0.3)
    axes = figure.add_subplot()
    # Dark is good in both: a model that does well stands out.
    image = axes.imshow(cells, cmap="Blues" if name == "accuracy" else "Blues_r", aspect="auto")
    share = ".0%" if name == "accuracy" else ".3g"
    bar = figure.colorbar(image, ax=axes, fraction=0.046, pad=0.03, format=f"{{x:{share}}}")
    bar.set_label(f"{name} on the worker's records")
    bar.outline.set_visible(False)
    if workers <= MOST_WRITTEN:
        good = cells if name == "accuracy" else -cells
        darkness = (good - good.min()) / max(float(np.ptp(good)), 1e-12)
        for (row, column), value in np.ndenumerate(cells):
            axes.text(column, row, f"{value:{share}}", ha="center", va="center", fontsize=8,
                      color="white" if darkness[row, column] > 0.55 else INK)  # fmt: skip
    names = [plain(worker) for worker in found.workers]
    axes.set_xticks(range(workers), names, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(models), [plain(model) for model in found.models])
    axes.axhline(0.5, color="white", linewidth=3)  # the common model stands apart
    dress(axes, title=f"Each worker's local model on each worker's records: {name}")
    axes.set_xlabel("measured on the records of")
    axes.set_ylabel("model trained by")
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    save(figure, path)
