"""A training whose process is killed is shown as crashed, and Retry finishes it."""

import json
import os
import signal

from fedcore.settings import LocalSettings

ROUNDS = 8


def test_killed_training_is_crashed_and_retry_gives_the_same_model(browser, up) -> None:
    local = LocalSettings(epochs=15).model_dump(mode="json")
    flow_run = up.start("digits", name="killed", rounds=ROUNDS, local=local)
    (run,) = browser.until(lambda: up.runs(flow_run), "the MLflow run")
    folder = up.checkpoints(run["info"]["run_id"])
    browser.open(f"{up.prefect}/runs/flow-run/{flow_run}")
    browser.until(lambda: len(folder.rounds()) > 2, "two rounds")
    os.kill(json.loads((folder.path / "lock").read_text())["process"], signal.SIGKILL)
    browser.see("Crashed")
    browser.picture("killed-crashed")
    done = folder.rounds()
    assert done[-1] < ROUNDS, "it was killed too late to show anything"

    browser.press("Retry")
    browser.see("Retry killed?")
    browser.click("(//button[normalize-space(.)='Retry'])[last()]")
    twin = up.start("digits", name="killed", rounds=ROUNDS, local=local)
    browser.see("Completed")
    browser.picture("killed-retried")
    up.completed(flow_run)

    (run,) = up.runs(flow_run)
    assert run["info"]["run_id"] == folder.path.name
    assert run["info"]["status"] == "FINISHED"
    up.completed(twin)
    uninterrupted = up.checkpoints(up.run(twin)["info"]["run_id"])
    assert folder.latest().model.digest == uninterrupted.latest().model.digest
    for metric in ("train_loss", "test_loss", "test_accuracy"):
        assert up.steps(folder.path.name, metric) == list(range(1, ROUNDS + 1))
