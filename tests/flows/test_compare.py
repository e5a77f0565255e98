"""`fedrounds compare` as a person meets it: one table, killed half-way, one cell that fails."""

import csv
import io
import os
import re
import signal
import statistics
import time
from pathlib import Path

import psutil
import pytest
import torch
import yaml
from mlflow import MlflowClient

from fedcore import simulate
from fedcore.errors import ConfigError, UnknownRun
from fedcore.settings.cells import cells_of
from fedcore.settings.comparison import configured_comparison, parse_comparison
from flows.compare import check_comparison
from flows.training import check

NAMED = Path(__file__).parents[2] / "deployments/comparisons/digits-comparison.yaml"

SMALL = {
    "name": "small",
    "base": {"rounds": 2, "workers": {"kind": "virtual", "count": 3}, "local": {"epochs": 1}},
    "cases": [
        {"name": "fedavg"},
        # A convolutional net beside others in the same process must come out the same.
        {"name": "cnn", "changes": {"model": {"kind": "cnn"}, "local.steps": 4}},
    ],
    "seeds": 2,
    "target": {"value": 0.5},
}
LABELS = [f"{case} - seed {seed}" for case in ("fedavg", "cnn") for seed in (0, 1)]


def write(folder, comparison, name="small.yaml"):
    (folder.path / name).write_text(yaml.safe_dump(comparison, sort_keys=False))
    return name


def trained_alone(comparison) -> dict[str, str]:
    """What each cell's model is when it is trained in plain Python with nothing beside it."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        cells = cells_of(parse_comparison(comparison))
        return {cell.label: list(simulate(cell.config))[-1].model.digest for cell in cells}
    finally:
        torch.set_num_threads(threads)


def runs_of(folder):
    """The comparison's run, and those of its cells by label; there must be one of each."""
    client = MlflowClient(folder.tracking_uri)
    found = client.search_runs([e.experiment_id for e in client.search_experiments()])
    (parent,) = [run for run in found if "fedrounds.comparison" in run.data.tags]
    cells = [run for run in found if "fedrounds.cell" in run.data.tags]
    assert {run.data.tags["mlflow.parentRunId"] for run in cells} <= {parent.info.run_id}
    by_label = {run.data.tags["fedrounds.cell"]: run for run in cells}
    assert len(by_label) == len(cells), "a cell must have one run"
    return client, parent, by_label


def digests(done):
    return {cell["cell"]: cell["model_digest"] for cell in done.result["cells"]}


@pytest.fixture(scope="module")
def compared(session_folder):
    done = session_folder.run("compare", write(session_folder, SMALL), "--json")
    assert done.status == 0, done.out + done.err
    assert done.err == ""
    return done


def test_every_cell_is_the_training_that_its_settings_give_alone(compared):
    assert digests(compared) == trained_alone(SMALL)


def test_the_terminal_has_the_run_first_then_a_line_for_each_cell_then_the_table(compared):
    lines = compared.out.splitlines()
    assert lines[0] == f"run {compared.result['run_id']}"
    assert lines[1] == "small: 4 trainings, cases: 2, seeds: 2, 2 at a time"
    told = [re.match(r"(\d) of 4: (.*): test accuracy", line) for line in lines[2:6]]
    assert [match[1] for match in told] == ["1", "2", "3", "4"]
    assert {match[2] for match in told} == set(LABELS)
    assert any("rounds to target" in line for line in lines)


def test_the_figures_are_those_of_the_runs(compared, session_folder):
    client, parent, cells = runs_of(session_folder)
    assert parent.info.status == "FINISHED"
    for case in compared.result["cases"]:
        mine = [run for run in cells.values() if run.data.tags["case"] == case["case"]]
        ends = [run.data.metrics["test_accuracy"] for run in mine]
        assert case["test_accuracy"]["mean"] == pytest.approx(statistics.mean(ends))
        assert case["test_accuracy"]["deviation"] == pytest.approx(statistics.stdev(ends))
        curves = [client.get_metric_history(r.info.run_id, "test_accuracy") for r in mine]
        name = f"test_accuracy/{case['case']}"
        means = client.get_metric_history(parent.info.run_id, name)
        assert [point.step for point in means] == [1, 2]
        for point, *each in zip(means, *curves, strict=True):
            assert point.value == pytest.approx(statistics.mean(p.value for p in each))


