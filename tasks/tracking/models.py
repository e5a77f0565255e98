"""The best and the final model as MLflow models that need neither fedrounds nor the model's code.

They are exported graphs (torch.export), so a process with mlflow and torch alone loads and runs
them, and loading executes no pickle.
"""

import contextlib
import logging
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import mlflow as mlflow_package
import numpy as np
import torch
from mlflow import MlflowClient
from mlflow.entities import LoggedModel, LoggedModelOutput, LoggedModelStatus, Metric
from mlflow.models import Model, ModelSignature
from mlflow.types.schema import Schema, TensorSpec
from torch import nn

from fedcore.checkpoint import RunFolder
from fedcore.initial import load_into
from fedcore.models import Blueprint, build
from fedcore.settings.model import Linear
from fedcore.values import ModelState, RoundRecord
from tasks.tracking.apart import ProcessLost, alone_in_process, apart
from tasks.tracking.rounds import log_metrics
from tasks.tracking.runs import Run
from tasks.tracking.server import TROUBLE, client
from tasks.tracking.summary import best_record

__all__ = ["LoggedModels", "log_models", "warm_up"]

EXAMPLES = 3
"""torch.export takes a batch of 1 for a constant; zeros, because no record may leave."""
TRIED = (1, 5)
TOLERANCE = 1e-4
"""Relative; a fused kernel may round another way."""
ROUND, DIGEST = "fedrounds.round", "fedrounds.model_digest"


@dataclass(frozen=True)
class LoggedModels:
    """The logged models' ids, and which rounds they are of."""

    best_round: int
    final_round: int
    best: str = ""
    final: str = ""
    warning: str = ""
    """Why there are none; the rounds' safetensors files are there all the same."""


def log_models(
    run: Run, records: Sequence[RoundRecord], *, blueprint: Blueprint, folder: RunFolder
) -> LoggedModels:
    """Log the models `best` (smallest test_loss, else train_loss) and `final`, each only once.

    A model that cannot be exported gives a warning, not an error. MLflow's own trouble is raised,
    see `attempt`.
    """
    best, final = best_record(records), records[-1]
    logged: dict[str, str] = {}
    try:
        for name, record in (("best", best), ("final", final)):
            logged[name] = _log(run, record, folder, name=name, blueprint=blueprint)
    except _ExportError as error:
        return LoggedModels(best.round, final.round, warning=str(error))
    return LoggedModels(best.round, final.round, **logged)


def warm_up(*, beside_others: bool = False) -> None:
    """Do early, in a thread with time to spare, what the first `log_models` would wait for.

    torch.export imports a symbolic algebra system and a compiler: 1.5 seconds of a core.
    `beside_others`: trainings will run in threads, so the process beside this one is warmed up.
    """
    if beside_others:
        apart(warm_up)
        return
    with tempfile.TemporaryDirectory() as temporary:
        tiny = Blueprint(Linear(), inputs=(1,), outputs=1, classes=0)
        _save(build(tiny).eval(), Path(temporary, "model"), Model(), blueprint=tiny)


class _ExportError(Exception):
    """torch.export cannot turn the model into a graph, or the graph is not the model."""


def _log(
    run: Run, record: RoundRecord, folder: RunFolder, *, name: str, blueprint: Blueprint
) -> str:
    mlflow = client()
    tags = {ROUND: str(record.round), DIGEST: folder.load(record.round).model.digest}
    for known in _earlier(mlflow, run, name):
        if known.status == LoggedModelStatus.READY and tags.items() <= known.tags.items():
            return str(known.model_id)
    with tempfile.TemporaryDirectory() as temporary:
        # Exported before MLflow is told: what cannot be exported leaves no half a model there.
        draft = Path(temporary, "model")
        _export(run.id, folder, record.round, path=draft, blueprint=blueprint)
        made = mlflow.create_logged_model(
            run.experiment_id, name, source_run_id=run.id, tags=tags, model_type="pytorch"
        )
        description = Model.load(str(draft))
        description.model_id = made.model_id
        description.artifact_path = made.artifact_location
        description.save(str(draft / "MLmodel"))
        mlflow.log_model_artifacts(made.model_id, str(draft))
    mlflow.finalize_logged_model(made.model_id, LoggedModelStatus.READY)
    mlflow.log_outputs(run.id, [LoggedModelOutput(made.model_id, step=record.round)])
    # The same points as on the run, now also the model's, so that models can be ranked by them.
    log_metrics(
        run.id,
        [
            Metric(key, value, record.timestamp_ms, record.round, model_id=made.model_id)
            for key, value in record.metrics.items()
        ],
    )
    return str(made.model_id)


