"""Local training over flat vectors is the plain loop of torch, whatever the module is made of."""

import pytest
import torch
from torch import nn

from fedcore.data import Dataset
from fedcore.flat import flatten
from fedcore.initial import initial_state, state_of
from fedcore.local import module_for, train_locally
from fedcore.metrics import evaluate, predictions
from fedcore.models import blueprint, build
from fedcore.rules import Plain, Proximal
from fedcore.seeds import derive
from fedcore.settings import parse
from fedcore.settings.training import Adam, Momentum, Sgd
from fedcore.values import Brief, Plan, Ticket

MODELS = '''
import torch
from torch import nn

class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.into, self.back, self.out = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 3)
        self.back.weight = self.into.weight

    def forward(self, x):
        return self.out(self.back(torch.relu(self.into(x))))

class SameMemory(Tied):
    """Two parameters over one memory, as `a.weight.data = b.weight.data` makes them."""
    def __init__(self):
        super().__init__()
        self.back.weight = nn.Parameter(self.into.weight.data)

class Unused(nn.Module):
    def __init__(self):
        super().__init__()
        self.out, self.idle = nn.Linear(6, 3), nn.Linear(2, 2)

    def forward(self, x):
        return self.out(x)

class Frozen(nn.Module):
    def __init__(self):
        super().__init__()
        self.fixed, self.out = nn.Linear(6, 6), nn.Linear(6, 3)
        self.fixed.requires_grad_(False)

    def forward(self, x):
        return self.out(torch.tanh(self.fixed(x)))

class TwoTypes(nn.Module):
    def __init__(self):
        super().__init__()
        self.coarse, self.fine = nn.Linear(6, 6), nn.Linear(6, 3, dtype=torch.float64)

    def forward(self, x):
        return self.fine(torch.relu(self.coarse(x)).double())

class Norm(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Linear(6, 4), nn.BatchNorm1d(4), nn.Linear(4, 3))

class NewBuffer(nn.Module):
    """Puts another tensor in the place of its buffer at every batch."""
    def __init__(self):
        super().__init__()
        self.out = nn.Linear(6, 3)
        self.register_buffer("mean", torch.zeros(6))
        self.register_buffer("scratch", torch.zeros(1), persistent=False)

    def forward(self, x):
        if self.training:
            self.mean = 0.9 * self.mean + 0.1 * x.mean(dim=0)
        return self.out(x - self.mean)

class Double(nn.Linear):
    def __init__(self):
        super().__init__(6, 3, dtype=torch.float64)

    def forward(self, x):
        return super().forward(x.double())

class Images(nn.Module):
    def __init__(self, by_view=False):
        super().__init__()
        self.by_view = by_view
        self.first, self.norm = nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.second, self.out = nn.Conv2d(4, 6, 3), nn.Linear(6 * 4, 3)

    def forward(self, x):
        x = torch.relu(self.norm(self.first(x)))
        x = nn.functional.max_pool2d(self.second(x), 2)
        return self.out(x.view(len(x), -1) if self.by_view else x.flatten(1))
'''
FLAT = ["Tied", "Unused", "Frozen", "TwoTypes", "Norm", "NewBuffer", "Double"]
OPTIMISERS = {
    "sgd": (Sgd(), lambda p: torch.optim.SGD(p, lr=0.1, weight_decay=0.01)),
    "nesterov": (
        Momentum(momentum=0.9, nesterov=True),
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01),
    ),
    "adam": (Adam(), lambda p: torch.optim.Adam(p, lr=0.1, weight_decay=0.01, foreach=False)),
}


@pytest.fixture(autouse=True)
def models(tmp_path, monkeypatch):
    """The models above, importable by name from the working directory."""
    (tmp_path / "odd_models.py").write_text(MODELS)
    monkeypatch.chdir(tmp_path)


def records(count: int = 10, *inputs: int) -> Dataset:
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(count, *(inputs or (6,)), generator=generator)
    return Dataset(features, torch.randint(3, (count,), generator=generator), ("a", "b", "c"))


