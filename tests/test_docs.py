"""The pages beside the README: links, names, the generated page, the strategy in eight lines."""

import re
import runpy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from fedcore import Dataset, VirtualWorker, parse, simulate
from fedcore.aggregators.aggregator import NOTHING, Context
from fedcore.data import deal
from fedcore.errors import Diverged
from fedcore.federation import found, found_with, pool
from fedcore.rules import Proximal
from fedcore.servers import sgd
from fedcore.simulation import rounds
from fedcore.strategy import Strategy
from fedcore.totals import Total
from fedcore.trees import same
from fedcore.values import Contribution, Contributions, ModelState, Sealed, Ticket

ROOT = Path(__file__).parents[1]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def anchors(page: Path) -> set[str]:
    """What headings can be linked to by, as the pages are shown."""
    headings = re.findall(r"^#+ (.*)$", text_of(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)\s]+)\)|<img[^>]*src=\"([^\"]+)\"", text_of(page)):
        target = "".join(link)
        if target.startswith("https://"):
            continue
        path, _, anchor = target.partition("#")
        there = page.parent / path if path else page
        assert there.exists(), f"{page.name}: {target}"
        if anchor:
            assert anchor in anchors(there), f"{page.name}: {target}"


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_files_that_are_named_exist(page):
    named = re.findall(
        r"`((?:fedcore|tasks|flows|deployments|tests|docs)/[\w./-]*)`", text_of(page)
    )
    missing = [name for name in named if not (ROOT / name).exists()]
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_pages_use_our_words(page):
    # Small letters only: titles of papers have their own words.
    found = re.findall(r"\b(?:clients?|patients?|nodes?|silos?)\b", text_of(page))
    assert not found


def test_the_reference_of_settings_is_up_to_date():
    made = runpy.run_path(str(ROOT / "docs/make_reference.py"))["reference"]()
    assert text_of(ROOT / "docs/settings.md") == made, "run: python docs/make_reference.py"


def test_every_variable_of_the_environment_is_in_the_reference():
    code = "\n".join(text_of(p) for p in ROOT.glob("[dft]*/**/*.py") if "tests" not in p.parts)
    ours = set(re.findall(r"\"(FEDROUNDS_[A-Z_]+)\"", code))
    page = text_of(ROOT / "docs/settings.md")
    assert ours
    assert not [name for name in ours if f"`{name}`" not in page]


def test_what_a_run_shows_is_explained():
    page = text_of(ROOT / "docs/reading-a-run.md")
    (state,) = simulate(parse({"rounds": 1, "local": {"epochs": 1}}))
    for metric in state.record.metrics:
        assert f"`{metric}`" in page, metric
    runs, report, verbs = (
        text_of(ROOT / name)
        for name in ("tasks/tracking/runs.py", "tasks/report.py", "tasks/verbs.py")
    )
    for key in re.findall(r"key=\"([\w-]+)\"", report):
        assert f"`{key}`" in page, key
    for tag in re.findall(r"\"((?:fedrounds|prefect)\.\w+)\"", runs):
        assert f"`{tag}`" in page, tag
    names = re.findall(r"task_run_name=\"([^\"]+)\"", verbs)
    assert len(names) >= 5
    for name in names:
        shown = re.sub(r"\{\w+\.id\}", "bob", re.sub(r"r\{.*?:03d\}", "r007", name))
        assert f"`{shown}`" in page, name


def test_a_float32_delta_does_not_lead_back_to_the_trained_weights():
    """docs/decisions/0002: why updates carry trained weights."""
    local = {"epochs": 2, "learning_rate": 0.1, "optimiser": {"kind": "momentum"}}
    config = parse({"rounds": 1, "local": local})
    federation = pool(config)
    sent = federation.start.model.tensors
    (trained,) = rounds(federation.named("trained", attempt=1))
    far, elements, differ = 0.0, 0, 0
    for name, wanted in trained.model.tensors.items():
        back = sent[name] + (wanted - sent[name])
        a, b = back.numpy(), wanted.numpy()
        unit = np.spacing(np.maximum(np.abs(a), np.abs(b)))
        far = max(far, float(np.max(np.abs(a.astype(float) - b.astype(float)) / unit)))
        elements, differ = elements + back.numel(), differ + int((back != wanted).sum())
    assert far > 100
    assert differ / elements > 0.01


# The strategy that CONTRIBUTING adds.

CONTRIBUTED = re.findall(r"```python\n(.*?)```", text_of(ROOT / "CONTRIBUTING.md"), re.DOTALL)


@pytest.fixture(scope="module")
def contributed() -> dict[str, object]:
    """The names that CONTRIBUTING's lines define, given those that it says they need."""
    names: dict[str, object] = {
        "Context": Context,
        "NOTHING": NOTHING,
        "Proximal": Proximal,
        "Strategy": Strategy,
        "Tensor": Tensor,
        "VirtualWorker": VirtualWorker,
        "deal": deal,
        "found_with": found_with,
        "parse": parse,
        "rounds": rounds,
        "sgd": sgd,
    }
    exec(CONTRIBUTED[0], names)
    return names


