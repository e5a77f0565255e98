"""The models in MLflow work where nothing of fedrounds is."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fedcore.initial import load_into
from fedcore.models import Blueprint, build
from fedcore.settings.model import Cnn, CustomModel, Linear, Logistic, Mlp
from tasks import tracking
from tasks.tracking.server import client

Begin = Callable[..., Any]

# Loads a model as somebody would who has mlflow and torch, and none of our code.
STRANGER = """
import json, sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("fedcore", "tasks", "flows", "deployments", "prefect"):
            raise ImportError(f"{name} is not there")
sys.meta_path.insert(0, Blocker())
try:
    import fedcore
except ImportError:
    pass
else:
    raise SystemExit("fedcore must not be importable here")
import mlflow, numpy as np, torch
mlflow.set_tracking_uri(sys.argv[1])
asked = json.loads(sys.argv[3])
plain, torched = mlflow.pyfunc.load_model(sys.argv[2]), mlflow.pytorch.load_model(sys.argv[2])
answers = []
for inputs in asked:
    inputs = np.array(inputs, dtype=np.float32)
    answers.append(plain.predict(inputs).tolist())
    answers.append(torched(torch.from_numpy(inputs)).tolist())
print(json.dumps(answers))
"""


def as_stranger(uri: str, inputs: list[Any], folder: Path) -> list[Any]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW", "PYTHON"))}
    done = subprocess.run(
        [sys.executable, "-I", "-c", STRANGER, tracking.tracking_uri(), uri, json.dumps(inputs)],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return list(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize(
    "model", [Mlp(hidden=[4], dropout=0.5), Cnn(channels=[2]), Logistic(), Linear()], ids=repr
)
def test_any_built_in_model_is_exported_for_any_batch(
    place: Path, begin: Begin, model: Any
) -> None:
    inputs = (1, 8, 8) if isinstance(model, Cnn) else (6,)
    blueprint = Blueprint(model, inputs, outputs=3, classes=3)
    training = begin(rounds=2, blueprint=blueprint)
    logged = tracking.log_models(
        training.run, training.records, blueprint=blueprint, folder=training.folder
    )
    assert logged.warning == ""
    assert (logged.best_round, logged.final_round) == (2, 2)
    assert logged.best != logged.final


def test_a_model_works_without_our_code(place: Path, begin: Begin, tmp_path: Path) -> None:
    blueprint = Blueprint(Mlp(hidden=[4], dropout=0.5), inputs=(6,), outputs=3, classes=3)
    training = begin(rounds=5, blueprint=blueprint)
    logged = tracking.log_models(
        training.run, training.records, blueprint=blueprint, folder=training.folder
    )
    assert (logged.best_round, logged.final_round) == (3, 5)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    batches = [
        torch.randn(count, 6, generator=torch.Generator().manual_seed(1)) for count in (1, 5)
    ]
    for round, model_id in ((3, logged.best), (5, logged.final)):
        module = build(blueprint)
        load_into(module, training.folder.load(round).model)
        module.eval()
        wanted = [module(batch).detach().numpy() for batch in batches for _ in range(2)]
        given = as_stranger(f"models:/{model_id}", [b.tolist() for b in batches], elsewhere)
        for answer, right in zip(given, wanted, strict=True):
            np.testing.assert_allclose(answer, right, rtol=1e-5, atol=1e-6)


def test_models_are_logged_once_and_carry_their_rounds_metrics(place: Path, begin: Begin) -> None:
    blueprint = Blueprint(Mlp(hidden=[4]), inputs=(6,), outputs=3, classes=3)
    training = begin(rounds=4, blueprint=blueprint)
    tracking.log_history(training.run, training.records)
    first = tracking.log_models(
        training.run, training.records, blueprint=blueprint, folder=training.folder
    )
    assert first == tracking.log_models(
        training.run, training.records, blueprint=blueprint, folder=training.folder
    )
    mlflow = client()
    found = mlflow.search_logged_models([training.run.experiment_id])
    assert sorted((m.name, m.tags["fedrounds.round"], str(m.status)) for m in found) == [
        ("best", "3", "READY"),
        ("final", "4", "READY"),
    ]
    best = mlflow.get_logged_model(first.best)
    assert best.source_run_id == training.run.id
    assert {m.key: m.value for m in best.metrics} == training.records[2].metrics
    for name in training.records[0].metrics:
        assert training.points(name) == training.expected(name)
    outputs = mlflow.get_run(training.run.id).outputs.model_outputs
    assert {o.model_id for o in outputs} == {first.best, first.final}


def test_a_resumed_training_logs_its_new_final_model(place: Path, begin: Begin) -> None:
    blueprint = Blueprint(Mlp(hidden=[4]), inputs=(6,), outputs=3, classes=3)
    training = begin(rounds=3, blueprint=blueprint)
    first = tracking.log_models(
        training.run, training.records, blueprint=blueprint, folder=training.folder
    )
    training.round()
    second = tracking.log_models(
        training.run, training.records, blueprint=blueprint, folder=training.folder
    )
    assert first.best == second.best
    assert first.final != second.final


def test_a_model_that_is_no_graph_gives_a_warning(
    place: Path, monkeypatch: pytest.MonkeyPatch, begin: Begin
) -> None:
    (place / "branching_model.py").write_text(
        "import torch\n"
        "class Branching(torch.nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.line = torch.nn.Linear(6, 3)\n"
        "    def forward(self, x):\n"
        "        return self.line(x) if x.sum() > 0 else -self.line(x)\n"
    )
    monkeypatch.syspath_prepend(place)
    custom = CustomModel(entrypoint="branching_model:Branching")
    blueprint = Blueprint(custom, inputs=(6,), outputs=3, classes=3)
    training = begin(rounds=2, blueprint=blueprint)
    logged = tracking.log_models(
        training.run, training.records, blueprint=blueprint, folder=training.folder
    )
    assert (logged.best, logged.final) == ("", "")
    assert "must export with torch.export" in logged.warning
    assert "\n" not in logged.warning
    assert client().search_logged_models([training.run.experiment_id]) == []


def test_models_go_through_a_server(server: Any, begin: Begin) -> None:
    blueprint = Blueprint(Linear(), inputs=(6,), outputs=3, classes=3)
    training = begin(rounds=1, blueprint=blueprint)
    logged = tracking.log_models(
        training.run, training.records, blueprint=blueprint, folder=training.folder
    )
    tracking.finish(training.run, "FINISHED")
    assert client().get_logged_model(logged.final).status == "READY"
    assert client().list_logged_model_artifacts(logged.final)


def test_nothing_is_printed(tmp_path: Path) -> None:
    code = """
from tasks import tracking
from fedcore.settings import TrainingConfig
from fedcore.settings.model import Mlp
from fedcore.models import Blueprint
from fedcore.checkpoint import RunFolder
from fedcore.initial import initial_state
from fedcore.values import Contribution, Contributions, ServerState
config = TrainingConfig()
blueprint = Blueprint(Mlp(), inputs=(6,), outputs=3, classes=3)
tracking.warm_up()
run = tracking.start_run(config, kind="federated", descriptions=[])
folder = RunFolder.of(run.id)
folder.create(config)
who = Contributions.of([Contribution("a", 1, {"loss": 1, "seen": 1})])
state = ServerState(0, initial_state(blueprint, seed=0), counted=who)
state = state.finish({"train_loss": 1.0}, timestamp_ms=1, missing={})
folder.save(state)
assert tracking.Tracker(run, folder).settle([state.record]) == ""
assert tracking.log_models(run, [state.record], blueprint=blueprint, folder=folder).final
tracking.finish(run, "FINISHED", records=[state.record])
"""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MLFLOW")}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**environment, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
