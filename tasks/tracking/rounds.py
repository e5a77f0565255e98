"""A training's rounds in MLflow: one batch of metrics each, and the model after each of them.

Every point carries the time that its round was finished, so telling it again changes nothing:
MLflow keeps an identical point once.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

from mlflow.entities import Metric
from safetensors.torch import save

from fedcore.errors import ConfigError, UnknownRun
from fedcore.values import ModelState, RoundRecord
from tasks.tracking.artifacts import artifact_sizes, read_artifact, write_file
from tasks.tracking.runs import FoundRun, Run
from tasks.tracking.server import TROUBLE, client, first_line, public, tracking_uri

__all__ = [
    "load_model_file",
    "log_history",
    "log_metrics",
    "log_picture",
    "log_round",
    "log_round_model",
    "model_bytes",
    "model_rounds",
]

METRICS_PER_BATCH = 1000
FOLDER = "rounds"


def log_round(run: Run, record: RoundRecord) -> None:
    """Log one round's metrics, in one batch."""
    log_history(run, [record])


def log_history(run: Run, records: Sequence[RoundRecord]) -> None:
    """Log many rounds' metrics: on resume, or after MLflow was away. Twice does no harm."""
    log_metrics(run.id, (metric for record in records for metric in _metrics(record)))


def _metrics(record: RoundRecord) -> list[Metric]:
    return [
        Metric(name, float(value), record.timestamp_ms, record.round)
        for name, value in record.metrics.items()
    ]


def log_metrics(run_id: str, metrics: Iterable[Metric]) -> None:
    """Log any number of points, in as few batches as MLflow allows."""
    mlflow, points = client(), list(metrics)
    for first in range(0, len(points), METRICS_PER_BATCH):
        mlflow.log_batch(run_id, points[first : first + METRICS_PER_BATCH])


def log_round_model(run: Run, round: int, model: ModelState) -> None:
    """Keep the model after a round as `rounds/round-00007.safetensors`: plain named tensors."""
    write_file(client(), run.id, f"{FOLDER}/{_name(round)}", model_bytes(model))


def model_bytes(model: ModelState) -> bytes:
    """The model's tensors by name, in a file that any safetensors reader opens."""
    tensors = {name: tensor.detach() for name, tensor in model.tensors.items()}
    if len({tensor.untyped_storage().data_ptr() for tensor in tensors.values()}) < len(tensors):
        # Tied weights share memory, which safetensors refuses to save side by side.
        tensors = {name: tensor.clone() for name, tensor in tensors.items()}
    return save(tensors)


def model_rounds(run: Run | FoundRun) -> dict[int, int]:
    """The rounds whose model MLflow has, ascending, with the size of its file in bytes."""
    sizes = artifact_sizes(client(), run.id, FOLDER)
    by_name = ((name.removeprefix("round-").removesuffix(".safetensors"), name) for name in sizes)
    return dict(sorted((int(n), sizes[name]) for n, name in by_name if n.isdecimal()))


def load_model_file(run: Run | FoundRun, round: int) -> bytes:
    """The safetensors file of the model after a round.

    Raises:
        UnknownRun: MLflow has no such round of this run; says which it has.
        ConfigError: MLflow does not answer.
    """
    try:
        there = model_rounds(run)
        if round in there:
            return read_artifact(client(), run.id, f"{FOLDER}/{_name(round)}")
    except TROUBLE as error:
        uri = tracking_uri()
        raise ConfigError(
            f"MLflow must hand out the model after round {round} of run {run.id}; {public(uri)} "
            f"did not: {first_line(error, uri).rstrip('. ')}; mend it and ask again."
        ) from error
    raise UnknownRun(
        f"The round must be one whose model is kept for run {run.id}; given: {round}; "
        + (f"choose from {_ranges(list(there))}." if there else "it has none yet, train it first.")
    )


def _ranges(rounds: list[int]) -> str:
    """Ascending numbers in short: 1 to 4, 7."""
    runs: list[list[int]] = []
    for round in rounds:
        if runs and round == runs[-1][-1] + 1:
            runs[-1].append(round)
        else:
            runs.append([round])
    return ", ".join(f"{r[0]} to {r[-1]}" if len(r) > 1 else str(r[0]) for r in runs)


def log_picture(run: Run, path: Path) -> None:
    """Keep a picture as `pictures/<its file name>`."""
    client().log_artifact(run.id, str(path), "pictures")


def _name(round: int) -> str:
    return f"round-{round:05d}.safetensors"
