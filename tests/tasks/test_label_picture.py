"""The picture of label counts: right lengths and colours, readable by anybody, small."""

from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from PIL import Image

from fedcore.label_counts import LabelCounts
from tasks.drawing import COLOURS
from tasks.label_picture import label_picture


def labels(workers: int, classes: int, *, seed: int = 0) -> LabelCounts:
    counts = np.random.default_rng(seed).integers(0, 400, (workers, classes))
    counts[0] = 0
    counts[0, 0] = 1
    names = tuple(f"worker-{number}" for number in range(workers))
    return LabelCounts(names, tuple(str(number) for number in range(classes)), counts)


def drawn(counts: LabelCounts, folder: Path) -> "np.ndarray[tuple[int, ...], np.dtype[np.uint8]]":
    path = folder / "label_counts.png"
    label_picture(counts, path=path)
    assert path.stat().st_size < 150_000
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        assert 700 <= picture.width <= 900
        assert 200 <= picture.height <= 1000
        return np.asarray(picture.convert("RGB"))


@pytest.mark.parametrize("classes", [1, 2, 10, 11, 100])
@pytest.mark.parametrize("workers", [2, 10, 30, 31, 100, 1000])
def test_any_number_of_workers_and_classes(tmp_path: Path, workers: int, classes: int) -> None:
    drawn(labels(workers, classes), tmp_path)


def test_names_that_are_no_fun(tmp_path: Path) -> None:
    names = ("$x_1$", "a name that goes on and on and on", "数字")
    for workers in (3, 40):
        ids = tuple(f"hospital-of-the-university-{number}" for number in range(workers))
        drawn(LabelCounts(ids, names, labels(workers, 3).counts), tmp_path)


def widths(pixels: "np.ndarray[tuple[int, ...], np.dtype[np.uint8]]", colour: str) -> list[int]:
    """Pixels of this colour in each row of the plot, where there are enough to be a bar."""
    exact = (255 * np.array(to_rgb(colour))).round()
    near = np.abs(pixels[:, :700].astype(int) - exact).max(axis=-1) < 12
    rows = near.sum(axis=1)
    return [int(width) for width in rows if width > 60]


def test_a_bar_is_as_long_as_it_has_records(tmp_path: Path) -> None:
    counts = np.array([[300, 100], [0, 200]])
    pixels = drawn(LabelCounts(("bob", "alice"), ("0", "1"), counts), tmp_path)
    first, second = widths(pixels, COLOURS[0]), widths(pixels, COLOURS[1])
    assert np.ptp(first) <= 2
    assert min(second) / max(first) == pytest.approx(100 / 300, abs=0.02)
    assert max(second) / max(first) == pytest.approx(200 / 300, abs=0.02)


def test_of_many_workers_those_alike_lie_together(tmp_path: Path) -> None:
    # Workers in turn hold one class each: sorted, the map has two blocks instead of stripes.
    counts = np.tile([[9, 0], [0, 9]], (50, 1))
    names = tuple(f"worker-{number}" for number in range(100))
    pixels = drawn(LabelCounts(names, ("0", "1"), counts), tmp_path)
    dark = pixels[40:840, 150].astype(int).sum(axis=1) < 250
    assert 350 < dark.sum() < 450
    assert np.abs(np.diff(dark.astype(int))).sum() == 1
