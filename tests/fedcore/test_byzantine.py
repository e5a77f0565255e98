"""Attacks: what attackers send, and who sees it."""

import pytest
import torch

from fedcore.aggregators import Context, fewest_rows, fltrust, krum, needs_trusted, weighted_mean
from fedcore.byzantine import (
    a_little_is_enough,
    attacked,
    flip_labels,
    gaussian,
    inner_product_manipulation,
    mimic,
    sign_flip,
)
from fedcore.data import Dataset
from fedcore.errors import DataError

HONEST = torch.tensor(
    [
        [1, 2, 0, 1],
        [1.2, 1.8, 0.1, 0.9],
        [0.9, 2.1, -0.1, 1.1],
        [1.1, 2.2, 0.2, 1],
        [0.8, 1.9, 0, 1.2],
    ],
    dtype=torch.float64,
)
# byzfl 0.0.11 computed the first three.
GOLDEN = [
    (sign_flip(scale=1), [-1, -2, -0.04, -1.04]),
    (inner_product_manipulation(tau=2), [-2, -4, -0.08, -2.08]),
    (a_little_is_enough(tau=1.5), [1.237171, 2.237171, 0.211026, 1.211026]),
    (sign_flip(), [-10, -20, -0.4, -10.4]),
    (mimic(), [1, 2, 0, 1]),
]


@pytest.mark.parametrize(("attack", "wanted"), GOLDEN)
def test_all_attackers_send_what_the_papers_say(attack, wanted):
    before = HONEST.clone()
    sent = attack(HONEST, 3, torch.Generator())
    assert torch.equal(HONEST, before)
    assert sent.shape == (3, 4)
    for row in sent:
        torch.testing.assert_close(row, torch.tensor(wanted).double(), rtol=0, atol=1e-6)


def test_gaussian_attackers_send_noise_of_their_own():
    honest = torch.full((2, 20_000), 7.0).double()
    one, two = gaussian(deviation=3)(honest, 2, torch.Generator().manual_seed(1))
    assert not torch.equal(one, two)
    # Five standard errors: 3 / sqrt(20,000) of the mean, and that over sqrt(2) of the deviation.
    assert abs(float(one.mean())) < 5 * 0.0213
    assert float(one.std()) == pytest.approx(3, abs=5 * 0.015)


def seen_by(attack, *, attackers, context):
    seen = []

    def look(rows, weights, context):
        seen.append((rows, weights))
        return rows[0]

    rows, weights = HONEST.clone(), torch.arange(1.0, 6.0).double()
    attacked(look, attack, attackers=attackers)(rows, weights, context)
    assert torch.equal(rows, HONEST), "the rows given are not changed"
    ((sent, passed),) = seen
    assert torch.equal(passed, weights)
    return sent


def test_an_attacked_aggregator_sees_the_attackers_rows_in_their_places():
    sent = seen_by(sign_flip(scale=1), attackers=[1, 3], context=Context())
    honest = HONEST[[0, 2, 4]]
    assert torch.equal(sent[[0, 2, 4]], honest)
    assert torch.equal(sent[1], -honest.mean(dim=0))
    assert torch.equal(sent[3], sent[1])


def test_an_attack_draws_from_seed_and_round():
    first, again, later, other = (
        seen_by(gaussian(), attackers=[4], context=Context(round=round, seed=seed))
        for round, seed in ((1, 0), (1, 0), (2, 0), (1, 1))
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, later)
    assert not torch.equal(first, other)


def test_an_attacked_aggregator_needs_what_it_needed():
    assert fewest_rows(attacked(krum(faulty=2), mimic(), attackers=[0])) == 7
    assert fewest_rows(attacked(weighted_mean, mimic(), attackers=[0, 2])) == 3
    assert needs_trusted(attacked(fltrust(), mimic(), attackers=[0]))
    assert not needs_trusted(attacked(krum(faulty=2), mimic(), attackers=[0]))


@pytest.mark.parametrize(
    ("targets", "classes", "wanted"),
    [
        (torch.tensor([0, 1, 2]), "abc", [2, 1, 0]),
        (torch.tensor([[0.0], [1.0]]), "ab", [1, 0]),
        (torch.eye(3), "abc", [2, 1, 0]),
    ],
)
def test_flipped_labels_are_mirrored_in_every_form_of_targets(targets, classes, wanted):
    data = Dataset(torch.arange(float(len(targets)))[:, None], targets, tuple(classes))
    flipped = flip_labels(data)
    assert flipped.labels.tolist() == wanted
    assert flipped.targets.shape == targets.shape
    assert flipped.targets.dtype == targets.dtype
    assert torch.equal(flipped.features, data.features)
    assert flip_labels(flipped).fingerprint == data.fingerprint


def test_records_without_classes_have_no_labels_to_flip():
    with pytest.raises(DataError, match=r"must be of classes; given: .* without classes; choose"):
        flip_labels(Dataset(torch.zeros(2, 1), torch.zeros(2, 1)))
