"""A cohort's numbers are those of as many workers trained alone, whatever computes them."""

from dataclasses import dataclass, replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from fedcore.cohort import choice, groups, memory, train_cohort
from fedcore.cohort.batches import Timetable
from fedcore.cohort.loop import for_members
from fedcore.data import Dataset
from fedcore.data.holdings import Holdings
from fedcore.errors import ConfigError, Incompatible
from fedcore.initial import initial_state
from fedcore.local import _batches, train_locally
from fedcore.losses import prepare
from fedcore.models import blueprint
from fedcore.rules import ControlVariate, Plain, Proximal
from fedcore.settings.model import (
    BceWithLogits,
    Cnn,
    CrossEntropy,
    CustomLoss,
    CustomModel,
    Linear,
    Logistic,
    Mlp,
    Mse,
    SumSquaredError,
)
from fedcore.settings.training import Adam, Momentum, Sgd
from fedcore.trees import Layout
from fedcore.values import Brief, Plan, Ticket

ENGINES = ["auto", "low_rank", "stacked", "loop"]
BOUND = {torch.float32: 1e-5, torch.float64: 1e-12}


class Layers(nn.Module):
    """A sequence with every kind of layer that is folded."""

    def __new__(cls, dtype="float32", dropout=0.0):
        return nn.Sequential(
            nn.Flatten(),
            nn.Sequential(nn.Linear(6, 5), nn.ReLU(inplace=True)),
            nn.Dropout(dropout),
            nn.LayerNorm(5),
            nn.Linear(5, 4, bias=False),
            nn.Unflatten(1, (2, 2)),
            nn.Linear(2, 3),
            nn.SiLU(),
            nn.Dropout(dropout),
            nn.Flatten(),
            nn.Linear(6, 3),
        ).to(getattr(torch, dtype))


class Mixer(nn.Module):
    """Residual, with layer norm over tokens; works in place right behind a shared layer."""

    def __init__(self, dtype="float32", dropout=0.0):
        super().__init__()
        self.enter = nn.Linear(3, 6)
        self.norm = nn.LayerNorm(6)
        self.up = nn.Linear(6, 12, bias=False)
        self.down = nn.Linear(12, 6)
        self.drop = nn.Dropout(dropout)
        self.leave = nn.Linear(6, 3)
        self.to(getattr(torch, dtype))

    def forward(self, x):
        h = self.enter(x.view(len(x), 2, 3))
        h = h + self.drop(self.down(torch.relu_(self.up(self.norm(h)))))
        return self.leave(h.mean(1))


class Attention(nn.Module):
    """Self-attention with linear projections, a learned place, and a constant buffer."""

    def __init__(self, dtype="float32", dropout=0.0):
        super().__init__()
        self.enter = nn.Linear(3, 8)
        self.place = nn.Parameter(torch.randn(2, 8) / 10)
        self.q, self.k, self.v, self.o = (nn.Linear(8, 8) for _ in range(4))
        self.norm = nn.LayerNorm(8)
        self.drop = nn.Dropout(dropout)
        self.leave = nn.Linear(8, 3)
        self.register_buffer("temperature", torch.tensor(0.7))
        self.to(getattr(torch, dtype))

    def forward(self, x):
        h = self.enter(x.view(len(x), 2, 3)) + self.place
        y = self.norm(h) * self.temperature
        q, k, v = (f(y).view(len(x), 2, 2, 4).transpose(1, 2) for f in (self.q, self.k, self.v))
        mixed = functional.scaled_dot_product_attention(q, k, v).transpose(1, 2)
        h = h + self.drop(self.o(mixed.reshape(len(x), 2, 8)))
        return self.leave(h.mean(1))


class Twice(nn.Module):
    """Uses one layer twice, and has one that it does not use."""

    def __init__(self):
        super().__init__()
        self.again = nn.Linear(6, 6)
        self.spare = nn.Linear(6, 3)
        self.leave = nn.Linear(6, 3)

    def forward(self, x):
        return self.leave(torch.tanh(self.again(torch.tanh(self.again(x)))))