def _earlier(mlflow: MlflowClient, run: Run, name: str) -> Sequence[LoggedModel]:
    found: Sequence[LoggedModel] = mlflow.search_logged_models(
        [run.experiment_id], f"source_run_id = '{run.id}' and name = '{name}'"
    )
    return found


def _export(run: str, folder: RunFolder, round: int, *, path: Path, blueprint: Blueprint) -> None:
    """Write a round's model as an MLflow model, in a process where nothing else trains."""
    if not alone_in_process():
        try:
            return apart(_export, run, folder, round, path=path, blueprint=blueprint)
        except ProcessLost:
            raise _ExportError(
                "A model must export with torch.export to be logged in MLflow; given: one whose "
                "export ended its process; the safetensors file of every round is there."
            ) from None
    module = _module(blueprint, folder.load(round).model)
    _save(module, path, Model(run_id=run), blueprint=blueprint)
    return None


def _module(blueprint: Blueprint, state: ModelState) -> nn.Module:
    module = build(blueprint)
    load_into(module, state)
    return module.eval()


def _save(module: nn.Module, path: Path, description: Model, *, blueprint: Blueprint) -> None:
    from mlflow import pytorch  # see `warm_up`

    example = torch.zeros(EXAMPLES, *blueprint.inputs)
    try:
        with torch.no_grad(), _quiet():
            answer = module(example)
            pytorch.save_model(
                module,
                str(path),
                mlflow_model=description,
                signature=ModelSignature(
                    Schema([TensorSpec(np.dtype(np.float32), (-1, *blueprint.inputs))]),
                    Schema([TensorSpec(answer.numpy().dtype, (-1, *answer.shape[1:]))]),
                ),
                input_example=example.numpy(),
                pip_requirements=_requirements(),
                serialization_format="pt2",
            )
            _compare(module, path, blueprint)
    except _ExportError:
        raise
    except TROUBLE:
        raise
    except Exception as error:  # whatever a model of the user's own and torch.export can raise
        reason = (str(error).strip().splitlines() or [""])[0][:200]
        raise _ExportError(
            "A model must export with torch.export to be logged in MLflow; given: "
            f"{blueprint.model.kind}, which does not ({type(error).__name__}: {reason}); "
            "the safetensors file of every round is there, or change what depends on data in "
            "its forward."
        ) from None


def _compare(module: nn.Module, path: Path, blueprint: Blueprint) -> None:
    """A graph that was traced with three records must give the model's answers for any number."""
    exported = torch.export.load(path / "data" / "model.pt2").module()
    for count in TRIED:
        stream = torch.Generator().manual_seed(count)
        inputs = torch.randn(count, *blueprint.inputs, generator=stream)
        wanted, given = module(inputs), exported(inputs)
        if not torch.allclose(wanted, given, rtol=TOLERANCE, atol=TOLERANCE):
            raise ValueError(f"the exported graph answers differently for {count} records")


def _requirements() -> list[str]:
    # `+cpu` and the like name a build, which no package index has under that name.
    torch_version = torch.__version__.partition("+")[0]
    return [f"mlflow=={mlflow_package.__version__}", f"torch=={torch_version}"]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's warnings and log lines from the terminal; failures are still raised."""
    loggers = [logging.getLogger(name) for name in ("mlflow", "torch", "torch.export")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
