"""What workers measured, in MLflow: told once, told again, of few workers and of many."""

import csv
import io
from dataclasses import replace

import pytest
import torch
from PIL import Image

from fedcore.cross_site import COMMON, CrossSite
from fedcore.values import Contribution, Contributions
from tasks import tracking
from tasks.cross_site_picture import cross_site_picture
from tasks.tracking.artifacts import read_artifact
from tasks.tracking.children import children
from tasks.tracking.server import client
from tasks.tracking.summary import best_record


def measured(record, *, workers):
    """The record of a round in which these measured the model, too."""
    each = [
        Contribution(name, 5.0, {"loss": 0.5 / record.round, "accuracy": 0.25 * record.round})
        for name in workers
    ]
    return replace(record, evaluated=Contributions.of(each))


def test_telling_a_workers_figures_again_changes_nothing(place, begin):
    training = begin(workers=3, rounds=3)
    first, second, third = training.records
    records = [first, measured(second, workers=["worker-001", "worker-002"]), third]
    for _ in range(2):
        tracking.log_workers(training.run, records)
    runs = children(client(), training.run.id, experiment=training.run.experiment_id)
    assert training.points("workers_accuracy", runs["worker-001"]) == [(2, 0.5)]
    assert training.points("workers_loss", runs["worker-002"]) == [(2, 0.25)]
    assert training.points("workers_accuracy", runs["worker-003"]) == []
    assert len(training.points("train_loss", runs["worker-001"])) == 3


def test_of_many_workers_a_table_has_those_who_trained_and_those_who_measured(place, begin):
    training = begin(workers=60, rounds=2)
    first, second = training.records
    second = measured(second, workers=["worker-060", "worker-061"])
    tracking.log_workers(training.run, [first, second])
    plain, full = (
        read_artifact(client(), training.run.id, f"workers/round-{n:05d}.csv").decode()
        for n in (1, 2)
    )
    assert plain.splitlines()[0] == "worker,train_loss,records"
    rows = {row["worker"]: row for row in csv.DictReader(io.StringIO(full))}
    assert len(rows) == 61
    assert rows["worker-001"]["workers_accuracy"] == ""
    assert rows["worker-060"]["workers_accuracy"] == "0.5"
    assert rows["worker-060"]["train_loss"] != ""
    assert (rows["worker-061"]["train_loss"], rows["worker-061"]["records"]) == ("", "5")


def test_the_best_round_is_one_of_those_that_were_tested(begin, place):
    """Rounds between two central evaluations have a train loss, which is no test loss."""
    records = begin(rounds=4).records
    bare = {"train_loss": 0.001, "workers_arrived": 3.0}
    mixed = [records[0], replace(records[1], metrics=bare), records[3]]
    assert best_record(mixed).round == 4
    assert best_record([mixed[1]]).round == 2


@pytest.mark.parametrize("workers", [1, 4, 17, 50])
@pytest.mark.parametrize("metric", ["accuracy", "loss"])
def test_a_matrix_of_any_size_can_be_drawn(tmp_path, workers, metric):
    names = tuple(f"worker-{number}" for number in range(workers))
    cells = torch.rand(workers + 1, workers, generator=torch.Generator().manual_seed(1))
    found = CrossSite((COMMON, *names), names, {metric: cells.double()})
    cross_site_picture(found, path=tmp_path / "matrix.png")
    with Image.open(tmp_path / "matrix.png") as picture:
        assert 400 <= picture.width <= 1100
    assert (tmp_path / "matrix.png").stat().st_size < 100_000