class Multihead(nn.Module):
    """Its attention takes its weights apart itself; only `leave` can be shared."""

    def __init__(self, dropout=0.0):
        super().__init__()
        self.attention = nn.MultiheadAttention(6, 2, dropout=dropout, batch_first=True)
        self.leave = nn.Linear(6, 3)

    def forward(self, x):
        x = x[:, None]
        return self.leave(self.attention(x, x, x, need_weights=False)[0][:, 0])


class Encoder(nn.Module):
    """torch's own transformer layer, causal."""

    def __init__(self):
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0, batch_first=True)
        self.leave = nn.Linear(4, 3)
        self.register_buffer("mask", nn.Transformer.generate_square_subsequent_mask(3))

    def forward(self, x):
        tokens = torch.stack([x[:, :4], x[:, 1:5], x[:, 2:]], dim=1)
        return self.leave(self.layer(tokens, src_mask=self.mask, is_causal=True).mean(1))


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.leave = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 3)
        self.b.weight = self.a.weight

    def forward(self, x):
        return self.leave(self.b(torch.tanh(self.a(x))))


class Noisy(nn.Module):
    def __init__(self):
        super().__init__()
        self.leave = nn.Linear(6, 3)

    def forward(self, x):
        return self.leave(x + torch.randn_like(x))


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.read, self.leave = nn.GRU(3, 4, batch_first=True), nn.Linear(4, 3)

    def forward(self, x):
        return self.leave(self.read(x.view(len(x), 2, 3))[0][:, -1])


class Overwriting(nn.Module):
    """Changes what a layer has read, which its gradient needs."""

    def __init__(self):
        super().__init__()
        self.enter, self.again, self.leave = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x):
        h = self.enter(x)
        y = self.again(h)
        h += 1
        return self.leave(h * y)


class Counting(nn.Module):
    """Changes a buffer while it trains."""

    def __init__(self):
        super().__init__()
        self.leave = nn.Linear(6, 3)
        self.register_buffer("calls", torch.tensor(0))

    def forward(self, x):
        self.calls += 1
        return self.leave(x) * (1 + self.calls)


def batch_norm():
    return nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4), nn.Linear(4, 3))


def hooked():
    model = nn.Sequential(nn.Linear(6, 3))
    model[0].register_forward_hook(lambda module, args, outputs: outputs * 2)
    return model


def frozen():
    model = nn.Sequential(nn.Linear(6, 4), nn.Linear(4, 3))
    model[0].bias.requires_grad_(False)
    return model


def mixing_loss(outputs, targets):
    """Not a sum over records: the largest of them counts twice."""
    each = functional.cross_entropy(outputs, targets, reduction="none")
    return each.mean() + each.max()


def impatient_loss(outputs, targets):
    """Looks at a number, which vmap cannot."""
    loss = functional.cross_entropy(outputs, targets)
    return loss * 2 if loss.item() > 0 else loss


def custom(make, *, loss=None, **arguments):
    return CustomModel(
        entrypoint=f"{__name__}:{make.__name__}", arguments=arguments, loss=loss or CrossEntropy()
    )


def own_loss(function, reduction="mean"):
    return CustomLoss(
        entrypoint=f"{__name__}:{function.__name__}", targets="classes", reduction=reduction
    )


def holdings(sizes, *, dtype=torch.float32, shape=(6,), seed=0):
    generator = torch.Generator().manual_seed(seed)
    count = sum(sizes)
    features = torch.randn(count, *shape, generator=generator).to(dtype)
    records = Dataset(features, torch.randint(3, (count,), generator=generator), ("a", "b", "c"))
    return Holdings(tuple(f"w{k}" for k in range(len(sizes))), torch.tensor(sizes), records)


def brief_for(data, model, *, rule=None, answer="rows", **plan):
    """The brief, and the holdings with targets as the model's loss wants them."""
    records = prepare(data.records, model.loss)
    if records.targets.is_floating_point():
        records = replace(records, targets=records.targets.to(records.features.dtype))
    plan = {
        "epochs": 2, "steps": None, "batch_size": 3, "shuffle": True, "optimiser": Sgd(),
        "learning_rate": 0.05, "weight_decay": 0.0, "clip_norm": None, "seed": 3, **plan,
    }  # fmt: skip
    plans = blueprint(model, data.records)
    state = initial_state(plans, seed=1)
    brief = Brief(Ticket("run", 2), state, plans, rule or Plain(), Plan(**plan), answer=answer)
    return replace(data, records=records), brief


