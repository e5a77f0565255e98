"""Named tensors and flat vectors; streams of random numbers."""

import threading

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedcore.seeds import derive, global_stream
from fedcore.trees import Layout, digest, not_finite, same

SHAPES = st.dictionaries(
    st.text(min_size=1, max_size=5), st.lists(st.integers(0, 4), max_size=3), max_size=4
)


@settings(max_examples=80, deadline=None, derandomize=True)
@given(SHAPES, st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64]))
def test_flattening_and_back_is_exact(shapes, dtype):
    generator = torch.Generator().manual_seed(1)
    tree = {n: torch.randn(s, generator=generator).to(dtype) for n, s in shapes.items()}
    layout = Layout.of(tree)
    vector = layout.flatten(tree)
    assert vector.shape == (layout.size,)
    assert same(layout.unflatten(vector), tree)


def test_the_order_of_names_is_irrelevant():
    one = {"a": torch.ones(1), "b": torch.zeros(2)}
    two = dict(reversed(one.items()))
    assert Layout.of(one) == Layout.of(two)
    assert digest(one) == digest(two)
    assert torch.equal(Layout.of(one).flatten(one), Layout.of(one).flatten(two))


@pytest.mark.parametrize(
    "other",
    [
        {"x": torch.zeros(2)},
        {"w": torch.zeros(2, dtype=torch.float64)},
        {"w": torch.zeros(2, 1)},
        {"w": torch.tensor([0.0, -0.0])},
    ],
    ids=["name", "dtype", "shape", "bits"],
)
def test_a_digest_names_the_content(other):
    assert digest({"w": torch.zeros(2)}) != digest(other)


def test_other_shapes_are_refused():
    layout = Layout.of({"w": torch.zeros(2)})
    with pytest.raises(ValueError, match=r"must be w \[2\]; given: w \[3\]"):
        layout.flatten({"w": torch.zeros(3)})
    with pytest.raises(ValueError, match=r"must be \[2\]; given: \[3\]"):
        layout.unflatten(torch.zeros(3))


def test_not_finite_names_the_tensors():
    tree = {"a": torch.tensor([1.0, float("nan")]), "b": torch.ones(1), "c": torch.tensor([1])}
    assert not_finite(tree) == ["a"]


@settings(max_examples=50, deadline=None, derandomize=True)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 2**53), st.integers(0, 99), st.text(max_size=5), st.text(max_size=5)
        ),
        unique=True,
        min_size=2,
        max_size=8,
    )
)
def test_every_stream_is_its_own(names):
    drawn = {torch.rand(4, generator=derive(*name)).numpy().tobytes() for name in names}
    separated = {f"{s}|{r}|{w}|{p}" for s, r, w, p in names}
    assert len(drawn) == len(separated)


def test_a_borrowed_global_generator_is_given_back():
    torch.manual_seed(3)
    before = torch.get_rng_state()
    with global_stream(derive(0, 1, "bob", "layers")):
        inside = torch.rand(3)
    assert torch.equal(torch.get_rng_state(), before)
    with global_stream(derive(0, 1, "bob", "layers")):
        assert torch.equal(torch.rand(3), inside)


def test_the_global_generator_is_borrowed_by_one_thread_at_a_time():
    found = {}

    def draw(worker):
        with global_stream(derive(0, 1, worker, "layers")):
            found[worker] = torch.stack([torch.rand(50) for _ in range(50)])

    threads = [threading.Thread(target=draw, args=(str(i),)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for worker, drawn in found.items():
        with global_stream(derive(0, 1, worker, "layers")):
            assert torch.equal(torch.stack([torch.rand(50) for _ in range(50)]), drawn)