def brief_of(data: Dataset, model: dict[str, object], *, optimiser=Sgd(), **others) -> Brief:  # noqa: B008
    plan = {
        "epochs": 2, "steps": None, "batch_size": 4, "shuffle": True, "optimiser": optimiser,
        "learning_rate": 0.1, "weight_decay": 0.01, "clip_norm": None, "seed": 5, **others,
    }  # fmt: skip
    rule = plan.pop("rule", Plain())
    chosen = blueprint(parse({"model": model}).model, data)
    return Brief(Ticket("run", 3), initial_state(chosen, seed=0), chosen, rule, Plan(**plan))


def custom(name: str, **arguments: object) -> dict[str, object]:
    return {"kind": "custom", "entrypoint": f"odd_models:{name}", "arguments": arguments}


def plain_loop(brief: Brief, data: Dataset, make_optimiser) -> tuple[nn.Module, float]:
    """What any tutorial does: zero_grad, backward, step."""
    module = build(brief.blueprint, generator=derive(0, 0, "", "model"))
    optimiser = make_optimiser([p for p in module.parameters() if p.requires_grad])
    generator = derive(5, 3, "", "order")
    total = 0.0
    for _ in range(2):
        for batch in torch.randperm(len(data), generator=generator).split(4):
            # An unused parameter has a gradient of zeros, so it decays as all others do.
            optimiser.zero_grad(set_to_none=False)
            for p in module.parameters():
                p.grad = torch.zeros_like(p) if p.requires_grad else None
            loss = nn.functional.cross_entropy(module(data.features[batch]), data.targets[batch])
            loss.backward()
            optimiser.step()
            total += loss.item() * len(batch)
    return module, total


@pytest.mark.parametrize("optimiser", OPTIMISERS)
@pytest.mark.parametrize("name", FLAT)
def test_every_module_trains_as_in_a_plain_loop_to_the_last_bit(name, optimiser):
    settings, theirs = OPTIMISERS[optimiser]
    data = records()
    brief = brief_of(data, custom(name), optimiser=settings)
    found = train_locally(brief, data, worker="bob")
    module, total = plain_loop(brief, data, theirs)
    wanted = state_of(module).averaged
    assert list(found.trained) == list(wanted)
    for key, tensor in wanted.items():
        assert found.trained[key].dtype == tensor.dtype
        assert torch.equal(found.trained[key], tensor), key
    assert found.measures == {"loss": total, "seen": 20.0, "steps": 6.0}


def test_what_an_update_holds_is_not_the_modules_memory():
    data = records()
    brief = brief_of(data, custom("Norm"))
    first = train_locally(brief, data, worker="bob")
    kept = {name: tensor.clone() for name, tensor in first.trained.items()}
    again = train_locally(brief, data, worker="bob")
    train_locally(brief, records(7), worker="alice")
    for name, tensor in first.trained.items():
        assert torch.equal(tensor, kept[name])
        assert torch.equal(tensor, again.trained[name])


def test_a_frozen_parameter_stays_under_weight_decay_and_a_proximal_pull():
    data = records()
    brief = brief_of(data, custom("Frozen"), rule=Proximal(1.0), clip_norm=0.5)
    found = train_locally(brief, data, worker="bob").trained
    start = brief.model.parameters
    assert torch.equal(found["fixed.weight"], start["fixed.weight"])
    assert not torch.equal(found["out.weight"], start["out.weight"])


def test_two_parameters_over_one_memory_go_on_sharing_it():
    data = records()
    brief = brief_of(data, custom("SameMemory"), weight_decay=0.0)
    found = train_locally(brief, data, worker="bob").trained
    module, _ = plain_loop(brief, data, lambda p: torch.optim.SGD(p, lr=0.1))
    assert torch.equal(found["into.weight"], found["back.weight"])
    assert torch.equal(found["into.weight"], module.into.weight.detach())
    assert torch.equal(found["out.weight"], module.out.weight.detach())