def alone(data, brief, members):
    return [
        train_locally(for_members(brief, place), data.of(k), worker=data.workers[k])
        for place, k in enumerate(members)
    ]


def check(data, brief, members=None, *, engine="auto", bound=None):
    """The cohort's rows, sum and measures against those of each worker alone; the engine's line."""
    members = list(range(len(data))) if members is None else members
    bound = bound or BOUND[data.records.features.dtype]
    layout = Layout.of(brief.model.averaged)
    updates = alone(data, brief, members)
    rows = torch.stack([layout.flatten(update.trained) for update in updates])
    weights = torch.tensor([update.weight for update in updates], dtype=torch.float64)
    found = train_cohort(replace(brief, answer="rows"), data, members, engine=engine)
    added = train_cohort(replace(brief, answer="sum"), data, members, engine=engine)
    assert found.sums is None
    assert added.rows is None
    assert found.ticket == brief.ticket
    assert found.rows.dtype == rows.dtype
    close(found.rows, rows, bound)
    assert added.sums.dtype == torch.float64
    close(added.sums[0], weights @ rows.double(), bound)
    for update in (found, added):
        counted = update.contributions
        assert counted.workers == tuple(data.workers[k] for k in members)
        assert torch.equal(counted.weights, weights)
        for name in ("loss", "seen", "steps"):
            expected = torch.tensor([u.measures[name] for u in updates], dtype=torch.float64)
            assert counted.measures[name].dtype == torch.float64
            torch.testing.assert_close(
                counted.measures[name],
                expected,
                rtol=bound if name == "loss" else 0,
                atol=bound / 10,
            )
    return found.engine


def close(found, expected, bound):
    scale = float(expected.abs().max())
    torch.testing.assert_close(found, expected, rtol=bound, atol=bound * scale / 10)


@pytest.fixture(autouse=True)
def _nothing_else_moves():
    """Whatever is computed here leaves torch's global generator as it was."""
    before = torch.get_rng_state()
    yield
    assert torch.equal(before, torch.get_rng_state())


OPTIMISERS = [
    Sgd(),
    Momentum(momentum=0.8),
    Momentum(momentum=0.6, nesterov=True),
    # The default's 1e-8 turns a gradient of pure rounding into a whole step of either sign.
    Adam(epsilon=0.01),
]
plans = st.fixed_dictionaries(
    {
        "epochs": st.integers(1, 3),
        "steps": st.none() | st.integers(1, 7),
        "batch_size": st.integers(0, 5),
        "shuffle": st.booleans(),
        "optimiser": st.sampled_from(OPTIMISERS),
        "weight_decay": st.sampled_from([0.0, 0.1]),
        "clip_norm": st.sampled_from([None, 0.3]),
        "learning_rate": st.sampled_from([0.02, 0.1]),
        "seed": st.integers(0, 5),
    }
)
rules = st.sampled_from([Plain(), Proximal(mu=0.3)])
losses = st.sampled_from([CrossEntropy(), Mse(), BceWithLogits(), SumSquaredError()])
many_sizes = st.lists(st.integers(1, 9), min_size=1, max_size=5) | st.tuples(
    st.integers(1, 9), st.integers(2, 5)
).map(lambda pair: [pair[0]] * pair[1])


@settings(max_examples=90, deadline=None, derandomize=True)
@given(
    make=st.sampled_from([Layers, Layers, Mixer, Attention]),
    dtype=st.sampled_from(["float32", "float64"]),
    dropout=st.sampled_from([0.0, 0.4]),
    loss=losses, rule=rules, plan=plans, sizes=many_sizes, data=st.data(),
)  # fmt: skip
def test_every_engine_is_as_good_as_each_alone(make, dtype, dropout, loss, rule, plan, sizes, data):
    members = data.draw(
        st.sets(st.integers(0, len(sizes) - 1), min_size=1).map(sorted), label="members"
    )
    model = custom(make, loss=loss, dtype=dtype, dropout=dropout)
    held, brief = brief_for(holdings(sizes, dtype=getattr(torch, dtype)), model, rule=rule, **plan)
    check(held, brief, members, engine="stacked")
    linear = not isinstance(plan["optimiser"], Adam)
    linear &= plan["clip_norm"] is None or isinstance(rule, Plain)
    if linear:
        line = check(held, brief, members, engine="low_rank")
        assert line.startswith("low_rank: ")
    else:
        with pytest.raises(Incompatible, match=r"must .*; given: .*; choose engine auto or loop"):
            train_cohort(brief, held, members, engine="low_rank")


