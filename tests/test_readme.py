"""The README does what it says: its Python, its commands, its tables, its links."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest
import typer.main
from pydantic import BaseModel

from deployments.cli import app
from fedcore.errors import ConfigError
from fedcore.settings import TrainingConfig, configured, parse, read

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
CONFIGS = ROOT / "deployments/configs"
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, re.DOTALL)
FILES = dict(re.findall(r"`([\w.]+)`:\n\n```\w+\n(.*?)```", README, re.DOTALL))

# What the PySyft tutorial, part 2, printed: bob, alice, bob, alice, ...
SEED = [
    "0.2889",
    "4.6312",
    "1.6807",
    "0.8786",
    "1.0805",
    "0.4585",
    "0.6363",
    "0.2632",
    "0.3731",
    "0.1522",
    "0.2191",
    "0.0881",
    "0.1290",
    "0.0511",
    "0.0761",
    "0.0296",
    "0.0451",
    "0.0172",
    "0.0268",
    "0.0100",
]

# Runs blocks one after the other, as a reader would, where prefect and mlflow cannot be imported.
RUNNER = """
import contextlib, io, json, sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("prefect", "mlflow"):
            raise ImportError(f"{name} is blocked here")

sys.meta_path.insert(0, Blocked())
for blocked in ("prefect", "mlflow"):
    try:
        __import__(blocked)
    except ImportError:
        continue
    sys.exit("the blocker does not block")
printed, names = [], {"__name__": "__main__"}
for block in json.loads(sys.stdin.read()):
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(compile(block, "README.md", "exec"), names)
    printed.append(out.getvalue())
print(json.dumps(printed))
"""


def run_blocks(blocks: list[str], *, cwd: Path) -> list[str]:
    """What each block prints."""
    done = subprocess.run(
        [sys.executable, "-P", "-W", "error", "-c", RUNNER],
        input=json.dumps(blocks),
        cwd=cwd,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with the files that the README shows."""
    path = tmp_path_factory.mktemp("readme")
    for name, content in FILES.items():
        (path / name).write_text(content)
    return path


def test_python_prints_what_the_readme_shows_without_prefect_and_mlflow(folder):
    blocks = [content for language, content in BLOCKS if language == "python"]
    assert len(blocks) == 3
    printed = run_blocks(blocks, cwd=folder)
    assert re.findall(r"\d+\.\d{4}", printed[0]) == SEED
    for block, out in zip(blocks, printed, strict=True):
        after = README.partition(block)[2].removeprefix("```").lstrip()
        if out:
            assert after.startswith(f"```text\n{out}```")


def test_bob_and_alice_take_about_twenty_lines():
    first = next(content for language, content in BLOCKS if language == "python")
    assert len([line for line in first.splitlines() if line.strip()]) <= 20


def test_a_model_and_data_of_ones_own_train(folder):
    assert set(FILES) == {"visits.csv", "my_models.py", "visits.yaml"}
    code = (
        "from pathlib import Path\n"
        "from fedcore import simulate\n"
        "from fedcore.settings import configured\n"
        "for state in simulate(configured(Path('visits.yaml'), [])):\n"
        "    print(state.round, *(c.worker for c in state.record.contributions))"
    )
    (printed,) = run_blocks([code], cwd=folder)
    assert printed.splitlines() == [
        f"{round} hospital-north hospital-south hospital-west" for round in range(1, 6)
    ]


def commands(language: str) -> list[list[str]]:
    """The command lines of all blocks of a language, split into words."""
    lines = [
        line.removeprefix("$ ")
        for found, content in BLOCKS
        if found == language
        for line in content.splitlines()
    ]
    return [shlex.split(line.replace("<", "").replace(">", "")) for line in lines]


@pytest.mark.parametrize(
    "words", [w for w in commands("console") if w[0] == "fedrounds"], ids=" ".join
)
def test_commands_exist_and_their_settings_hold(words, folder, monkeypatch):
    monkeypatch.chdir(folder)
    command = typer.main.get_command(app).commands[words[1]]
    given = command.make_context(words[1], words[2:]).params
    if words[1] not in ("train", "centralised"):
        return
    name = given["name"] or "digits"
    file = CONFIGS / f"{name}.yaml" if (CONFIGS / f"{name}.yaml").exists() else Path(name)
    try:
        configured(file, given["changes"] or [])
        said = ""
    except ConfigError as error:
        said = f"fedrounds: {error}\n"
    # The one that shows mistakes shows their messages below it.
    after = README.partition(" ".join(words))[2].removeprefix("\n```").lstrip()
    assert not said or after.startswith(f"```text\n{said}```")


def test_make_has_the_targets_that_are_named():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    named = set(re.findall(r"`make (\w+)`", README)) | {
        words[1] for words in commands("console") if words[0] == "make"
    }
    assert named >= {"run", "test"}
    for target in named:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)


def kinds(annotation: object) -> list[str]:
    """The kinds of a choice."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return list(get_args(annotation.model_fields["kind"].annotation))
    return [kind for inner in get_args(annotation) for kind in kinds(inner)]


def test_the_table_of_what_is_in_the_box_is_complete():
    import fedcore.settings as settings
    from fedcore.settings.aggregators import AggregatorSettings
    from fedcore.settings.backend import Backend
    from fedcore.settings.training import Optimiser, Schedule, Workers

    rows = dict(re.findall(r"^\| ([a-z ]+) \| (`.*) \|$", README, re.MULTILINE))
    there = {
        "data sources": settings.Source,
        "partitions": settings.Partition,
        "models": settings.Model,
        "initial weights": settings.Initial,
        "losses": settings.Loss,
        "metrics": settings.Metric,
        "local optimisers": Optimiser,
        "learning rate schedules": Schedule,
        "strategies": settings.StrategySettings,
        "aggregators": AggregatorSettings,
        "samplings": settings.Sampling,
        "backends": Backend,
        "workers": Workers,
    }
    assert set(rows) == set(there)
    for name, choice in there.items():
        assert sorted(re.findall(r"`(\w+)`", rows[name])) == sorted(kinds(choice)), name


def test_the_limits_are_those_of_the_settings():
    fields = TrainingConfig.model_fields
    assert get_args(fields["disclosure"].annotation) == ("open",)
    assert kinds(fields["workers"].annotation) == ["virtual", "simulated", "grouped"]


def test_make_run_trains_what_the_readme_says():
    config = parse(read(CONFIGS / "digits.yaml"))
    assert (config.rounds, config.workers.count, config.strategy.kind) == (12, 10, "fedavg")
