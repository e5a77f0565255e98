"""An MLflow tracking server in a process of its own, on the files that trainings use directly.

Database and artifacts are `mlflow.db` and `mlartifacts` in the working folder. Artifacts are
named by their path, not proxied: a name that only the server understands could not be read by
a training that uses the database without one.
"""

import os
import sys
from pathlib import Path

from deployments.child_process import ParentLine
from deployments.web_process import WebProcess, run_app, start_web_process

__all__ = ["start_mlflow_server"]


def start_mlflow_server(*, folder: Path, log: Path, port: int = 0, setting: str = "") -> WebProcess:
    """Start a server on `folder` at once; `wait_ready` awaits it.

    Raises ConfigError where the port is taken.
    """
    return start_web_process(
        "deployments.mlflow_server",
        name="The MLflow server",
        log=log,
        environment=lambda _url: _environment(folder.resolve()),
        port=port,
        setting=setting,
    )


def _environment(folder: Path) -> dict[str, str]:
    defaults = {
        # Eight more processes and 1.7 GB otherwise, for jobs that nobody here starts.
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "true",
    }
    # `mlflow server` hands its options to its web workers in these variables. The command
    # itself would be one more process, and 1.5 s more until the server answers.
    options = {
        "_MLFLOW_SERVER_FILE_STORE": f"sqlite:///{folder / 'mlflow.db'}",
        "_MLFLOW_SERVER_ARTIFACT_ROOT": str(folder / "mlartifacts"),
        "_MLFLOW_SGI_NAME": "uvicorn",
    }
    environment = {**defaults, **os.environ, **options}
    # The server would talk to itself, or to another server, instead of to its database.
    environment.pop("MLFLOW_TRACKING_URI", None)
    return environment


def main() -> None:
    """Be the server process."""
    line = ParentLine.open()
    run_app("mlflow.server.fastapi_app:app", descriptor=int(sys.argv[1]), line=line)


if __name__ == "__main__":
    main()