@pytest.mark.parametrize("name", ["TwoTypes", "Double", "Tied"])
def test_gradients_of_all_types_are_clipped_together(name):
    """One step with the learning rate 1: what the weights moved by is the clipped gradient."""
    data = records()
    plan = {"epochs": 1, "batch_size": 0, "learning_rate": 1.0, "weight_decay": 0.0}
    brief = brief_of(data, custom(name), clip_norm=0.01, **plan)
    found = train_locally(brief, data, worker="bob").trained
    start = brief.model.parameters
    moved = torch.cat([(found[n].double() - start[n].double()).reshape(-1) for n in found])
    assert moved.norm().item() == pytest.approx(0.01, rel=1e-4)


IMAGES = [
    ({"kind": "cnn", "channels": [4, 6]}, (8, 8)),
    ({"kind": "cnn", "channels": [4, 6]}, (2, 8, 8)),
    (custom("Images"), (2, 6, 6)),
    (custom("Images", by_view=True), (2, 6, 6)),
]


@pytest.mark.parametrize(("model", "inputs"), IMAGES, ids=["built-in", "channels", "own", "view"])
def test_channels_last_is_the_plain_order_to_five_digits(model, inputs):
    data = records(10, *inputs)
    brief = brief_of(data, model)
    found = train_locally(brief, data, worker="bob")
    module, total = plain_loop(brief, data, OPTIMISERS["sgd"][1])
    for key, tensor in state_of(module).averaged.items():
        assert found.trained[key].is_contiguous()
        torch.testing.assert_close(found.trained[key], tensor, rtol=1e-5, atol=1e-6)
    assert found.measures["loss"] == pytest.approx(total, rel=1e-5)


@pytest.mark.parametrize("by_view", [False, True])
def test_a_module_that_insists_on_the_usual_order_keeps_it(by_view):
    data = records(4, 2, 6, 6)
    model = custom("Images", by_view=by_view)
    module = module_for(brief_of(data, model).blueprint)
    assert module.second.weight.is_contiguous() == by_view


def test_gradients_and_weights_lie_in_one_vector_for_each_type():
    module = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2, dtype=torch.float64), nn.Linear(2, 1))
    module[2].weight.requires_grad_(False)
    before = state_of(module)
    flat = flatten(module, channels_last=False)
    assert [(len(v), v.dtype) for v in flat.weights] == [(9, torch.float32), (6, torch.float64)]
    assert [v.shape for v in flat.gradients] == [v.shape for v in flat.weights]
    assert state_of(module) == before
    flat.weights[0].zero_()
    assert not module[0].weight.any()
    assert module[2].weight.any()
    assert flat.load(before.tensors)
    assert state_of(module) == before
    assert not flat.load({"0.weight": torch.zeros(2, 3)})


@pytest.mark.parametrize(("model", "inputs"), IMAGES, ids=["built-in", "channels", "own", "view"])
def test_measuring_in_chunks_is_one_batch_of_all(model, inputs):
    data = records(150, *inputs)
    settings = parse({"model": model}).model
    module = module_for(blueprint(settings, data))
    whole = evaluate(module, data, loss=settings.loss, chunk=150)
    for chunk in (None, 1, 37):
        found = evaluate(module, data, loss=settings.loss, chunk=chunk)
        assert found == pytest.approx(whole, rel=1e-5)
        assert torch.equal(
            predictions(module, data, loss=settings.loss, chunk=chunk),
            predictions(module, data, loss=settings.loss, chunk=150),
        )


def test_chunks_are_smaller_the_more_a_layer_puts_out():
    seen: list[int] = []

    class Wide(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.wide, self.out = nn.Linear(6, width), nn.Linear(width, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.append(len(x))
            hidden: torch.Tensor = self.out(self.wide(x))
            return hidden

    loss = parse({}).model.loss
    sizes = {}
    for width in (10, 20_000, 200_000):
        seen.clear()
        evaluate(Wide(width), records(1500), loss=loss)
        sizes[width] = seen[1]  # the first are the two records that are tried
    assert sizes == {10: 1024, 20_000: 52, 200_000: 16}
