"""A web application in a child process of its own, on a port of this machine.

The parent binds the port and hands the open socket over: a taken port is known before anything
is started, and no other process can take the port in between.
"""

import asyncio
import socket
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from deployments.child_process import ChildProcess, ParentLine, start_child
from fedcore.errors import ConfigError

__all__ = ["WebProcess", "run_app", "start_web_process"]

HOST = "127.0.0.1"


@dataclass(frozen=True)
class WebProcess:
    """A web server in a child process, and where it answers."""

    url: str
    child: ChildProcess

    def wait_ready(self, *, timeout: float = 120.0) -> None:
        """Return once it answers. Raises FedroundsError if it does not."""
        self.child.wait_ready(timeout=timeout)

    def stop(self) -> None:
        """End it in order."""
        self.child.stop()


def start_web_process(
    module: str,
    *,
    name: str,
    log: Path,
    environment: Callable[[str], Mapping[str, str]],
    port: int = 0,
    setting: str = "",
) -> WebProcess:
    """Start `module`, whose main function calls `run_app`. Port 0 is any free one.

    `environment` gets the URL under which the application will answer.

    Raises:
        ConfigError: the port is taken; `setting` is how another one is chosen.
    """
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((HOST, port))
        except OSError as error:
            raise ConfigError(
                f"{name} needs a free port; port {port} of {HOST} is not ({error.strerror}); "
                f"end what uses it, or choose another one with {setting}."
            ) from error
        url = f"http://{HOST}:{listener.getsockname()[1]}"
        child = start_child(
            module,
            str(listener.fileno()),
            name=name,
            log=log,
            environment=environment(url),
            inherit=[listener],
        )
        return WebProcess(url, child)


def run_app(
    application: str,
    *,
    descriptor: int,
    line: ParentLine,
    started: Callable[[], None] = lambda: None,
    settle: Callable[[], Awaitable[None]] | None = None,
) -> None:
    """Serve `application` (a `module:name`) until the parent ends or asks for it.

    `started` runs once requests are answered and may raise; `settle` is awaited before the
    application is shut down.
    """
    import uvicorn

    config = uvicorn.Config(
        application,
        factory=application.endswith("create_app"),
        log_level="warning",
        # Browsers keep connections open for as long as a page is.
        timeout_graceful_shutdown=2,
    )
    server = uvicorn.Server(config)

    async def serve() -> None:
        loop, stopping = asyncio.get_running_loop(), asyncio.Event()

        def stop() -> None:
            with suppress(RuntimeError):  # the loop has ended by itself
                loop.call_soon_threadsafe(stopping.set)

        line.watch(stop)
        listener = socket.socket(fileno=descriptor)
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        asked = asyncio.create_task(stopping.wait())
        while not (server.started or serving.done()):
            await asyncio.sleep(0.01)
        if server.started:
            started()
            line.ready()
            await asyncio.wait({serving, asked}, return_when=asyncio.FIRST_COMPLETED)
            if settle is not None and not serving.done():
                await settle()
        server.should_exit = True
        await serving

    asyncio.run(serve())
