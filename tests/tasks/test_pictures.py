"""The pictures of a training: readable by anybody, small, and never a reason to fail."""

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fedcore.values import Contribution, Contributions, RoundRecord
from tasks.pictures import confusion_picture, loss_picture

BLUE, VERMILION = (0x00, 0x72, 0xB2), (0xD5, 0x5E, 0x00)


def records(
    rounds: int, *, workers: int, test: bool = True, scale: float = 1.0
) -> list[RoundRecord]:
    return [
        RoundRecord(
            round,
            1000 + round,
            {
                "train_loss": scale * 2 / round,
                **({"test_loss": 2.2 / round} if test else {}),
                **(
                    {f"train_loss_p{q}": q / 25 / round for q in (10, 50, 90)}
                    if workers > 50
                    else {}
                ),
            },
            Contributions.of(
                Contribution(f"worker-{i}", 1.0, {"loss": 2 / round + 0.01 * i, "seen": 1.0})
                for i in range(workers)
            ),
        )
        for round in range(1, rounds + 1)
    ]


def drawn(path: Path) -> "np.ndarray[tuple[int, ...], np.dtype[np.uint8]]":
    assert path.stat().st_size < 100_000
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        assert 400 <= picture.width <= 1100
        return np.asarray(picture.convert("RGB"))


def share(
    pixels: "np.ndarray[tuple[int, ...], np.dtype[np.uint8]]", colour: tuple[int, ...]
) -> float:
    near = np.abs(pixels.astype(int) - np.array(colour)).max(axis=-1) < 12
    return float(near.mean())


@pytest.mark.parametrize("workers", [1, 2, 10, 11, 50, 51, 300])
def test_losses_of_any_number_of_workers(tmp_path: Path, workers: int) -> None:
    path = tmp_path / "loss.png"
    loss_picture(records(12, workers=workers), path=path)
    pixels = drawn(path)
    assert share(pixels, BLUE) > 0.001
    assert share(pixels, VERMILION) > 0.001


def test_without_test_records_there_is_one_line(tmp_path: Path) -> None:
    loss_picture(records(5, workers=2, test=False), path=tmp_path / "loss.png")
    assert share(drawn(tmp_path / "loss.png"), VERMILION) < 0.0001


@pytest.mark.parametrize("rounds", [0, 1, 2, 1000])
def test_any_number_of_rounds(tmp_path: Path, rounds: int) -> None:
    loss_picture(records(rounds, workers=3), path=tmp_path / "loss.png")
    drawn(tmp_path / "loss.png")


@pytest.mark.parametrize("loss", [math.nan, math.inf, 0.0, 1e30])
def test_losses_that_are_no_fun(tmp_path: Path, loss: float) -> None:
    odd = RoundRecord(4, 1, {"train_loss": loss}, Contributions())
    loss_picture([*records(3, workers=2), odd], path=tmp_path / "loss.png")
    drawn(tmp_path / "loss.png")


@pytest.mark.parametrize(
    "classes",
    [
        ["0"],
        ["malignant", "benign"],
        [str(i) for i in range(10)],
        ["$x_1$", "a name that goes on and on and on", "数字"],
        [f"class {i}" for i in range(100)],
    ],
    ids=len,
)
def test_confusion_of_any_classes(tmp_path: Path, classes: list[str]) -> None:
    stream = torch.Generator().manual_seed(0)
    labels = torch.randint(0, len(classes), (500,), generator=stream)
    predictions = labels.roll(1)
    confusion_picture(labels, predictions, classes, path=tmp_path / "confusion.png")
    drawn(tmp_path / "confusion.png")


def test_confusion_without_records(tmp_path: Path) -> None:
    none = torch.zeros(0, dtype=torch.int64)
    confusion_picture(none, none, ["a", "b"], path=tmp_path / "confusion.png")
    drawn(tmp_path / "confusion.png")


def test_no_global_drawing_state_is_used(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from tasks.pictures import loss_picture\n"
        f"loss_picture([], path=Path({str(tmp_path / 'loss.png')!r}))\n"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", code], cwd=root, check=True)
