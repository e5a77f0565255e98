"""kill -9 at any moment, then --resume: the same run goes on to the same model, bit for bit."""

import os
import random
import re
import signal
import time

import psutil
import pytest
from mlflow import MlflowClient

from deployments.cli import CONFIGS
from fedcore.checkpoint import RunFolder
from fedcore.federation import found
from fedcore.settings.loading import configured
from fedcore.simulation import rounds

# Rounds long enough that a kill falls between them, short enough for a test.
LONG = ["digits", "--set", "local.epochs=10"]


@pytest.fixture(scope="module")
def uninterrupted(session_folder):
    return session_folder.train(*LONG)


def read_until(process, pattern):
    for line in process.stdout:
        if found := re.search(pattern, line):
            return found
    pytest.fail(f"ended before it printed {pattern}: {process.stderr.read()}")


def orphans_of(session: int) -> list[str]:
    """Processes of the killed command's session that are still there."""
    found = []
    for process in psutil.process_iter(["pid", "cmdline", "status"]):
        try:
            if os.getsid(process.pid) == session and process.info["status"] != "zombie":
                found.append(" ".join(process.info["cmdline"] or []))
        except (ProcessLookupError, psutil.Error):
            continue
    return found


def kill_and_resume(folder, after_round, pause_s, *, training=LONG):
    process = folder.start("train", *training)
    run_id = read_until(process, r"^run (\w+)")[1]
    if after_round:
        read_until(process, rf"^round {after_round} of 12")
    time.sleep(pause_s)
    assert process.poll() is None, "it must still be training when it is killed"
    process.send_signal(signal.SIGKILL)
    process.communicate()
    deadline = time.monotonic() + 30
    while orphans_of(process.pid) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert orphans_of(process.pid) == []
    return run_id, folder.run("train", "--resume", run_id, "--json")


def assert_same_training(folder, run_id, result, uninterrupted):
    assert result["run_id"] == run_id
    assert result["model_digest"] == uninterrupted.result["model_digest"]
    client = MlflowClient(folder.tracking_uri)
    run = client.get_run(run_id)
    assert run.info.status == "FINISHED"
    for name in ("train_loss", "test_loss", "round_seconds"):
        steps = [m.step for m in client.get_metric_history(run_id, name)]
        assert sorted(steps) == list(range(1, 13)), name
    found = client.search_runs([run.info.experiment_id], f"tags.`mlflow.parentRunId` = '{run_id}'")
    assert len(found) == 10
    for child in found:
        steps = [m.step for m in client.get_metric_history(child.info.run_id, "train_loss")]
        assert sorted(steps) == list(range(1, 13))


def moments(count):
    """Random moments between the run id and the last round: (rounds finished, seconds more)."""
    draw = random.Random(17)
    return [(draw.randrange(12), round(draw.uniform(0.0, 0.4), 3)) for _ in range(count)]


def check_kill(folder, moment, uninterrupted):
    run_id, done = kill_and_resume(folder, *moment)
    assert done.status == 0, done.out + done.err
    assert_same_training(folder, run_id, done.result, uninterrupted)


@pytest.mark.parametrize("moment", moments(3), ids=str)
def test_a_killed_training_goes_on_to_the_same_model(alone, moment, uninterrupted):
    check_kill(alone, moment, uninterrupted)


@pytest.mark.soak
@pytest.mark.parametrize("moment", moments(10), ids=str)
def test_a_killed_training_goes_on_to_the_same_model_ten_times(alone, moment, uninterrupted):
    check_kill(alone, moment, uninterrupted)


