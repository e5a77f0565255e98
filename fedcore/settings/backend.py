"""Where the workers' verbs run: threads of this process, or the processes of Dask or Ray."""

from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from fedcore.settings.choice import Settings, by_kind

__all__ = ["Backend", "Dask", "Ray", "Threads"]


class Threads(Settings):
    """Threads of the training's own process; nothing is written but checkpoints."""

    kind: Literal["threads"] = "threads"


class _Processes(Settings):
    """What Dask and Ray have in common."""

    address: str | None = None
    processes: int = Field(2, ge=1, le=1000)
    """Processes of the cluster that the training starts for itself, where no address is given."""
    store: str | None = None
    """fsspec URL of a folder that all processes can write to; none: in FEDROUNDS_HOME."""

    @field_validator("address", "store")
    @classmethod
    def _nothing_secret(cls, given: str | None) -> str | None:
        # Settings are shown in Prefect and MLflow.
        if given is not None and "@" in urlsplit(given).netloc:
            raise ValueError("must hold no password: give it in the environment")
        return given

    @field_validator("store")
    @classmethod
    def _seen_by_others(cls, given: str | None) -> str | None:
        scheme = (given or "").partition(":")[0]
        if scheme in ("live", "memory"):
            raise ValueError("must be a folder that other processes see too, like s3://bucket/path")
        return given


class Dask(_Processes):
    """Processes of a Dask cluster, here or on other machines."""

    kind: Literal["dask"] = "dask"
    address: str | None = None
    """Its scheduler, like tcp://10.0.0.7:8786; none: a cluster of its own for each training."""


class Ray(_Processes):
    """Processes of a Ray cluster, here or on other machines."""

    kind: Literal["ray"] = "ray"
    address: str | None = None
    """Its head, like ray://10.0.0.7:10001; none: a cluster of its own for each training."""


Backend = Annotated[Threads | Dask | Ray, by_kind(Threads, Dask, Ray)]
