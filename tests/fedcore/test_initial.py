"""Initial weights: from the seed, from the settings or from a file, each checked by name."""

from pathlib import Path

import fsspec
import pytest
import torch
from safetensors.torch import save, save_file
from torch import nn

from fedcore.errors import ConfigError
from fedcore.initial import initial_state, load_into, state_of
from fedcore.models import Blueprint, build
from fedcore.settings.model import CustomModel, FromFile, Initial, Inline, Linear, Mlp
from fedcore.trees import same
from fedcore.values import ModelState

MLP = Blueprint(Mlp(hidden=[3]), inputs=(4,), outputs=2, classes=2)


def linear(initial: Initial) -> Blueprint:
    return Blueprint(Linear(initial=initial), inputs=(2,), outputs=1, classes=0)


class Normalised(nn.Module):
    """Parameters, float and integer buffers, and one buffer that is not kept."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
        self.register_buffer("scratch", torch.zeros(3), persistent=False)


def normalised(initial: Initial) -> Blueprint:
    model = CustomModel(entrypoint=f"{__name__}:Normalised", initial=initial)
    return Blueprint(model, inputs=(2,), outputs=2, classes=2)


def test_the_seed_alone_decides() -> None:
    before = torch.get_rng_state()
    torch.manual_seed(1)
    one = initial_state(MLP, seed=5)
    torch.manual_seed(2)
    assert initial_state(MLP, seed=5).digest == one.digest
    assert initial_state(MLP, seed=6).digest != one.digest
    torch.set_rng_state(before)


def test_seeded_weights_are_pytorchs_own_initialisation() -> None:
    big = Blueprint(Linear(), inputs=(400,), outputs=100, classes=0)
    weight = initial_state(big, seed=0).parameters["weight"]
    bound = 400**-0.5
    assert weight.abs().max() <= bound
    assert weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.02)


def test_states_and_modules_exchange_tensors() -> None:
    module = build(MLP)
    state = initial_state(MLP, seed=9)
    load_into(module, state)
    assert state_of(module).digest == state.digest


def test_a_state_is_a_copy() -> None:
    module = build(MLP)
    state = state_of(module)
    digest = ModelState(dict(state.parameters)).digest
    with torch.no_grad():
        next(module.parameters()).add_(1)
    assert ModelState(dict(state.parameters)).digest == digest
    assert not any(tensor.requires_grad for tensor in state.tensors.values())


def test_buffers_that_a_module_keeps_belong_to_its_state() -> None:
    state = state_of(Normalised())
    assert sorted(state.parameters) == [
        "layers.0.bias", "layers.0.weight", "layers.1.bias", "layers.1.weight",
    ]  # fmt: skip
    assert sorted(state.buffers) == [
        "layers.1.num_batches_tracked", "layers.1.running_mean", "layers.1.running_var",
    ]  # fmt: skip
    module = Normalised()
    changed = state.replaced({"layers.1.running_mean": torch.ones(2)})
    load_into(module, changed)
    assert state_of(module).digest == changed.digest


def test_inline_weights_are_the_models() -> None:
    state = initial_state(linear(Inline(weights={"weight": [[1, 2.5]], "bias": [0]})), seed=0)
    assert state.parameters["weight"].tolist() == [[1, 2.5]]
    assert {tensor.dtype for tensor in state.tensors.values()} == {torch.float32}
    module = build(linear(Inline()))
    load_into(module, state)
    assert module(torch.tensor([[2.0, 2.0]])).item() == 7


def test_inline_weights_may_leave_buffers_fresh() -> None:
    weights = {
        "layers.0.weight": [[1, 2], [3, 4]],
        "layers.0.bias": [0, 0],
        "layers.1.weight": [1, 1],
        "layers.1.bias": [0, 0],
    }
    fresh = initial_state(normalised(Inline.model_validate({"weights": weights})), seed=0)
    assert fresh.buffers["layers.1.running_var"].tolist() == [1, 1]
    counted = {**weights, "layers.1.num_batches_tracked": 7}
    state = initial_state(normalised(Inline.model_validate({"weights": counted})), seed=0)
    assert state.buffers["layers.1.num_batches_tracked"].item() == 7
    assert state.buffers["layers.1.num_batches_tracked"].dtype == torch.int64


def test_a_file_gives_back_what_was_saved(tmp_path: Path) -> None:
    state = state_of(Normalised()).replaced({"layers.1.num_batches_tracked": torch.tensor(4)})
    path = tmp_path / "model.safetensors"
    save_file(state.tensors, path)
    assert same(initial_state(normalised(FromFile(path=str(path))), seed=0).tensors, state.tensors)
    with fsspec.open("memory://initial/model.safetensors", "wb") as remote:
        remote.write(save(state.tensors))
    remote_path = "memory://initial/model.safetensors"
    assert same(
        initial_state(normalised(FromFile(path=remote_path)), seed=0).tensors, state.tensors
    )


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (
            {"weigth": [[1, 2]], "bias": [0]},
            r"'weigth' \(nearest: 'weight'\); the model has weight \[1, 2\], bias \[1\]",
        ),
        ({"weight": [[1, 2]]}, r"must be in model.initial.weights; missing: bias"),
        ({}, r"missing: weight, bias"),
        ({"weight": [1, 2], "bias": [0]}, r"weight in .* must be \[1, 2\]; given: \[2\]"),
        ({"weight": [[1], [2, 3]], "bias": [0]}, r"numbers in lists of equal length"),
        ({"weight": [["a", "b"]], "bias": [0]}, r"weights.weight must be numbers"),
        ({"weight": [[True, False]], "bias": [0]}, r"weights.weight must be numbers"),
        ({"weight": None, "bias": [0]}, r"weights.weight must be numbers"),
        ({"weight": [[1e39, 0]], "bias": [0]}, r"must be finite; given: NaN or .* in weight of"),
        ({"weight": [[10**400, 0]], "bias": [0]}, r"weights.weight must be numbers"),
    ],
)
def test_inline_weights_that_are_not_the_models_are_refused(
    weights: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        initial_state(linear(Inline.model_validate({"weights": weights})), seed=0)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"weight": torch.zeros(1, 2)}, r"must be in .*safetensors; missing: bias"),
        ({"weight": torch.zeros(2, 1), "bias": torch.zeros(1)}, r"must be \[1, 2\]; given: \[2, 1"),
        (
            {"weight": torch.full((1, 2), torch.nan), "bias": torch.zeros(1)},
            r"finite; given: NaN or infinity in weight of .*safetensors",
        ),
        (
            {"fc.weight": torch.zeros(1, 2), "bias": torch.zeros(1)},
            r"'fc.weight' \(nearest: 'weight'\)",
        ),
    ],
)
def test_a_file_of_another_model_is_refused(
    tmp_path: Path, tensors: dict[str, torch.Tensor], message: str
) -> None:
    path = tmp_path / "other.safetensors"
    save_file(tensors, path)
    with pytest.raises(ConfigError, match=message):
        initial_state(linear(FromFile(path=str(path))), seed=0)


def test_a_file_with_fractions_for_counters_is_refused(tmp_path: Path) -> None:
    tensors = state_of(Normalised()).tensors
    tensors["layers.1.num_batches_tracked"] = torch.tensor(0.5)
    path = tmp_path / "model.safetensors"
    save_file(tensors, path)
    with pytest.raises(ConfigError, match=r"num_batches_tracked in .* must hold torch.int64"):
        initial_state(normalised(FromFile(path=str(path))), seed=0)


def test_files_that_cannot_be_read_are_said(tmp_path: Path) -> None:
    (tmp_path / "junk.safetensors").write_bytes(b"junk" * 10)
    for path, message in (
        ("nowhere.safetensors", r"must exist; given: nowhere.safetensors; check"),
        ("nosuch://x", r"must be readable; given: nosuch://x"),
        (str(tmp_path / "junk.safetensors"), r"must be a safetensors file; given: .*junk"),
        (str(tmp_path), r"must be readable|must exist"),
    ):
        with pytest.raises(ConfigError, match=message):
            initial_state(linear(FromFile(path=path)), seed=0)


def test_a_state_of_another_model_leaves_the_module_alone() -> None:
    module = build(MLP)
    before = state_of(module).digest
    state = state_of(module)
    for tensors, message in (
        ({**state.parameters, "x": torch.zeros(1)}, "'x'"),
        ({"0.weight": torch.zeros(3, 4)}, "missing: 0.bias, 2.weight, 2.bias"),
        ({**state.parameters, "2.bias": torch.zeros(9)}, r"2.bias in the state must be \[2\]"),
    ):
        with pytest.raises(ConfigError, match=message):
            load_into(module, ModelState(tensors))
    assert state_of(module).digest == before