@pytest.mark.parametrize("strategy", ["scaffold", "ditto"])
def test_what_workers_remember_survives_a_kill(folder, strategy, tmp_path):
    """Some of them are not drawn in the round before it, or in the one that is cut off."""
    sampling = ["sampling.kind=uniform", "sampling.count=6"]
    changes = ["local.epochs=10", f"strategy.kind={strategy}", *sampling]
    config = configured(CONFIGS / "digits.yaml", changes)
    straight = found(config, memories=f"{tmp_path}/straight/").named("run", attempt=1)
    *_, wanted = rounds(straight)
    training = ["digits", *(part for change in changes for part in ("--set", change))]
    run_id, done = kill_and_resume(folder, 4, 0.05, training=training)
    assert done.status == 0, done.out + done.err
    assert done.result["model_digest"] == wanted.model.digest
    kept = memories(folder.path / ".fedrounds" / run_id)
    assert len({name.partition("~")[0] for name in kept}) == 10
    assert kept == memories(tmp_path / "straight/run")


def memories(run):
    """What the workers of a run remember, as bytes by worker and round."""
    return {file.name: file.read_bytes() for file in (run / "memory").glob("worker-*.safetensors")}


def test_it_can_be_killed_again_and_again_and_finished_rounds_are_not_repeated(
    folder, uninterrupted
):
    process = folder.start("train", *LONG)
    run_id = read_until(process, r"^run (\w+)")[1]
    for stop in (3, 7):
        read_until(process, rf"^round {stop} of 12")
        process.send_signal(signal.SIGKILL)
        process.communicate()
        committed = RunFolder(folder.path / ".fedrounds" / run_id).rounds()
        assert committed[-1] >= stop
        process = folder.start("train", "--resume", "latest")
        first = read_until(process, r"^round (\d+) of 12")
        assert int(first[1]) == committed[-1] + 1
    process.communicate()
    assert process.returncode == 0
    state = RunFolder(folder.path / ".fedrounds" / run_id).latest()
    assert state.model.digest == uninterrupted.result["model_digest"]


def test_two_resumes_at_once_the_second_is_refused(folder):
    first = folder.start("train", *LONG, "--set", "rounds=5000")
    run_id = read_until(first, r"^run (\w+)")[1]
    second = folder.run("train", "--resume", run_id)
    assert second.status == 2, second.out + second.err
    assert f"which process {first.pid} is training" in second.err
    assert first.poll() is None
    assert MlflowClient(folder.tracking_uri).get_run(run_id).info.status == "RUNNING"


def test_ctrl_c_leaves_a_killed_run_that_can_be_resumed(folder, uninterrupted):
    process = folder.start("train", *LONG)
    run_id = read_until(process, r"^run (\w+)")[1]
    read_until(process, r"^round 2 of 12")
    process.send_signal(signal.SIGINT)
    _, err = process.communicate()
    assert process.returncode == 130, err
    assert "Traceback" not in err
    assert f"--resume {run_id}" in err or "--resume latest" in err
    assert MlflowClient(folder.tracking_uri).get_run(run_id).info.status == "KILLED"
    done = folder.run("train", "--resume", "latest", "--json")
    assert_same_training(folder, run_id, done.result, uninterrupted)


def test_a_finished_run_and_other_settings_are_refused(session_folder, uninterrupted):
    finished = session_folder.run("train", "--resume", uninterrupted.run_id)
    assert finished.status == 2
    assert "which is finished" in finished.err


def test_other_settings_than_the_runs_own_are_refused(folder):
    process = folder.start("train", *LONG)
    run_id = read_until(process, r"^run (\w+)")[1]
    read_until(process, r"^round 1 of 12")
    process.send_signal(signal.SIGKILL)
    process.communicate()
    before = RunFolder(folder.path / ".fedrounds" / run_id).rounds()
    other = folder.run("train", *LONG, "--set", "rounds=13", "--resume", run_id)
    assert other.status == 2, other.out
    assert "must be resumed with its own settings; given: other rounds" in other.err
    baseline = folder.run("centralised", "--resume", run_id)
    assert baseline.status == 2
    assert "the flow that started it" in baseline.err
    assert RunFolder(folder.path / ".fedrounds" / run_id).rounds() == before
    assert MlflowClient(folder.tracking_uri).get_run(run_id).info.status == "RUNNING"