@pytest.mark.parametrize("engine", ["low_rank", "stacked"])
@pytest.mark.parametrize("make", [Layers, Mixer, Attention])
@pytest.mark.parametrize(
    "loss", [CrossEntropy(), Mse(), BceWithLogits(), SumSquaredError()], ids=lambda loss: loss.kind
)
@pytest.mark.parametrize(
    "plan",
    [
        {"optimiser": Momentum(momentum=0.6, nesterov=True), "rule": Proximal(mu=0.3)},
        {"optimiser": Momentum(momentum=0.8), "clip_norm": 0.3},
        {"steps": 7, "batch_size": 0, "rule": Proximal(mu=0.3)},
        {"epochs": 3, "batch_size": 5, "clip_norm": 0.3, "shuffle": False},
    ],
    ids=["nesterov", "momentum", "steps", "epochs"],
)
def test_the_hard_cases(engine, make, loss, plan):
    """Ragged, with dropout and decay, in the type in which a rounding to float32 would show."""
    data = holdings([3, 9, 1, 7, 5, 6], dtype=torch.float64)
    model = custom(make, loss=loss, dtype="float64", dropout=0.4)
    data, brief = brief_for(data, model, **{"weight_decay": 0.1, "learning_rate": 0.01, **plan})
    check(data, brief, [0, 1, 3, 4, 5], engine=engine)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    model=st.sampled_from([
        lambda loss: Linear(loss=loss), lambda loss: Linear(bias=False, loss=loss),
        lambda loss: Mlp(hidden=[5], loss=loss), lambda loss: Mlp(hidden=[7, 4], loss=loss),
        lambda loss: Mlp(hidden=[6], dropout=0.3, loss=loss),
        lambda loss: Logistic(loss=loss if isinstance(loss, BceWithLogits) else CrossEntropy()),
    ]),
    loss=losses, rule=rules, plan=plans, sizes=many_sizes, engine=st.sampled_from(ENGINES),
)  # fmt: skip
def test_the_models_that_are_built_in(model, loss, rule, plan, sizes, engine):
    data, brief = brief_for(holdings(sizes, shape=(2, 2)), model(loss), rule=rule, **plan)
    try:
        line = check(data, brief, engine=engine)
    except Incompatible:
        assert engine == "low_rank"
    else:
        assert engine in ("auto", line.split(":")[0])


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("sizes", [[4, 4, 4], [5, 2]])
def test_a_cnn(engine, sizes):
    data, brief = brief_for(holdings(sizes, shape=(4, 4)), Cnn(channels=[2]))
    line = check(data, brief, engine=engine)
    if engine == "auto":
        assert line == "loop: on a CPU convolutions of many workers gain nothing together"


@pytest.mark.parametrize("engine", ["low_rank", "stacked"])
@pytest.mark.parametrize("make", [Layers, Attention])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_a_loss_of_ones_own(engine, make, reduction):
    """Never padded: it may make anything of a batch."""
    model = custom(make, loss=own_loss(mixing_loss, reduction))
    data, brief = brief_for(holdings([5, 2, 5, 7]), model)
    check(data, brief, engine=engine)


def test_a_loss_that_only_the_loop_can_compute():
    model = Mlp(hidden=[4], loss=own_loss(impatient_loss))
    data, brief = brief_for(holdings([5, 5]), model)
    assert check(data, brief).startswith("loop: vmap refuses its loss")
    with pytest.raises(Incompatible, match="vmap refuses its loss"):
        train_cohort(brief, data, [0, 1], engine="stacked")


