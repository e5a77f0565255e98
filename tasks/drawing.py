"""What all pictures share: colours, type, and how they become small PNG files.

Drawn without pyplot, so nothing is global and no display is needed. Colours are Okabe and Ito's,
which people with any colour vision tell apart (Okabe and Ito 2008, Color Universal Design).
"""

import threading
import warnings
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

__all__ = ["COLOURS", "FAINT", "INK", "canvas", "dress", "plain", "save"]

COLOURS = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#56B4E9",
    "#E69F00",
    "#7A7A7A",
    "#F0E442",
    "#222222",
    "#882255",
)
"""Okabe and Ito's eight, black as INK; with a grey before the two that make no good lines, and
Tol's wine red as the tenth."""
FAINT, INK = "#B0B0B0", "#222222"
DPI = 100
PALETTE = 200


# Fonts are shared, and matplotlib is not made for two threads that draw.
_DRAWING = threading.Lock()


def canvas(width: float, height: float) -> Figure:
    """An empty picture, in inches of 100 pixels."""
    return Figure(figsize=(width, height), dpi=DPI, layout="constrained")


def dress(axes: Axes, *, title: str) -> None:
    """Title and axes as in all pictures."""
    axes.set_title(title, loc="left", fontsize=12, color=INK, pad=10)
    axes.tick_params(labelsize=9, colors=INK)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def plain(name: str) -> str:
    """A name as it is: short enough, and not read as a formula."""
    short = name if len(name) <= 18 else name[:17] + "…"
    return short.replace("$", r"\$")


def save(figure: Figure, path: Path) -> None:
    """Write the picture as a PNG."""
    canvas = FigureCanvasAgg(figure)  # draws in memory, whatever backend is configured
    with _DRAWING, warnings.catch_warnings():
        # A class named in a script that the font lacks is drawn as boxes; no reason to complain.
        warnings.filterwarnings("ignore", message="Glyph")
        canvas.draw()  # type: ignore[no-untyped-call]
    # A palette instead of true colour: a third of the bytes, and no eye sees a difference.
    pixels = np.asarray(canvas.buffer_rgba())  # type: ignore[no-untyped-call]
    drawn = Image.fromarray(pixels).convert("RGB")
    drawn.quantize(PALETTE).save(path, format="PNG", optimize=True)