def test_mlflow_has_the_cells_under_the_comparison_with_what_they_vary(compared, session_folder):
    client, parent, cells = runs_of(session_folder)
    assert set(cells) == set(LABELS)
    for label, run in cells.items():
        assert (run.info.run_name, run.info.status) == (label, "FINISHED")
        assert run.data.tags["varies.case"] == label.split(" - ")[0]
        models = client.search_logged_models(
            [run.info.experiment_id], f"source_run_id = '{run.info.run_id}'"
        )
        assert {model.name for model in models} == {"best", "final"}
    files = {f.path for f in client.list_artifacts(parent.info.run_id)}
    assert files == {"settings.yaml", "comparison.csv", "comparison.json", "cells.csv", "pictures"}
    folder = client.download_artifacts(parent.info.run_id, "", str(session_folder.path))
    with open(f"{folder}/cells.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(io.StringIO(file.read())))
    assert {row["cell"]: row["model_digest"] for row in rows} == digests(compared)
    with open(f"{folder}/settings.yaml", encoding="utf-8") as file:
        assert parse_comparison(yaml.safe_load(file)) == parse_comparison(SMALL)


def test_prefect_has_a_flow_run_for_each_cell_under_the_comparisons(
    compared, session_folder, prefect_url, ask
):
    _, parent, cells = runs_of(session_folder)
    mine = parent.data.tags["prefect.flow_run_id"]
    tasks = ask(prefect_url, "/task_runs/filter", {"task_runs": {"flow_run_id": {"any_": [mine]}}})
    assert {task["name"] for task in tasks} >= set(LABELS)
    for label, run in cells.items():
        page = ask(prefect_url, f"/flow_runs/{run.data.tags['prefect.flow_run_id']}")
        assert (page["name"], page["state_type"]) == (label, "COMPLETED")
        assert page["parent_task_run_id"] in {task["id"] for task in tasks}
    artifacts = ask(
        prefect_url, "/artifacts/filter", {"artifacts": {"flow_run_id": {"any_": [mine]}}}
    )
    kept = {artifact["key"]: artifact["data"] for artifact in artifacts}
    assert set(kept) == {"progress", "mlflow-run", "cells", "comparison"}
    assert kept["progress"] == 100


def left_of(session):
    found = []
    for process in psutil.process_iter(["pid", "status"]):
        try:
            if os.getsid(process.pid) == session and process.info["status"] != "zombie":
                found.append(process)
        except (ProcessLookupError, psutil.Error):
            continue
    return found


def read_until(process, pattern):
    for line in process.stdout:
        if found := re.search(pattern, line):
            return found
    pytest.fail(f"ended before it printed {pattern}: {process.stderr.read()}")


def test_killed_half_way_it_goes_on_and_nothing_is_trained_twice(folder, compared, monkeypatch):
    process = folder.start("compare", write(folder, SMALL), "--set", "concurrency=1")
    run_id = read_until(process, r"^run (\w+)")[1]
    read_until(process, r"^2 of 4: ")
    process.send_signal(signal.SIGKILL)
    process.communicate()
    deadline = time.monotonic() + 30
    while left_of(process.pid) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert left_of(process.pid) == []
    _, _, before = runs_of(folder)
    finished = {label: run for label, run in before.items() if run.info.status == "FINISHED"}
    assert len(finished) >= 2
    monkeypatch.chdir(folder.path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", folder.tracking_uri)
    other = parse_comparison({**SMALL, "seeds": 3})
    with pytest.raises(ConfigError, match="its own settings") as refused:
        check_comparison(other, resume=run_id)
    assert run_id in str(refused.value)
    done = folder.run("compare", "--resume", "latest", "--json")
    assert done.status == 0, done.out + done.err
    assert done.result["run_id"] == run_id
    told = re.findall(r"^\d of 4: (.*?): ", done.out, re.MULTILINE)
    assert set(told) == set(LABELS) - set(finished), "only what was not finished is trained"
    assert digests(done) == digests(compared)
    client, parent, after = runs_of(folder)
    assert parent.info.status == "FINISHED"
    for label, run in finished.items():
        assert after[label].info.run_id == run.info.run_id
        assert after[label].info.end_time == run.info.end_time
    for run in after.values():
        steps = [p.step for p in client.get_metric_history(run.info.run_id, "train_loss")]
        assert sorted(steps) == [1, 2]
    with pytest.raises(UnknownRun, match="which is finished"):
        check_comparison(None, resume=run_id)
    with pytest.raises(UnknownRun, match=f"a comparison .fedrounds compare --resume {run_id}"):
        check(None, kind="federated", resume=run_id)


def test_ctrl_c_ends_the_trainings_after_their_round_and_says_how_to_go_on(folder):
    long = {**SMALL, "base": {**SMALL["base"], "rounds": 5000}, "cases": [], "seeds": 2}
    process = folder.start("compare", write(folder, long))
    read_until(process, r"^small: 2 trainings")
    client = MlflowClient(folder.tracking_uri)
    deadline = time.monotonic() + 60
    while len(runs_of(folder)[2]) < 2 and time.monotonic() < deadline:
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate()
    assert process.returncode == 130, err
    assert err == "fedrounds: stopped; go on with: fedrounds compare --resume latest\n"
    _, parent, cells = runs_of(folder)
    assert {run.info.status for run in (parent, *cells.values())} == {"KILLED"}
    assert client.get_run(parent.info.run_id).info.end_time is not None


FRAGILE = """
from pathlib import Path
from torch import nn

class Net(nn.Linear):
    def forward(self, features):
        if len(features) > 3 and Path("broken").exists():
            raise OSError("no route to the accelerator")
        return super().forward(features)
"""


def test_a_cell_that_fails_loses_no_other_and_is_tried_again(folder):
    net = {"kind": "custom", "entrypoint": "fragile:Net", "arguments": {}}
    net["arguments"] = {"in_features": 64, "out_features": 10}
    fragile = {"name": "fragile", "changes": {"model": net}}
    comparison = {**SMALL, "cases": [{"name": "fedavg"}, fragile], "seeds": 1}
    (folder.path / "fragile.py").write_text(FRAGILE)
    (folder.path / "broken").touch()
    failed = folder.run("compare", write(folder, comparison), "--json", "--set", "seeds=1")
    assert failed.status == 1, failed.out + failed.err
    assert failed.err.startswith("fedrounds: All 2 trainings must finish; 1 failed: fragile: ")
    assert "no route to the accelerator" in failed.result["failed"]["fragile"]
    assert failed.err.count("\n") == 1
    _, parent, cells = runs_of(folder)
    assert parent.info.status == "FAILED"
    assert {label: run.info.status for label, run in cells.items()} == {
        "fedavg": "FINISHED",
        "fragile": "FAILED",
    }
    assert [case["case"] for case in failed.result["cases"]] == ["fedavg"]
    (folder.path / "broken").unlink()
    done = folder.run("compare", "--resume", "latest", "--json")
    assert done.status == 0, done.out + done.err
    assert [case["case"] for case in done.result["cases"]] == ["fedavg", "fragile"]
    assert re.findall(r"^\d of 2: (\w+)", done.out, re.MULTILINE) == ["fragile"]
    _, parent, after = runs_of(folder)
    assert parent.info.status == "FINISHED"
    assert after["fragile"].info.run_id == cells["fragile"].info.run_id


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--set", "vary.strategy.mu=[1, 2]"], "cell 'fedavg - alpha 0.1 - mu 1 - seed 0'"),
        (["--seeds", "0"], "seeds"),
        (["digit"], "must be a named one (digits-comparison) or a YAML file"),
    ],
)
def test_bad_settings_are_one_message_with_status_2_and_nothing_is_written(
    alone, arguments, message
):
    done = alone.run("compare", *arguments)
    assert done.status == 2, done.out + done.err
    assert message in done.err
    assert done.out == ""
    assert list(alone.path.iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["target.metric=f1"], r"cell '.*': target\.metric must be measured in every round"),
        (["vary.terms.quorum=[0, 11]"], "cell 'fedavg - alpha 0.1 - quorum 11 - seed 0': terms"),
        (["base.backend.kind=ray"], "concurrency must be 1 with the backend ray"),
        (["base.model.kind=custom", "base.model.entrypoint=torch.nn:Identit"], "Identity"),
    ],
)
def test_what_does_not_go_together_is_refused_before_anything_is_written(
    tmp_path, monkeypatch, changes, message
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=message):
        check_comparison(configured_comparison(NAMED, changes), resume=None)
    assert list(tmp_path.iterdir()) == []
