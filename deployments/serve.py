"""The named trainings and comparisons as served deployments, started by a click or a schedule.

Runs in a child process of `fedrounds up`. Each flow run gets a process of its own, in the
folder where `up` was started.
"""

import asyncio
import copyreg
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from deployments.child_process import ChildProcess, ParentLine, start_child
from deployments.prefect_settings import apply_client_defaults
from fedcore.errors import ConfigError

if TYPE_CHECKING:
    from prefect.flows import Flow

__all__ = ["DEPLOYMENTS", "Served", "parameters", "start_serving"]

FOLDERS = {
    "config": Path(__file__).parent / "configs",
    "comparison": Path(__file__).parent / "comparisons",
}
FEDERATED = "flows.federated.federated_training"
CENTRALISED = "flows.centralised.centralised_training"
COMPARED = "flows.compare.compare_trainings"
# How often the server is asked for runs to start; Prefect's 10 s feel long after a click.
POLL_SECONDS = 2


@dataclass(frozen=True)
class Served:
    """A named training or comparison: its deployment, its flow, its file of settings."""

    name: str
    entrypoint: str
    file: str
    cron: str | None = None
    parameter: str = "config"
    """The flow's parameter that takes the settings, which names the file's folder."""


DEPLOYMENTS = (
    Served("tutorial", FEDERATED, "tutorial"),
    Served("tutorial-centralised", CENTRALISED, "tutorial-centralised"),
    Served("digits", FEDERATED, "digits"),
    Served("digits-nightly", FEDERATED, "digits", cron="0 3 * * *"),
    Served("digits-comparison", COMPARED, "digits-comparison", parameter="comparison"),
)


def parameters(served: Served) -> dict[str, object]:
    """Return the flow's parameters: the settings that its file holds."""
    import yaml

    file = FOLDERS[served.parameter] / f"{served.file}.yaml"
    if not file.is_file():
        raise ConfigError(
            f"The deployment {served.name} needs its settings; there is no {file}; "
            "reinstall fedrounds."
        )
    return {served.parameter: yaml.safe_load(file.read_text(encoding="utf-8"))}


def start_serving(*, log: Path, environment: Mapping[str, str] = os.environ) -> ChildProcess:
    """Start serving at once on the configured Prefect API; `wait_ready` awaits it."""
    return start_child(
        "deployments.serve", name="The served deployments", log=log, environment=environment
    )


def main() -> None:
    """Be the serving process."""
    line = ParentLine.open()
    apply_client_defaults()
    asyncio.run(_serve(line))


async def _serve(line: ParentLine) -> None:
    from prefect.flows import Flow
    from prefect.runner import Runner
    from prefect.types.entrypoint import EntrypointType

    # The runner hands a flow to the run's process pickled. Flows are no module's functions any
    # more (the decorator took their names), so they would be copied, and all that they use in
    # their modules with them. By name, they are imported there as they were here: a folder
    # `flows` or `tasks` of the user's does not come first, as it does for `prefect.engine`.
    copyreg.pickle(Flow, _by_name)  # type: ignore[arg-type]
    # Without the pause, the nights that this process is not there would all be made up for.
    runner = Runner(name="fedrounds", query_seconds=POLL_SECONDS, pause_on_shutdown=True)
    for served in DEPLOYMENTS:
        await runner.aadd_flow(
            _load(served.entrypoint),
            name=served.name,
            cron=served.cron,
            paused=False,
            parameters=parameters(served),
            entrypoint_type=EntrypointType.MODULE_PATH,
        )
    loop, running = asyncio.get_running_loop(), asyncio.create_task(runner.start())

    def stop() -> None:
        with suppress(RuntimeError):  # the loop has ended by itself
            asyncio.run_coroutine_threadsafe(runner.astop(), loop)

    line.watch(stop)
    while not (runner.started or running.done()):
        await asyncio.sleep(0.05)
    line.ready()
    await running


def _load(entrypoint: str) -> "Flow[..., object]":
    from prefect.flows import Flow

    module, _, name = entrypoint.rpartition(".")
    flow = getattr(import_module(module), name)
    if not isinstance(flow, Flow):
        raise TypeError(f"{entrypoint} must be a Prefect flow; it is {flow!r}.")
    return flow


def _by_name(flow: "Flow[..., object]") -> tuple[object, tuple[str]]:
    return _load, (f"{flow.__module__}.{flow.fn.__name__}",)


if __name__ == "__main__":
    main()