@pytest.fixture
def strategy(contributed):
    return contributed["signsgd"]()


def state_of_three(strategy):
    return strategy.init(
        ModelState({"w": torch.tensor([1.0, 2.0])}, {"count": torch.tensor(7)}),
    )


def total(*rows, weights=None):
    who = Contributions.of(
        Contribution(f"w{i}", weight, {"loss": 1.0, "seen": 1.0})
        for i, weight in enumerate(weights or [1.0] * len(rows))
    )
    sealed = Sealed(Ticket("run", 1), who, rows=torch.tensor(rows))
    return Total.of([sealed], answer="rows", weightings=())


@pytest.fixture(scope="module")
def terms():
    return found(parse({})).terms


def test_it_takes_eight_lines():
    assert len([line for line in CONTRIBUTED[0].splitlines() if line.strip()]) <= 8
    assert max(len(line) for line in CONTRIBUTED[0].splitlines()) <= 100


def test_the_contributed_strategy_learns_the_digits(contributed, capsys):
    exec(CONTRIBUTED[1], contributed)
    accuracies = [float(line.split()[1]) for line in capsys.readouterr().out.splitlines()]
    assert len(accuracies) == 3
    assert accuracies[-1] > 0.8


def test_the_contributed_strategy_keeps_the_contract(strategy, terms):
    state, given = state_of_three(strategy), total([1.5, 2.0], [4.0, 0.0], [2.0, 1.0])
    before = {name: tensor.clone() for name, tensor in state.model.tensors.items()}
    once = strategy.apply(state, given, terms=terms)
    assert once == strategy.apply(state, given, terms=terms)
    assert same(before, state.model.tensors)
    assert once.model.parameters["w"].tolist() == pytest.approx([1.03, 1.97])
    assert once.model.buffers["count"].item() == 7
    assert [c.worker for c in once.counted] == ["w0", "w1", "w2"]
    scaled = strategy.apply(
        state,
        replace(given, contributions=total(*[[0.0]] * 3, weights=[9.0, 1.0, 5.0]).contributions),
        terms=terms,
    )
    assert scaled.model == once.model
    with pytest.raises(Diverged, match=r"NaN or infinity in w\. The global model is unchanged"):
        strategy.apply(state, total([1.0, 2.0], [float("nan"), 0.0]), terms=terms)
    assert " et al. " in (strategy.aggregator.__doc__ or "")


def test_each_part_of_the_contributed_strategy_counts(contributed, terms):
    one = total([1.5, 4.0])
    make = contributed["signsgd"]
    half = make(lr=0.5)
    moved = half.apply(state_of_three(half), one, terms=terms).model.parameters["w"]
    assert moved.tolist() == [1.5, 2.5]
    assert make(mu=0.1).rule == Proximal(0.1)
    rows = torch.tensor([[5.0], [-1.0], [3.0], [-100.0], [0.1]], dtype=torch.float64)
    assert contributed["majority"](rows, torch.ones(5)).tolist() == [1.0]
    assert contributed["majority"](-rows, torch.ones(5)).tolist() == [-1.0]


def test_the_contributed_strategy_is_a_setting(tmp_path, monkeypatch, terms):
    monkeypatch.chdir(tmp_path)
    lines = [
        line for line in text_of(ROOT / "CONTRIBUTING.md").splitlines() if "entrypoint" in line
    ]
    assert any("strategy.entrypoint=your.module:signsgd" in line for line in lines)
    head = (
        "from torch import Tensor\n"
        "from fedcore.aggregators.aggregator import NOTHING, Context\n"
        "from fedcore.rules import Proximal\n"
        "from fedcore.servers import sgd\n"
        "from fedcore.strategy import Strategy\n"
    )
    (tmp_path / "voting.py").write_text(head + CONTRIBUTED[0])
    custom = {"kind": "custom", "entrypoint": "voting:signsgd", "arguments": {"lr": 0.5}}
    made = found(parse({"strategy": custom})).strategy
    moved = made.apply(state_of_three(made), total([1.5, 4.0]), terms=terms)
    assert moved.model.parameters["w"].tolist() == [1.5, 2.5]


def test_a_broken_worker_does_not_carry_the_contributed_strategy_away(contributed):
    """What the vote is for: a worker whose records are scaled out of all reason."""
    nine = {"kind": "virtual", "count": 9, "partition": {"kind": "iid"}}
    config = parse({"rounds": 3, "local": {"epochs": 1}, "workers": nine})
    dealt = deal(config.data, config.workers, config.model.loss, seed=config.seed)
    records = {
        id: Dataset(data.features * (1000 if id == "worker-1" else 1), data.targets, data.classes)
        for id, data in dealt.workers.items()
    }
    workers = [VirtualWorker.holding(id, data) for id, data in records.items()]
    reached = {}
    for strategy in (contributed["signsgd"](), Strategy("fedavg")):
        federation = found_with(config, workers, strategy, sample=dealt.pooled, test=dealt.test)
        *_, last = rounds(federation.named(strategy.name, attempt=1))
        reached[strategy.name] = last.record.metrics["test_accuracy"]
    assert reached["signsgd"] > 0.8 > reached["fedavg"]