@dataclass(frozen=True)
class Halved:
    """A rule that nobody here knows."""

    offset = {}

    def correct(self, g: Tensor, w: Tensor, w0: Tensor) -> Tensor:
        return g / 2 + (w - w0) ** 2

    def of(self, members):
        return self


@pytest.mark.parametrize(
    ("plan", "why"),
    [
        ({"optimiser": Adam()}, "a rule or optimiser whose steps are not linear"),
        ({"clip_norm": 0.3, "rule": Proximal(mu=0.3)}, "clip_norm together with a rule"),
    ],
)
def test_what_is_not_linear_is_never_shared(plan, why):
    data, brief = brief_for(holdings([5, 3]), Mlp(hidden=[4]), **plan)
    with pytest.raises(Incompatible, match=why):
        train_cohort(brief, data, [0, 1], engine="low_rank")
    assert not check(data, brief).startswith("low_rank")


def test_a_norm_of_gradients_that_nearly_cancel():
    """Its square is a small difference of large numbers, of which float32 would leave little."""
    data = holdings([8, 8, 6])
    data.records.features[1::2] = data.records.features[::2]
    targets = torch.randn(22, 3, generator=torch.Generator().manual_seed(1))
    targets[1::2] = -targets[::2]
    targets = targets * 200 + torch.randn(22, 3, generator=torch.Generator().manual_seed(2))
    records = Dataset(data.records.features, targets)
    plan = {"epochs": 1, "batch_size": 0, "clip_norm": 1.0, "learning_rate": 1.0}
    data, brief = brief_for(replace(data, records=records), Linear(loss=Mse()), **plan)
    check(data, brief, engine="low_rank", bound=3e-5)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    make=st.sampled_from([Layers, Mixer]), dtype=st.sampled_from(["float32", "float64"]),
    plan=plans, sizes=many_sizes, engine=st.sampled_from(["auto", "stacked", "loop"]),
)  # fmt: skip
def test_each_worker_steps_along_a_control_variate_of_its_own(make, dtype, plan, sizes, engine):
    model = custom(make, dtype=dtype)
    held, brief = brief_for(holdings(sizes, dtype=getattr(torch, dtype)), model, **plan)
    stream = torch.Generator().manual_seed(len(sizes))
    offset = {
        name: torch.randn(len(sizes), *w.shape, generator=stream, dtype=w.dtype)
        for name, w in brief.model.parameters.items()
    }
    brief = replace(brief, rule=ControlVariate(offset))
    line = check(held, brief, engine=engine)
    assert not line.startswith("low_rank")
    if len(sizes) > 1:  # the first worker's offset is nobody else's
        members = [len(sizes) - 1]
        moved = replace(brief, rule=brief.rule.of(members))
        check(held, moved, members, engine=engine)
    with pytest.raises(Incompatible, match="control variates: each worker"):
        train_cohort(brief, held, range(len(sizes)), engine="low_rank")


def test_an_unknown_rule_is_stacked_never_assumed_linear():
    data, brief = brief_for(holdings([5, 3]), Mlp(hidden=[4]), rule=Halved())
    check(data, brief, engine="stacked")
    with pytest.raises(Incompatible, match="not linear"):
        train_cohort(brief, data, [0, 1], engine="low_rank")


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (Tied, "ties weights"),
        (batch_norm, "BatchNorm1d keeps statistics"),
        (frozen, "frozen weights"),
        (hooked, "hooks"),
        (Recurrent, "GRU is recurrent"),
        (Noisy, "vmap refuses it"),
        (Counting, "changes its buffers"),
    ],
)
def test_what_only_the_loop_can_train(make, why):
    data, brief = brief_for(holdings([6, 4, 6]), custom(make), batch_size=2)
    line = check(data, brief)
    assert line.startswith("loop: ")
    assert why in line
    for engine in ("stacked", "low_rank"):
        with pytest.raises(Incompatible, match=why) as refusal:
            train_cohort(brief, data, [0, 1], engine=engine)
        assert str(refusal.value).startswith(f"The engine {engine} must ")
    check(data, brief, engine="loop")


