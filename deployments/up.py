"""What `fedrounds up` runs: Prefect, MLflow and the named trainings, ready to be clicked."""

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from urllib.request import urlopen

from deployments.child_process import ChildProcess
from deployments.mlflow_server import start_mlflow_server
from deployments.prefect_api import check_answers, public
from deployments.prefect_server import start_prefect_server
from deployments.prefect_settings import apply_client_defaults, configured
from deployments.serve import DEPLOYMENTS, start_serving
from fedcore.errors import FedroundsError

__all__ = ["up"]

LOGS = Path(".fedrounds", "logs")


def up(
    *,
    prefect_port: int = 4200,
    mlflow_port: int = 5000,
    say: Callable[[str], None] = lambda text: print(text, flush=True),
) -> None:
    """Run until Ctrl-C or SIGTERM. Servers that the environment names are used, not started.

    Raises:
        ConfigError: a port is taken, or a named server does not answer.
        FedroundsError: something did not start, or ended by itself; names its log.
    """
    apply_client_defaults()
    with _until_signal(), ExitStack() as stack:
        children: list[ChildProcess] = []
        stack.callback(_stop, children)
        say("Starting: a few seconds, longer the first time.")
        prefect = _prefect(prefect_port, children)
        mlflow = _mlflow(mlflow_port, children)
        for child in children:
            child.wait_ready()
        if prefect is None:
            check_answers(configured("PREFECT_API_URL") or "")
        if mlflow is not None:
            # The first request makes the database; two trainings that make it at once collide.
            page = f"{mlflow}/api/2.0/mlflow/experiments/get?experiment_id=0"
            urlopen(page).close()  # noqa: S310 - our own server
        _install_crash_automation()
        children.append(start_serving(log=LOGS / "serve.log"))
        children[-1].wait_ready()
        say(_welcome(prefect, mlflow))
        while True:
            _check_alive(children)
            time.sleep(1)


def _prefect(port: int, children: list[ChildProcess]) -> str | None:
    if configured("PREFECT_API_URL"):
        return None
    server = start_prefect_server(log=LOGS / "prefect.log", port=port, setting="--prefect-port")
    children.append(server.child)
    os.environ["PREFECT_API_URL"] = f"{server.url}/api"
    return server.url


def _mlflow(port: int, children: list[ChildProcess]) -> str | None:
    if os.environ.get("MLFLOW_TRACKING_URI"):
        return None
    server = start_mlflow_server(
        folder=Path.cwd(), log=LOGS / "mlflow.log", port=port, setting="--mlflow-port"
    )
    children.append(server.child)
    os.environ["MLFLOW_TRACKING_URI"] = server.url
    return server.url


def _install_crash_automation() -> None:
    # Imports Prefect, which reads its settings: only now are they complete.
    from deployments.crash_automation import install_crash_automation

    install_crash_automation()


def _welcome(prefect: str | None, mlflow: str | None) -> str:
    api, tracking = os.environ.get("PREFECT_API_URL"), os.environ["MLFLOW_TRACKING_URI"]
    used = public(api or configured("PREFECT_API_URL") or "")
    pages = prefect or used.removesuffix("/api")
    names = ", ".join(served.name for served in DEPLOYMENTS)
    return f"""
  Prefect  {prefect or f"{used} (yours, from PREFECT_API_URL)"}
  MLflow   {mlflow or f"{public(tracking)} (yours, from MLFLOW_TRACKING_URI)"}

For `fedrounds train` and other commands in another terminal:

  export PREFECT_API_URL={used}
  export MLFLOW_TRACKING_URI={public(tracking)}

To start a training, open {pages}/deployments, choose one of
{names}, and click Run, Quick run.
Its rounds appear under Runs, its metrics and models in MLflow under Experiments.

Logs are in {LOGS}. Ctrl-C ends all of this."""


def _check_alive(children: list[ChildProcess]) -> None:
    for child in children:
        status = child.process.poll()
        if status is not None:
            raise FedroundsError(
                f"{child.name} must run on; it ended with status {status}; "
                f"read {child.log} for the reason, and run `fedrounds up` again."
            )


@contextmanager
def _until_signal() -> Iterator[None]:
    """End the block quietly on Ctrl-C and on SIGTERM."""

    def interrupt(_signal: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    # Both by ourselves: a shell starts a background command with Ctrl-C's signal ignored.
    stops = (signal.SIGINT, signal.SIGTERM)
    before = {each: signal.signal(each, interrupt) for each in stops}
    try:
        yield
    except KeyboardInterrupt:
        print("Stopped.", file=sys.stderr, flush=True)
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def _stop(children: list[ChildProcess]) -> None:
    """Stop the trainings first, for they still write to the servers."""
    # Impatient signals would only leave the rest to end by force.
    before = {each: signal.signal(each, signal.SIG_IGN) for each in (signal.SIGINT, signal.SIGTERM)}
    try:
        for child in reversed(children):
            child.stop()
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
