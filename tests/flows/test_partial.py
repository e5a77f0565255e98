"""Training adapters only, as docs/personal-and-partial.md shows it: what files and MLflow hold."""

import re
import sys
from pathlib import Path

import mlflow
import torch
from mlflow import MlflowClient
from safetensors.torch import load_file

from fedcore.checkpoint import RunFolder
from fedcore.entrypoints import load_entrypoint

PAGE = (Path(__file__).parents[2] / "docs/personal-and-partial.md").read_text(encoding="utf-8")
FILES = dict(re.findall(r"`(adapters\.\w+)`:\n\n```\w+\n(.*?)```", PAGE, re.DOTALL))


def test_the_complete_model_is_in_checkpoints_files_and_mlflow(folder, monkeypatch):
    assert set(FILES) == {"adapters.py", "adapters.yaml"}
    for name, content in FILES.items():
        (folder.path / name).write_text(content)
    done = folder.train("adapters.yaml", "--set", "rounds=2")
    assert folder.run("model", done.run_id, "--output", "weights.safetensors").status == 0
    weights = load_file(folder.path / "weights.safetensors")

    home = folder.path / ".fedrounds" / done.run_id
    states = [RunFolder(home).load(round) for round in (0, 2)]
    for name, tensor in states[1].model.tensors.items():
        assert torch.equal(weights[name], tensor)
        assert torch.equal(tensor, states[0].model.tensors[name]) == (".base." in name), name
    assert states[1].model.digest == done.result["model_digest"]

    monkeypatch.chdir(folder.path)
    net = load_entrypoint("adapters:Net", what="the test")()
    monkeypatch.delitem(sys.modules, "adapters")
    net.load_state_dict(weights)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", folder.tracking_uri)
    mlflow.set_tracking_uri(folder.tracking_uri)
    tracked = MlflowClient(folder.tracking_uri)
    run = tracked.get_run(done.run_id)
    (final,) = (
        model
        for model in tracked.search_logged_models([run.info.experiment_id])
        if model.name == "final"
    )
    features = torch.randn(5, 64)
    loaded = mlflow.pytorch.load_model(final.model_uri)
    torch.testing.assert_close(loaded(features), net(features))

    adapters = sum(t.numel() * 4 for name, t in weights.items() if "lora" in name)
    assert run.data.metrics["bytes_up"] == run.data.metrics["bytes_down"] == 10 * adapters