@pytest.mark.parametrize("engine", ["auto", "stacked"])
def test_inputs_that_are_overwritten_are_an_error_as_they_are_alone(engine, monkeypatch):
    monkeypatch.setattr(choice._Costs, "gain", lambda costs, name: 1e6)  # share what can be
    data, brief = brief_for(holdings([4, 4, 4]), custom(Overwriting))
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        alone(data, brief, [0])
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        train_cohort(brief, data, [0, 1, 2], engine=engine)
    with pytest.raises(Incompatible, match="changes the inputs of again"):
        train_cohort(brief, data, [0, 1, 2], engine="low_rank")


def test_attention_that_takes_its_weights_apart_is_stacked():
    data, brief = brief_for(holdings([4, 4, 4]), custom(Multihead))
    line = check(data, brief, engine="low_rank")
    assert line == "low_rank: 1 of 2 linear layers as shared weight plus low rank, 1 stacked"
    data, brief = brief_for(holdings([4, 4, 4]), custom(Multihead, dropout=0.5))
    assert check(data, brief).startswith("loop: vmap refuses it")


def test_a_transformer_of_torchs_own(monkeypatch):
    monkeypatch.setattr(choice._Costs, "gain", lambda costs, name: 1.0)  # share what can be
    data, brief = brief_for(holdings([4, 5, 4]), custom(Encoder))
    line = check(data, brief, engine="low_rank")
    assert line == "low_rank: 3 of 4 linear layers as shared weight plus low rank, 1 stacked"


@pytest.mark.parametrize("optimiser", OPTIMISERS[:3])
def test_a_layer_that_is_used_twice_and_one_that_is_not(optimiser, monkeypatch):
    monkeypatch.setattr(choice._Costs, "gain", lambda costs, name: 1.0)  # share what can be
    plan = {"optimiser": optimiser, "weight_decay": 0.1, "clip_norm": 0.2}
    data, brief = brief_for(holdings([4, 4, 5]), custom(Twice), **plan)
    line = check(data, brief, engine="low_rank")
    assert line == "low_rank: 2 of 3 linear layers as shared weight plus low rank, 1 stacked"


@pytest.mark.parametrize("engine", ["low_rank", "stacked"])
def test_a_worker_that_diverges_leaves_the_others_alone(engine):
    """Infinite numbers of one worker, whose batches are longer than the others', stay its own."""
    data = holdings([3, 9, 2, 8])
    data.records.features[3:12] *= 1e30
    data, brief = brief_for(data, Mlp(hidden=[5, 4]), batch_size=4, learning_rate=10.0)
    layout = Layout.of(brief.model.averaged)
    found = train_cohort(brief, data, range(4), engine=engine)
    for k, update in enumerate(alone(data, brief, range(4))):
        expected = layout.flatten(update.trained)
        assert bool(expected.isfinite().all()) == (k != 1)
        assert bool(found.rows[k].isfinite().all()) == (k != 1)
        if k != 1:
            close(found.rows[k], expected, 1e-5)
    losses = found.contributions.measures["loss"]
    assert losses.isfinite().tolist() == [True, False, True, True]


def test_what_lies_in_unused_memory_does_not_show(monkeypatch):
    """Workers that stop early leave rows unused: were these not zero, their sum would be NaN."""
    real = Tensor.new_empty
    monkeypatch.setattr(
        torch, "empty", lambda *a, **k: torch.zeros(*a, **k) + float("nan"), raising=True
    )
    monkeypatch.setattr(Tensor, "new_empty", lambda *a, **k: real(*a, **k).fill_(float("nan")))
    data, brief = brief_for(holdings([2, 9, 5]), Mlp(hidden=[5, 4]), epochs=3)
    added = train_cohort(replace(brief, answer="sum"), data, [0, 1, 2], engine="low_rank")
    assert bool(added.sums.isfinite().all())


def test_groups_change_nothing(monkeypatch):
    """However little memory there may be, and however much of it may be padding."""
    data, brief = brief_for(holdings([2, 9, 5, 9, 1, 4]), custom(Layers), epochs=2)
    for numbers in (1, 3000):
        monkeypatch.setattr(memory, "NUMBERS", numbers)
        for waste in (0.0, 0.5, 100.0):
            monkeypatch.setattr(groups, "WASTE", waste)
            check(data, brief, engine="low_rank")
            check(data, brief, [1, 2, 5], engine="stacked")


