"""Server optimisers: the formulas of the papers, what they keep, and what they must not touch."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from fedcore.codec import decode, encode
from fedcore.servers import adagrad, adam, momentum, sgd, yogi
from fedcore.trees import same
from fedcore.values import ModelState, ServerState

MOMENTUM = {"momentum": momentum(lr=0.5), "nesterov": momentum(lr=0.5, nesterov=True)}
ADAPTIVE = {
    "adagrad": adagrad(beta1=0.3),
    "adam": adam(beta1=0.8),
    "yogi": yogi(beta2=0.9),
}
ALL = {"sgd": sgd(lr=0.5), **MOMENTUM, **ADAPTIVE}

# Not so long that a square overflows, not so short that it vanishes.
lengths = st.floats(1e-6, 1e3) | st.floats(-1e3, -1e-6) | st.just(0.0)
histories = arrays.arrays("float64", (4, 3), elements=lengths).map(torch.from_numpy)


def walk(server, steps, weights=None, slots=None):
    """Where the weights and the slots are after these steps [T, P]."""
    at = {"w": torch.zeros(steps.shape[1], dtype=torch.float64) if weights is None else weights}
    slots = server.init(at) if slots is None else slots
    for step in steps:
        at, slots = server.apply({"w": step}, slots, at)
    return at["w"], slots


def scalar_loop(name, steps, *, lr, beta1=0.0, beta2=0.0, tau=0.0):
    """One weight in plain floats, after Reddi et al. 2021, algorithm 2."""
    x, m, v = 0.0, 0.0, tau**2
    for delta in steps:
        m = beta1 * m + (1 - beta1) * delta
        if name == "adagrad":
            v = v + delta**2
        elif name == "yogi":
            v = v - (1 - beta2) * delta**2 * (
                0 if v == delta**2 else math.copysign(1, v - delta**2)
            )
        else:
            v = beta2 * v + (1 - beta2) * delta**2
        x = x + lr * m / (math.sqrt(v) + tau)
    return x


@settings(deadline=None)
@given(
    histories,
    st.sampled_from([("adagrad", adagrad), ("adam", adam), ("yogi", yogi)]),
    st.floats(0.001, 10),
    st.floats(0, 0.99),
    st.floats(0, 0.999),
    st.floats(1e-4, 1),
)
def test_adaptive_ones_do_as_algorithm_2_says(steps, which, lr, beta1, beta2, tau):
    name, make = which
    given = {"lr": lr, "beta1": beta1, "tau": tau}
    given |= {} if name == "adagrad" else {"beta2": beta2}
    found, _ = walk(make(**given), steps)
    wanted = [scalar_loop(name, column, **given) for column in steps.T.tolist()]
    assert found.tolist() == pytest.approx(wanted, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("nesterov", [False, True])
def test_momentum_is_that_of_torch_sgd(nesterov):
    steps = torch.randn(6, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    theirs = torch.zeros(5, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.SGD([theirs], lr=0.3, momentum=0.7, nesterov=nesterov)
    for step in steps:
        theirs.grad = -step
        optimiser.step()
    ours, _ = walk(momentum(lr=0.3, momentum=0.7, nesterov=nesterov), steps)
    torch.testing.assert_close(ours, theirs.detach(), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("nesterov", [False, True])
def test_without_momentum_it_is_sgd_bit_for_bit(nesterov):
    stream = torch.Generator().manual_seed(2)
    steps = torch.randn(5, 1000, generator=stream, dtype=torch.float64)
    start = torch.randn(1000, generator=stream)
    still, _ = walk(momentum(lr=0.3, momentum=0.0, nesterov=nesterov), steps, start)
    plain, _ = walk(sgd(lr=0.3), steps, start)
    assert same({"w": still}, {"w": plain})


@settings(deadline=None)
@given(histories, st.sampled_from(sorted(MOMENTUM)))
def test_momentum_is_linear_in_its_steps(steps, name):
    once, _ = walk(MOMENTUM[name], steps)
    doubled, _ = walk(MOMENTUM[name], 8 * steps)
    assert torch.equal(doubled, 8 * once)


@settings(deadline=None)
@given(histories, st.sampled_from([("adagrad", adagrad), ("adam", adam), ("yogi", yogi)]))
def test_adaptive_ones_do_not_see_the_units_of_a_step(steps, which):
    # A power of two changes no digits, so that even the rounding is the same.
    _, make = which
    one, _ = walk(make(tau=0.25), steps)
    other, _ = walk(make(tau=0.25 * 8), 8 * steps)
    assert torch.equal(one, other)


@settings(deadline=None)
@given(histories)
def test_yogi_forgets_no_faster_than_it_learns(steps):
    server = yogi(beta2=0.9)
    at, slots = {"w": torch.zeros(3)}, server.init({"w": torch.zeros(3)})
    for step in steps:
        before = slots["v/w"]
        at, slots = server.apply({"w": step}, slots, at)
        most = 0.1 * step.square()
        assert bool(((slots["v/w"] - before).abs() <= most + 1e-12 * (most + before)).all())


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
class TestContract:
    def example(self, name, dtype):
        weights = {"b": torch.tensor([0.5], dtype=dtype), "a.c": torch.ones(2, 2, dtype=dtype)}
        step = {n: torch.full_like(w, 0.25, dtype=torch.float64) for n, w in weights.items()}
        return ALL[name], weights, step

    def test_applying_is_pure(self, name, dtype):
        server, weights, step = self.example(name, dtype)
        weights, slots = server.apply(step, server.init(weights), weights)
        before = [{n: t.clone() for n, t in tree.items()} for tree in (step, slots, weights)]
        once, twice = (server.apply(step, slots, weights) for _ in range(2))
        assert all(same(a, b) for a, b in zip(once, twice, strict=True))
        assert all(same(a, b) for a, b in zip(before, (step, slots, weights), strict=True))

    def test_weights_keep_their_type_and_slots_are_float64_under_their_names(self, name, dtype):
        server, weights, step = self.example(name, dtype)
        first = server.init(weights)
        moved, slots = server.apply(step, first, weights)
        assert {n: (w.dtype, w.shape) for n, w in moved.items()} == {
            n: (w.dtype, w.shape) for n, w in weights.items()
        }
        letters = {"sgd": "", "momentum": "m", "nesterov": "m"}.get(name, "mv")
        expected = {f"{letter}/{n}" for letter in letters for n in weights}
        assert set(first) == set(slots) == expected
        assert all(slot.dtype == torch.float64 for slot in (*first.values(), *slots.values()))

    def test_what_a_checkpoint_kept_goes_on_as_if_nothing_had_been(self, name, dtype):
        server, weights, step = self.example(name, dtype)
        weights, slots = server.apply(step, server.init(weights), weights)
        state = ServerState(1, ModelState(weights), slots=slots)
        back = decode(encode(state), ServerState)
        assert back == state
        onwards = server.apply(step, slots, weights)
        resumed = server.apply(step, back.slots, back.model.averaged)
        assert all(same(a, b) for a, b in zip(onwards, resumed, strict=True))

    def test_it_goes_where_the_step_points(self, name, dtype):
        server, weights, step = self.example(name, dtype)
        moved, _ = server.apply(step, server.init(weights), weights)
        assert all(bool((moved[n] > w).all()) for n, w in weights.items())
