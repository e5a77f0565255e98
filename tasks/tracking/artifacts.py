"""Where artifacts lie, so that runs made directly and runs made through a server stand together.

`fedrounds up` serves the folder `mlartifacts` beside the database. What is written directly goes
to the same folder:

    made directly      file:///.../mlartifacts/<experiment>/<run>/artifacts   the server reads files
    made by a server   mlflow-artifacts:/<experiment id>/<run>/artifacts      = mlartifacts/...

MLflow refuses the second kind when it talks to the database directly. Here it is the folder that
the server would use.
"""

import os
import re
import tempfile
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from urllib.parse import unquote, urlsplit

import mlflow
from mlflow import MlflowClient
from mlflow.store.artifact import artifact_repository_registry
from mlflow.store.artifact.artifact_repo import ArtifactRepository
from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository
from mlflow.store.artifact.mlflow_artifacts_repo import MlflowArtifactsRepository

__all__ = ["artifact_sizes", "database_file", "experiment_location", "read_artifact", "write_file"]

FOLDER = "mlartifacts"
"""What `mlflow server` calls it, too."""


def database_file(uri: str) -> Path | None:
    """The file of a SQLite tracking URI; None for a server or another database."""
    if not uri.startswith("sqlite:///"):
        return None
    return Path(unquote(uri.removeprefix("sqlite:///").partition("?")[0])).absolute()


def experiment_location(uri: str, name: str) -> str | None:
    """Where a new experiment of that name keeps artifacts; None: where its server says."""
    if urlsplit(uri).scheme in ("http", "https"):
        return None
    folder = re.sub(r"[^A-Za-z0-9_-]+", "-", name).strip("-") or "experiment"
    return (_root(uri) / folder).as_uri()


def _root(uri: str) -> Path:
    file = database_file(uri)
    return (file.parent if file else Path.cwd()) / FOLDER


def write_file(client: MlflowClient, run_id: str, name: str, content: bytes) -> None:
    """Keep an artifact under `name`, folders included, replacing what was there."""
    folder, _, base = name.rpartition("/")
    repository = _repository(client.tracking_uri, run_id)
    if isinstance(repository, LocalArtifactRepository):
        # By way of a temporary file and MLflow's checks it takes five times as long.
        _write_whole(Path(repository.artifact_dir, name), content)
        return
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary, base)
        path.write_bytes(content)
        repository.log_artifact(str(path), folder or None)  # type: ignore[no-untyped-call]


@lru_cache(maxsize=64)
def _repository(tracking_uri: str, run_id: str) -> ArtifactRepository:
    """Where a run's artifacts lie: MLflow answers once, for they never move."""
    uri = MlflowClient(tracking_uri, tracking_uri).get_run(run_id).info.artifact_uri
    return artifact_repository_registry.get_artifact_repository(uri, tracking_uri=tracking_uri)


def _write_whole(path: Path, content: bytes) -> None:
    """Write to a neighbour and rename it: readers see all of it or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_bytes(content)
    partial.replace(path)


def artifact_sizes(client: MlflowClient, run_id: str, folder: str) -> dict[str, int]:
    """Size in bytes of each file in an artifact folder, by name; empty where there is none."""
    found: Sequence[mlflow.entities.FileInfo] = client.list_artifacts(run_id, folder)
    return {Path(f.path).name: int(f.file_size or 0) for f in found if not f.is_dir}


def read_artifact(client: MlflowClient, run_id: str, name: str) -> bytes:
    """The bytes of an artifact."""
    with tempfile.TemporaryDirectory() as temporary:
        return Path(client.download_artifacts(run_id, name, temporary)).read_bytes()


def _served(
    artifact_uri: str, tracking_uri: str | None = None, registry_uri: str | None = None
) -> ArtifactRepository:
    """The store behind an mlflow-artifacts URI: a server, or without one the folder it serves."""
    tracking = tracking_uri or mlflow.get_tracking_uri()
    if urlsplit(tracking).scheme in ("http", "https"):
        return MlflowArtifactsRepository(artifact_uri, tracking, registry_uri)
    path = urlsplit(artifact_uri).path.strip("/")
    if ".." in Path(path).parts:
        raise mlflow.MlflowException(f"An artifact must lie under {FOLDER}; given: {artifact_uri}.")
    return LocalArtifactRepository((_root(tracking) / path).as_uri(), tracking, registry_uri)


# The only way to tell MLflow. It changes nothing that worked before: without a server this
# scheme is an error.
artifact_repository_registry._artifact_repository_registry.register(  # type: ignore[no-untyped-call]
    "mlflow-artifacts", _served
)
