"""Our own Prefect server, in a process of its own.

A server inside the command's process loses the events that are queued when the command ends:
of 2,442 task runs executed, 1,001 were recorded. It also takes the cores away from training.
"""

import gc
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from deployments.child_process import ParentLine
from deployments.web_process import WebProcess, run_app, start_web_process

__all__ = ["own_prefect_server", "server_environment", "start_prefect_server"]

# What differs from Prefect's defaults. A server that records one task run at a time needs 35
# to 50 ms of a core for each and falls behind; in batches it needs 9. The recorder's interval
# is cut to whole seconds, and 0 would make it spin.
SERVER_DEFAULTS = {
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_BATCH_SIZE": "200",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_READ_BATCH_SIZE": "200",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_FLUSH_INTERVAL": "1.0",
    "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_BATCH_SIZE": "500",
    "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_READ_BATCH_SIZE": "200",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
    "PREFECT_SERVER_LOGGING_LEVEL": "WARNING",
    "DO_NOT_TRACK": "1",
}
# An orderly end waits this long at most for events that have arrived and are not yet stored.
SETTLE_SECONDS = 4.0


def server_environment(url: str) -> dict[str, str]:
    """The environment of a server at `url`: ours, except where the user has set another value."""
    # The pages in the browser ask for port 4200 otherwise.
    return {**SERVER_DEFAULTS, "PREFECT_SERVER_UI_API_URL": f"{url}/api", **os.environ}


def start_prefect_server(*, log: Path, port: int = 0, setting: str = "") -> WebProcess:
    """Start a server on the user's Prefect database at once; `wait_ready` awaits it.

    The API answers at `{url}/api`. Raises ConfigError where the port is taken.
    """
    return start_web_process(
        "deployments.prefect_server",
        name="The Prefect server",
        log=log,
        environment=server_environment,
        port=port,
        setting=setting,
    )


@contextmanager
def own_prefect_server(log: Path) -> Iterator[str]:
    """Run a server for the length of the block, which gets the URL of its API."""
    server = start_prefect_server(log=log)
    try:
        server.wait_ready()
        yield f"{server.url}/api"
    finally:
        server.stop()


def main() -> None:
    """Be the server process."""
    line = ParentLine.open()
    # Collecting while thousands of long-lived objects are imported finds no garbage and takes
    # a quarter of the time until the server answers.
    gc.disable()
    _write_from_the_start()
    run_app(
        "prefect.server.api.server:create_app",
        descriptor=int(sys.argv[1]),
        line=line,
        started=_started,
        settle=_settle,
    )


def _write_from_the_start() -> None:
    """Have Prefect's transactions on SQLite wait for their turn.

    They begin as readers. One that turns writer after somebody else has written fails at once,
    whatever the busy timeout: the client gets 503 and comes back after 2, 4, 8 ... seconds, so
    that starting a flow run beside others that are busy took up to half a minute.
    """
    from prefect.server.database.configurations import AioSqliteConfiguration

    begin = AioSqliteConfiguration.begin_transaction

    setattr(  # noqa: B010 - a method, which mypy guards
        AioSqliteConfiguration,
        "begin_transaction",
        lambda database, session, with_for_update=True: begin(
            database, session, with_for_update=True
        ),
    )


def _started() -> None:
    import asyncio

    # The API answers also when a service died at its start; task runs would then never show.
    alive = {task.get_coro().__qualname__ for task in asyncio.all_tasks()}  # type: ignore[union-attr]
    if "TaskRunRecorder.start" not in alive:
        raise RuntimeError("The task run recorder must run; it ended; see the lines above.")
    gc.freeze()
    gc.enable()


async def _settle() -> None:
    """Return when what has arrived on the event bus has been handled."""
    import asyncio

    from prefect.server.utilities.messaging.memory import METRICS

    deadline = asyncio.get_running_loop().time() + SETTLE_SECONDS
    while any(topic["consumed"] < topic["published"] for topic in METRICS.values()):
        if asyncio.get_running_loop().time() > deadline:
            return
        await asyncio.sleep(0.05)


if __name__ == "__main__":
    main()
