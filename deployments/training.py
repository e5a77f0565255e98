"""`fedrounds train` and `fedrounds centralised`: servers, the flow, what is said at the end."""

import json as jsonlib
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

from deployments.display import displayed
from deployments.prefect_api import prefect_api
from fedcore.checkpoint import RunFolder, home
from fedcore.settings import TrainingConfig
from fedcore.settings.participation import All
from fedcore.values import RoundRecord

__all__ = ["run_training"]


def run_training(
    kind: Literal["federated", "centralised"],
    config: TrainingConfig | None,
    *,
    resume: str | None,
    json: bool,
) -> None:
    """Train in this process, with its own Prefect server unless one is configured.

    Raises:
        ConfigError: bad input; nothing was written.
        FedroundsError: the training failed; its run can be resumed.
    """
    log = home() / "prefect-server.log"
    with prefect_api(log=log) as api, displayed() as display:
        # The server needs seconds to start; the imports and MLflow's database use them.
        from deployments.crash_automation import install_crash_automation
        from deployments.drain import counted_task_runs, drain
        from flows.centralised import centralised_training
        from flows.federated import federated_training
        from flows.training import check
        from tasks import tracking

        side = ThreadPoolExecutor(1)
        prepared = side.submit(tracking.prepare)
        # Bad input is told now, not by a flow run that fails a few seconds later.
        settings = check(config, kind=kind, resume=resume)
        prepared.result()
        if api.server is not None:
            # Whoever has a server running sees the first round sooner instead.
            side.submit(tracking.warm_up)
        api.wait_ready()
        if api.server is not None:
            # Should this process be killed, the next server on this database says so.
            install_crash_automation()
        side.shutdown()
        flow = federated_training if kind == "federated" else centralised_training
        with counted_task_runs() as count:
            try:
                outcome = flow(settings, resume=resume)
            finally:
                drained = drain(count)
        if not drained.complete:
            print(
                f"fedrounds: the Prefect server recorded {drained.recorded} of "
                f"{drained.executed} task runs; the model is complete, see {log}.",
                file=sys.stderr,
            )
        display.stop()
        records = RunFolder(tracking.find_run(outcome.run_id).folder).records()
        best = int(tracking.summary(records)["best_round"])
    _say_what_was_learnt(outcome.run_id, records, settings, best=best)
    if json:
        print(jsonlib.dumps(_result(outcome.run_id, outcome.model_digest, records)))


def _say_what_was_learnt(
    run_id: str, records: list[RoundRecord], settings: TrainingConfig, *, best: int
) -> None:
    last = records[-1]
    number = round(last.metrics["workers_arrived"])
    whom = "one worker" if number == 1 else f"{number:,} workers"
    each = "" if isinstance(settings.sampling, All) else " in each"
    print(f"\nLearnt {settings.name} in {last.round} rounds from {whom}{each}.")
    accuracy = {
        r.round: r.metrics["test_accuracy"] for r in records if "test_accuracy" in r.metrics
    }
    if accuracy:
        print(
            f"  test accuracy  {accuracy[last.round]:.1%} at the end, "
            f"{accuracy[best]:.1%} in round {best}, the best by test loss"
        )
    print(f"  train loss     {records[0].metrics['train_loss']:.4f} -> "
          f"{last.metrics['train_loss']:.4f}")  # fmt: skip
    command = _command()
    print("Look at it:")
    print(f"  {command} up")
    print("      Prefect and MLflow in your browser")
    print(f"  {command} model {run_id}")
    print("      the weights, of this or any round")
    print(f"  {command} evaluate {run_id}")
    print("      the model on every worker")


def _command() -> str:
    """How this command was started: from an environment that is not active, by its path."""
    given = Path(sys.argv[0])
    return "fedrounds" if shutil.which("fedrounds") == str(given.absolute()) else str(given)


def _result(run_id: str, model_digest: str, records: list[RoundRecord]) -> dict[str, object]:
    return {
        "run_id": run_id,
        "rounds": records[-1].round,
        "model_digest": model_digest,
        "history": [
            {
                "round": record.round,
                "train_loss": record.metrics["train_loss"],
                "test_loss": record.metrics.get("test_loss"),
                "test_accuracy": record.metrics.get("test_accuracy"),
                "workers": {c.worker: c.train_loss for c in record.contributions},
            }
            for record in records
        ],
    }
