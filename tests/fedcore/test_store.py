"""Stores that other processes read: whole values, one of each, records read once, nothing left."""

import os
import threading
from multiprocessing import get_context
from pathlib import Path

import pytest
import torch

from fedcore import store as store_module
from fedcore.data import Dataset
from fedcore.errors import CheckpointError, ConfigError
from fedcore.scratch import folder_at, own_folder
from fedcore.store import fetch, open_store, put
from fedcore.values import ModelState, Ref, ServerState


def state(number: float) -> ServerState:
    return ServerState(round=1, model=ModelState({"w": torch.full((200_000,), number)}))


@pytest.fixture
def url(tmp_path):
    return f"file://{tmp_path}/values"


def write_again_and_again(url, stop):
    number = 0
    while not stop.is_set():
        number += 1
        open_store(url).put("run/1/state", state(number))


def test_a_reader_never_sees_half_a_value_that_another_process_writes(url):
    context = get_context("spawn")
    stop = context.Event()
    open_store(url).put("run/1/state", state(0))
    writer = context.Process(target=write_again_and_again, args=(url, stop))
    writer.start()
    seen = set()
    try:
        while len(seen) < 20:
            weights = open_store(url).get("run/1/state", ServerState).model.parameters["w"]
            assert len(weights.unique()) == 1
            seen.add(weights[0].item())
    finally:
        stop.set()
        writer.join()
    left = os.listdir(url.removeprefix("file://"))
    assert left == ["run~1~state.safetensors"]


def test_of_two_who_make_a_value_at_the_same_time_the_first_stays_for_both(url):
    both = threading.Barrier(2)
    found = []

    def make(number):
        def slowly():
            both.wait(10)
            return state(number)

        open_store(url).once("run/1/state", slowly)
        found.append(open_store(url).get("run/1/state", ServerState))

    makers = [threading.Thread(target=make, args=(number,)) for number in (1.0, 2.0)]
    for maker in makers:
        maker.start()
    for maker in makers:
        maker.join()
    assert found[0] == found[1]


def test_dropping_takes_what_begins_so_and_nothing_else(url):
    store = open_store(url)
    for key in ("run/1/1/state", "run/1/2/state", "run/10/1/state"):
        store.put(key, state(1))
    store.drop("run/1/")
    store.drop("run/2/")
    assert store.get("run/10/1/state", ServerState) == state(1)
    with pytest.raises(CheckpointError, match="given: nothing"):
        store.get("run/1/2/state", ServerState)
    open_store(f"{url}/never").drop("")


def records(number: float) -> Dataset:
    return Dataset(torch.full((100, 10), float(number)), torch.zeros(100, 1))


def test_records_are_read_from_the_file_once_and_only_records(url):
    kept = put(url, "data/1", records(1), owner="bob")
    other = put(url, "run/1/state", state(1), owner="bob")
    assert fetch(kept, Dataset) is fetch(kept, Dataset)
    assert fetch(other, ServerState) is not fetch(other, ServerState)


def test_what_is_kept_of_records_is_bounded_and_the_longest_unused_goes_first(url, monkeypatch):
    monkeypatch.setattr(store_module, "_records", store_module._Decoded(limit=13_000))
    refs = [put(url, f"data/{n}", records(n), owner="bob") for n in range(3)]
    first, second = fetch(refs[0], Dataset), fetch(refs[1], Dataset)
    assert fetch(refs[0], Dataset) is first
    fetch(refs[2], Dataset)
    assert fetch(refs[0], Dataset) is first
    assert fetch(refs[1], Dataset) is not second
    # What is larger than the bound stays until something else is read, not to be read every round.
    large = put(
        url, "data/large", Dataset(torch.zeros(1000, 10), torch.zeros(1000, 1)), owner="bob"
    )
    assert fetch(large, Dataset) is fetch(large, Dataset)
    assert len(store_module._records.values) == 1
    again = fetch(refs[0], Dataset)
    assert again is not first
    assert [value for value, _ in store_module._records.values.values()] == [again]


def test_a_key_of_another_kind_is_refused(url):
    ref = put(url, "run/1/state", state(1), owner="bob")
    with pytest.raises(CheckpointError, match="A Dataset must be stored here"):
        fetch(Ref("bob", "Dataset", ref.store, ref.key), Dataset)


def test_a_folder_of_ones_own_ends_with_the_block_and_others_that_were_left_behind_go(tmp_path):
    left = tmp_path / "left"
    left.mkdir()
    (left / "lock").touch()
    with own_folder(tmp_path) as one:
        assert not left.exists()
        put(f"{one}/bob", "data/1", records(1), owner="bob")
        with own_folder(tmp_path):
            assert Path(one.removeprefix("file://")).is_dir()
    assert list(tmp_path.iterdir()) == []


def test_a_named_folder_is_tried_out_and_left_as_it_was(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with folder_at("shared") as url:
        assert url.startswith(f"file://{tmp_path}/shared/")
        put(f"{url}/bob", "data/1", records(1), owner="bob")
    assert list((tmp_path / "shared").iterdir()) == []


@pytest.mark.parametrize("store", ["file:///proc/fedrounds", "nothing://there", "/dev/null/x"])
def test_a_folder_that_cannot_be_written_to_is_a_config_error_of_one_line(store):
    with pytest.raises(ConfigError, match=r"backend\.store must be a folder .*given: ") as caught:
        folder_at(store).__enter__()
    assert "\n" not in str(caught.value)
