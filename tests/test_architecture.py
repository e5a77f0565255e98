"""The shape of the house: who may import whom, how long a file may be, what a task must say."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LAYERS = ["fedcore", "tasks", "flows", "deployments"]
FORBIDDEN = {
    "fedcore": {"prefect", "mlflow", "tasks", "flows", "deployments"},
    "tasks": {"flows", "deployments"},
    "flows": {"mlflow", "deployments"},
    "deployments": set(),
}
FILES = [path for layer in LAYERS for path in sorted((ROOT / layer).rglob("*.py"))]
NAMES = [str(path.relative_to(ROOT)) for path in FILES]


def imported(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: imports are absolute"
            found.add(node.module)
    return found


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_imports_go_one_way(path):
    layer = path.relative_to(ROOT).parts[0]
    tops = {name.split(".")[0] for name in imported(path)}
    assert not tops & (FORBIDDEN[layer] | {"tests"})
    if "tracking" not in path.parts:
        allowed = {"mlflow"} if path == ROOT / "deployments/mlflow_server.py" else set()
        assert "mlflow" not in tops - allowed, "only tasks/tracking imports mlflow"


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_files_stay_small(path):
    lines = len(path.read_text().splitlines())
    assert lines <= (60 if path == ROOT / "flows/round.py" else 400)


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_no_file_is_named_like_a_library_or_like_nothing(path):
    vague = {"utils", "helpers", "common", "base", "misc"}
    assert path.stem not in vague
    if path.stem != "__init__":
        assert path.stem not in {"prefect", "mlflow", "torch", "types", "typing"}


def test_fedcore_brings_neither_prefect_nor_mlflow():
    code = (
        "import fedcore.simulation, fedcore.reference, fedcore.checkpoint, sys; "
        "print([m for m in ('prefect', 'mlflow') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_settings_are_checked_without_torch():
    code = "import fedcore.settings, deployments.cli, sys; print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"


def test_no_task_hashes_its_arguments_or_takes_a_lease():
    """Hashing 50 MB of inputs costs 0.36 s a call; any tag costs a call to the server."""
    from prefect import Task
    from prefect.cache_policies import NO_CACHE

    tasks = [
        found
        for path in sorted((ROOT / "tasks").glob("*.py"))
        for found in vars(importlib.import_module(f"tasks.{path.stem}")).values()
        if isinstance(found, Task)
    ]
    assert len(tasks) >= 5
    for found in tasks:
        assert found.cache_policy == NO_CACHE
        assert not found.tags
        assert not found.persist_result


@pytest.mark.parametrize("name", ["fedcore", "fedcore.settings", "fedcore.data", "fedcore.values"])
def test_what_a_module_says_it_exports_is_there(name):
    module = importlib.import_module(name)
    missing = [public for public in module.__all__ if not hasattr(module, public)]
    assert not missing
    assert sorted(module.__all__) == list(module.__all__) or name == "fedcore.data"


def test_no_any_in_public_signatures():
    offenders = []
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
                annotations = [a.annotation for a in node.args.args + node.args.kwonlyargs]
                annotations.append(node.returns)
                for annotation in filter(None, annotations):
                    names = {n.id for n in ast.walk(annotation) if isinstance(n, ast.Name)}
                    if "Any" in names:
                        offenders.append(f"{path.relative_to(ROOT)}:{node.lineno} {node.name}")
    assert not offenders
