"""Stored values come back bit for bit, or with a clear error; a run is held by one process."""

import multiprocessing
import os
import signal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedcore.checkpoint import RunFolder, home
from fedcore.codec import decode, encode
from fedcore.errors import CheckpointError, UnknownRun
from fedcore.settings import TrainingConfig
from fedcore.store import fetch, open_store, put
from fedcore.values import Contribution, Contributions, ModelState, RoundRecord, ServerState

DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.bool]
NAMES = st.text(min_size=1, max_size=8)
FLOATS = st.floats(allow_nan=False)


@st.composite
def tensors(draw):
    shape = draw(st.lists(st.integers(0, 3), max_size=3))
    seed = draw(st.integers(0, 1000))
    values = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return values.to(draw(st.sampled_from(DTYPES)))


@st.composite
def states(draw):
    trees = st.dictionaries(NAMES, tensors(), max_size=3)
    each = st.builds(Contribution, NAMES, FLOATS, st.fixed_dictionaries({"loss": FLOATS}))
    contributions = st.lists(each, max_size=3).map(Contributions.of)
    record = st.builds(
        RoundRecord,
        st.integers(1, 99),
        st.integers(0, 2**53),
        st.dictionaries(NAMES, FLOATS, max_size=3),
        contributions,
        st.dictionaries(NAMES, st.text(), max_size=2),
    )
    return ServerState(
        round=draw(st.integers(0, 99)),
        model=ModelState(draw(trees), draw(trees)),
        slots=draw(trees),
        counted=draw(contributions),
        record=draw(st.none() | record),
    )


@settings(max_examples=100, deadline=None, derandomize=True)
@given(states())
def test_load_of_save_is_the_state_bit_for_bit(state):
    again = decode(encode(state), ServerState)
    assert again == state
    assert encode(again) == encode(state)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(states(), st.integers(0, 10_000), st.integers(0, 255))
def test_a_damaged_checkpoint_is_refused_or_harmless(state, where, byte):
    content = bytearray(encode(state))
    content[where % len(content)] = byte
    try:
        decode(bytes(content), ServerState)
    except CheckpointError as error:
        assert "must" in str(error)  # noqa: PT017 - most bytes are data, which no one can check


def test_a_cut_checkpoint_is_refused():
    content = encode(ServerState(round=1, model=ModelState({"w": torch.zeros(3)})))
    for length in (0, 4, 20, len(content) - 1):
        with pytest.raises(CheckpointError, match="must be whole"):
            decode(content[:length], ServerState)


def test_a_value_of_another_kind_is_refused():
    content = encode(ModelState({"w": torch.zeros(3)}))
    with pytest.raises(CheckpointError, match="A ServerState must be stored here"):
        decode(content, ServerState)


def test_only_known_values_are_built_from_bytes():
    content = encode(ModelState({"w": torch.zeros(3)}))
    forged = content.replace(b"ModelState", b"os.systems")
    with pytest.raises(CheckpointError):
        decode(forged, ServerState)


def test_a_run_folder_keeps_settings_and_every_round(tmp_path, monkeypatch):
    monkeypatch.setenv("FEDROUNDS_HOME", str(tmp_path / "home"))
    folder = RunFolder.of("abc")
    assert folder.path == home() / "abc"
    assert folder.latest() is None
    folder.create(TrainingConfig(rounds=7))
    for round in range(3):
        folder.save(ServerState(round=round, model=ModelState({"w": torch.tensor([round])})))
    assert folder.settings().rounds == 7
    assert folder.rounds() == [0, 1, 2]
    assert folder.latest().round == 2
    assert folder.load(1).model.parameters["w"].item() == 1
    with pytest.raises(UnknownRun, match="given: 9; choose from 0 to 2"):
        folder.load(9)


def test_a_half_written_checkpoint_does_not_count(tmp_path):
    folder = RunFolder(tmp_path)
    folder.save(ServerState(round=1, model=ModelState({"w": torch.zeros(3)})))
    (tmp_path / ".round-00002.safetensors.123").write_bytes(b"half")
    assert folder.rounds() == [1]


def test_an_unknown_run_says_where_it_looked(tmp_path):
    with pytest.raises(UnknownRun, match=r"given: nothing-here.*FEDROUNDS_HOME"):
        RunFolder(tmp_path / "nothing-here").settings()


def hold(path, held):
    with RunFolder(path).lock():
        held.set()
        signal.pause()


def test_a_run_is_held_by_one_process_until_that_dies(tmp_path):
    context = multiprocessing.get_context("fork")
    held = context.Event()
    process = context.Process(target=hold, args=(tmp_path, held))
    process.start()
    try:
        assert held.wait(10)
        refused = pytest.raises(UnknownRun, match=f"which process {process.pid} is training")
        with refused, RunFolder(tmp_path).lock():
            pass
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.join()
    with RunFolder(tmp_path).lock() as attempt:
        assert attempt == 2


@pytest.mark.parametrize("scheme", ["live", "file", "memory"])
def test_a_store_gives_back_what_a_pointer_names(scheme, tmp_path):
    url = {"live": "live:x", "file": f"file://{tmp_path}/s", "memory": "memory://s"}[scheme]
    state = ServerState(round=1, model=ModelState({"w": torch.arange(3.0)}))
    ref = put(url, "run/1/1/state", state, owner="coordinator")
    assert fetch(ref, ServerState) == state
    store = open_store(url)
    store.once("run/1/1/state", lambda: pytest.fail("it is there already"))
    store.drop("run/1/")
    with pytest.raises(CheckpointError, match="given: nothing"):
        fetch(ref, ServerState)
    store.once("run/1/1/state", lambda: state)
    assert fetch(ref, ServerState) == state