@pytest.mark.parametrize("answer", ["rows", "sum"])
def test_nobody(answer):
    data, brief = brief_for(holdings([3]), Mlp(hidden=[4]), answer=answer)
    found = train_cohort(brief, data, [])
    size = Layout.of(brief.model.averaged).size
    assert len(found.contributions) == 0
    if answer == "rows":
        assert found.rows.shape == (0, size)
    else:
        assert torch.equal(found.sums, torch.zeros(1, size, dtype=torch.float64))


def test_the_loop_says_what_is_wrong_with_a_loss():
    data, brief = brief_for(holdings([3, 3]), Mlp(hidden=[4], loss=Mse()))
    wrong = replace(data, records=replace(data.records, targets=data.records.targets[:, :2]))
    with pytest.raises(ConfigError, match="Outputs and targets of the loss mse"):
        train_cohort(brief, wrong, [0, 1])


def test_the_holdings_stay_as_they_are():
    data, brief = brief_for(holdings([5, 3]), custom(Layers))
    before = data.records.features.clone()
    for engine in ENGINES:
        train_cohort(brief, data, [0, 1], engine=engine)
    assert torch.equal(before, data.records.features)


@pytest.mark.parametrize(
    ("hidden", "workers", "plan", "expected"),
    [
        ([200], 10, {"epochs": 1}, "low_rank: 1 of 2 linear layers"),
        ([8], 10, {"epochs": 30}, "stacked: every parameter stacked"),
        ([400, 400], 10, {"epochs": 1, "optimiser": Adam()}, "loop: one by one about "),
        ([200], 1, {"epochs": 30, "batch_size": 20}, "loop: one by one about "),
    ],
)
def test_auto_takes_what_is_cheap(hidden, workers, plan, expected):
    """Far from where two engines cost the same, so that new constants need no new test."""
    data, brief = brief_for(
        holdings([20] * 10, shape=(300,)), Mlp(hidden=hidden), **{"batch_size": 10, **plan}
    )
    assert train_cohort(brief, data, range(workers)).engine.startswith(expected)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(plan=plans, sizes=st.lists(st.integers(1, 12), min_size=1, max_size=5))
def test_a_timetable_deals_as_each_worker_does(plan, sizes):
    """Every worker's batches, record by record; padding repeats a record of the same batch."""
    sizes = sorted(sizes, reverse=True)
    data, brief = brief_for(holdings(sizes), Mlp(hidden=[]), **plan)
    table = Timetable.of(brief, tuple(sizes), device=torch.device("cpu"))
    rows = table.rows(data.starts)
    names = torch.arange(sum(sizes))
    dealt = [[] for _ in sizes]
    before = 0
    for batch in table.batches():
        assert batch.before == before
        before += batch.size
        found = batch.of(rows)
        assert found.shape == (batch.workers, batch.size)
        assert batch.padded == bool((batch.counts < batch.size).any())
        for k, count in enumerate(batch.counts.tolist()):
            dealt[k].append(found[k, :count].tolist())
            assert set(found[k, count:].tolist()) <= {dealt[k][-1][0]}
    assert before == table.records
    for k in range(len(sizes)):
        mine = slice(int(data.starts[k]), int(data.starts[k]) + sizes[k])
        own = Dataset(names[mine, None].float(), names[mine])
        expected = [targets.tolist() for _, targets in _batches(own, brief, channels_last=False)]
        assert dealt[k] == expected
        assert len(expected) == table.steps[k]
        assert table.seen()[k] == sum(map(len, expected))


@pytest.mark.parametrize(
    ("model", "engine"), [(Mlp(hidden=[4]), "low_rank"), (Cnn(channels=[2]), "stacked")]
)
def test_what_other_devices_choose_is_as_good(monkeypatch, model, engine):
    """There the model of costs does not apply: this is their path, on the CPU."""
    from fedcore.cohort import training

    real = training.choose
    monkeypatch.setattr(training, "choose", lambda *args, on_cpu: real(*args, on_cpu=False))
    data, brief = brief_for(holdings([3, 3], shape=(2, 2)), model)
    if engine == "low_rank":
        monkeypatch.setattr(choice, "SHARING", -1e6)
    assert check(data, brief).startswith(engine)
