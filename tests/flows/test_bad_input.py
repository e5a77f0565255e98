"""Bad input: one clear message, exit status 2, nothing half-written."""

import re
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from fedcore.errors import ConfigError
from fedcore.settings import configured
from flows.training import check

DIGITS = Path(__file__).parents[2] / "deployments/configs/digits.yaml"
CSV = "a,b,y\n1,2,no\n3,4,yes\n5,6,no\n7,8,yes\n"

# Told by settings alone: nothing heavy is imported.
SETTINGS = {
    "an unknown training": (["digit"], r"nearest: 'digits'"),
    "a missing file": (["mine.yaml"], r"must exist; given: mine.yaml"),
    "an unknown setting": (["--set", "locl.epochs=1"], r"nearest: 'local'"),
    "an unknown kind": (["--set", "strategy.kind=fedavgg"], r"nearest: 'fedavg'"),
    "a number out of range": (["--set", "rounds=0"], r"rounds: .*greater than or equal to 1"),
    "a word for a number": (["--set", "rounds=many"], r"rounds: .*given: 'many'"),
    "a setting without a value": (["--set", "rounds"], r"name=value"),
}

FILES = ["data.source.kind=files", "data.source.path=t.csv", "data.source.label=y"]
FLAT = ["workers.count=2", "workers.partition.kind=iid"]

# Told by the data, the model, or the runs that are there.
FOUND = {
    "a column that is not there": ([*FILES, "data.source.label=yy"], r"nearest: 'y'"),
    "a data file that is not there": ([*FILES, "data.source.path=u.csv"], r"u\.csv"),
    "NaN in the data": ([*FILES, "data.source.path=nan.csv"], r"'b' must be finite.*record 3"),
    "a worker without records": (
        [*FILES, "workers.count=9", "workers.partition.kind=iid"],
        r"worker-\d",
    ),
    "a loss that wants classes": (
        [*FILES, "data.source.features=[a]", "data.source.label=b",
         "data.source.task=regression", *FLAT],
        r"cross_entropy must have classes",
    ),
    "a model that does not fit the labels": (
        ["model.kind=custom", "model.entrypoint=torch.nn:Identity"],
        r"fit the labels",
    ),
    "a model that is not there": (
        ["model.kind=custom", "model.entrypoint=torch.nn:Identit"],
        r"Identity",
    ),
    "more sampled than there are": (
        ["sampling.kind=uniform", "sampling.count=50"],
        r"sampling\.count must be at most",
    ),
    "a quorum that can never be met": (["terms.quorum=11"], r"terms\.quorum must be at most"),
}  # fmt: skip


def assert_nothing_written(path):
    assert not list(path.rglob("round-*"))
    assert not list(path.rglob("settings.json"))
    database = path / "mlflow.db"
    if database.exists():
        with closing(sqlite3.connect(database)) as connection:
            assert connection.execute("select count(*) from runs").fetchone() == (0,)


@pytest.mark.parametrize("case", SETTINGS)
def test_bad_settings_are_one_message_and_status_2(alone, case):
    arguments, message = SETTINGS[case]
    done = alone.run("train", *arguments)
    assert done.status == 2, done.out + done.err
    assert re.fullmatch(r"fedrounds: [^\n]+\n", done.err)
    assert re.search(message, done.err), done.err
    assert done.out == ""
    assert list(alone.path.iterdir()) == []


@pytest.mark.parametrize("case", FOUND)
def test_what_does_not_go_together_is_refused_before_anything_is_written(
    tmp_path, monkeypatch, case
):
    changes, message = FOUND[case]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "t.csv").write_text(CSV)
    (tmp_path / "nan.csv").write_text(CSV.replace("6", ""))
    with pytest.raises(ConfigError) as caught:
        check(configured(DIGITS, changes), kind="federated", resume=None)
    assert re.search(message, str(caught.value)), caught.value
    assert "\n" not in str(caught.value)
    assert_nothing_written(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "environment", "message"),
    [
        (["--set", "terms.quorum=11"], {}, "terms.quorum must be at most"),
        (["--resume", "0123456789abcdef"], {}, "0123456789abcdef"),
        (["--resume", "latest"], {}, "latest needs a training"),
        ([], {"MLFLOW_TRACKING_URI": "http://user:secret@127.0.0.1:9"}, "nothing listens there"),
        ([], {"MLFLOW_TRACKING_URI": "sqlite:////nowhere/mlflow.db"}, "no folder"),
        ([], {"MLFLOW_TRACKING_URI": "./mlruns"}, "given up the file store"),
        ([], {"PREFECT_API_URL": "http://127.0.0.1:9/api"}, "must be a Prefect API that answers"),
    ],
    ids=["terms", "run", "latest", "server", "database", "file-store", "prefect"],
)
def test_the_command_says_it_in_one_line_with_status_2(alone, arguments, environment, message):
    done = alone.run("train", *arguments, **environment)
    assert done.status == 2, done.out + done.err
    assert re.fullmatch(r"fedrounds: [^\n]+\n", done.err), done.err
    assert message in done.err
    assert "secret" not in done.out + done.err
    assert done.out == ""
    assert_nothing_written(alone.path)


def test_every_mistake_is_told_at_once(alone):
    done = alone.run("train", "--set", "rounds=0", "--set", "seed=-1", "--set", "nam=x")
    assert done.status == 2
    lines = done.err.removeprefix("fedrounds: ").splitlines()
    assert {line.split(":")[0] for line in lines} == {"rounds", "seed", "nam"}


def test_debug_shows_where(alone):
    done = alone.run("train", "--set", "rounds=0", "--debug")
    assert done.status != 0
    assert "Traceback" in done.err
