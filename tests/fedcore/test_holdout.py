"""The test set: its size, its classes, and that training never sees it."""

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from fedcore.data import Dataset, Table
from fedcore.data.holdout import hold_out
from fedcore.errors import DataError


def table(labels: list[int]) -> Table:
    n = len(labels)
    return Table(Dataset(torch.zeros(n, 1), torch.tensor(labels), tuple("abcde")))


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.integers(0, 4), min_size=1, max_size=200),
    st.floats(0, 0.9),
    st.integers(0, 2**53),
)
def test_training_and_test_records_are_all_the_records(
    labels: list[int], share: float, seed: int
) -> None:
    records = table(labels)
    sizes = np.bincount(labels, minlength=5)
    assume(share == 0 or sizes.max() > 1)
    train, test = hold_out(records, share=share, seed=seed)
    assert sorted([*train, *test]) == list(range(len(labels)))
    assert (np.diff(train) > 0).all()
    assert (np.diff(test) > 0).all()
    assert [list(part) for part in hold_out(records, share=share, seed=seed)] == [
        list(train),
        list(test),
    ]
    assert bool(len(test)) == (share > 0)
    held = np.bincount(np.array(labels)[test], minlength=5)
    # Stratified: to within one record, and a class never leaves training altogether.
    assert (np.abs(held - share * sizes) <= 1 + 1e-9).all()
    assert ((sizes - held > 0) == (sizes > 0)).all()


def test_the_share_is_met_in_all() -> None:
    train, test = hold_out(table([0] * 103 + [1] * 51 + [2] * 26), share=0.2, seed=0)
    assert (len(train), len(test)) == (144, 36)


def test_many_classes_take_no_time() -> None:
    n = 50_000
    names = tuple(map(str, range(n // 2)))
    records = Table(Dataset(torch.zeros(n, 1), torch.arange(n) // 2, names))
    train, test = hold_out(records, share=0.2, seed=0)
    assert (len(train), len(test)) == (40_000, 10_000)
    assert len(set(test // 2)) == 10_000


def test_without_classes_any_record_can_be_held_out() -> None:
    records = Table(Dataset(torch.zeros(40, 1), torch.zeros(40, 1)))
    one, two = (set(hold_out(records, share=0.25, seed=seed)[1]) for seed in (0, 1))
    assert len(one) == len(two) == 10
    assert one != two


def test_nothing_left_to_train_on_is_refused() -> None:
    with pytest.raises(DataError, match=r"a record to train on; given: data.test_share 0.5 of 2"):
        hold_out(table([0, 1]), share=0.5, seed=0)
