"""The Prefect API of a command: the configured one, or a server of our own."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from deployments.prefect_server import start_prefect_server
from deployments.prefect_settings import apply_client_defaults, configured
from deployments.web_process import WebProcess
from fedcore.errors import ConfigError

__all__ = ["PrefectAPI", "check_answers", "prefect_api", "public"]


@dataclass(frozen=True)
class PrefectAPI:
    """Where task runs are recorded. `server` is ours, or None where one was configured."""

    url: str
    server: WebProcess | None

    def wait_ready(self, *, timeout: float = 120.0) -> None:
        """Return once the API answers.

        Raises:
            ConfigError: the configured one does not answer.
            FedroundsError: our own did not start.
        """
        if self.server is not None:
            self.server.wait_ready(timeout=timeout)
        else:
            check_answers(self.url)


@contextmanager
def prefect_api(*, log: Path) -> Iterator[PrefectAPI]:
    """Make this process's Prefect settings complete; call it before Prefect is imported.

    Where no API is configured our own server starts, and the block is entered without waiting
    for it: import what is heavy, then `wait_ready`. It ends with the block.
    """
    apply_client_defaults()
    given = configured("PREFECT_API_URL")
    if given:
        yield PrefectAPI(given, None)
        return
    server = start_prefect_server(log=log)
    api = PrefectAPI(f"{server.url}/api", server)
    os.environ["PREFECT_API_URL"] = api.url
    # Its port dies with it: links to the run must lead to where `fedrounds up` shows the run.
    os.environ.setdefault("PREFECT_UI_URL", "http://127.0.0.1:4200")
    try:
        yield api
    finally:
        server.stop()
        # Another command in this process must not take a dead server for a configured one.
        del os.environ["PREFECT_API_URL"]


def check_answers(url: str) -> None:
    """Ask the configured API, at `url`, something that needs the right to ask.

    Raises ConfigError where it does not answer, or refuses.
    """
    # With Prefect's own client, which knows the user's certificates, headers and passwords.
    import httpx
    from prefect.client.orchestration import get_client

    try:
        with get_client(sync_client=True) as client:
            client.request("POST", "/flows/count", json={}).raise_for_status()
        return
    except httpx.HTTPStatusError as error:
        reason = f"{error.response.status_code} {error.response.reason_phrase}"
        if error.response.status_code == httpx.codes.UNAUTHORIZED:
            reason += "; is PREFECT_API_AUTH_STRING right?"
    except (httpx.HTTPError, httpx.InvalidURL, RuntimeError, ValueError) as error:
        reason = str(error) or type(error).__name__
    raise ConfigError(
        f"PREFECT_API_URL must be a Prefect API that answers; {public(url)} gave: {reason}. "
        "Start that server, or unset PREFECT_API_URL to let fedrounds start its own."
    )


def public(url: str) -> str:
    """Return `url` without a user name and password in it."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
