"""Who takes part: every sampling, the simulated clock, exclusion."""

from collections import Counter
from dataclasses import replace

import pytest
import torch

from fedcore.codec import decode, encode
from fedcore.contributions import Contribution, Contributions
from fedcore.errors import ConfigError, Incompatible, QuorumNotMet
from fedcore.federation import found
from fedcore.selection import SPARED, attended, choose, select, substitutes
from fedcore.settings import parse
from fedcore.simulation import simulate
from fedcore.values import Attendance, ServerState

TEN = {"kind": "virtual", "count": 10, "partition": {"kind": "quantity_skew"}}


DIGITS = {"data": {}, "model": {"kind": "logistic"}, "workers": TEN}


@pytest.fixture(scope="module")
def digits():
    return {
        kind: found(parse({**DIGITS, "sampling": {"kind": kind, **more}}))
        for kind, more in {
            "uniform": {"count": 3},
            "weighted": {"count": 3},
            "poisson": {"rate": 0.3},
            "round_robin": {"count": 3},
            "power_of_choice": {"count": 3, "candidates": 6},
        }.items()
    }


def at(made, round, **attendance):
    return replace(made.start, round=round, attendance=Attendance(**attendance))


def places(made, round, **attendance):
    return select(made.terms, at(made, round, **attendance)).places.tolist()


@pytest.mark.parametrize(
    "kind", ["uniform", "weighted", "poisson", "round_robin", "power_of_choice"]
)
def test_a_selection_follows_from_seed_and_round(digits, kind):
    made = digits[kind]
    drawn = [places(made, round) for round in range(30)]
    assert drawn == [places(made, round) for round in range(30)]
    assert len({tuple(d) for d in drawn}) > 3
    assert all(d == sorted(set(d)) and d for d in drawn)
    if kind != "poisson":
        assert all(len(d) == 3 for d in drawn)


def test_who_has_more_records_is_drawn_more_often(digits):
    made = digits["weighted"]
    often = Counter(place for round in range(400) for place in places(made, round))
    records = made.terms.roster.records
    assert often[int(records.argmax())] > 3 * often[int(records.argmin())]
    # A single draw is in proportion to the records.
    one = replace(made.terms, sampling=made.terms.sampling.but(count=1))
    alone = Counter(select(one, at(made, round)).places.item() for round in range(2000))
    largest = int(records.argmax())
    assert alone[largest] / 2000 == pytest.approx(float(records[largest] / records.sum()), abs=0.05)


def test_poisson_throws_for_each_worker(digits):
    made = digits["poisson"]
    sizes = [len(places(made, round)) for round in range(400)]
    assert min(sizes) == 1  # nobody is thrown again
    assert max(sizes) > 5
    assert sum(sizes) / 400 == pytest.approx(3, abs=0.3)


def test_everybody_has_a_turn_before_anybody_has_another(digits):
    made = digits["round_robin"]
    turns = [place for round in range(10) for place in places(made, round)]
    assert set(Counter(turns).values()) == {3}
    assert places(made, 0) == [0, 1, 2]
    assert places(made, 3) == [0, 1, 9]


def test_power_of_choice_takes_those_who_do_worst(digits):
    made = digits["power_of_choice"]
    names = made.terms.roster.names
    losses = {name: float(place) for place, name in enumerate(names)}
    candidates = places(made, 5)
    everybody = replace(made.terms, sampling=made.terms.sampling.but(candidates=10))
    assert select(everybody, at(made, 5, losses=losses)).places.tolist() == [7, 8, 9]
    del losses[names[2]]  # never trained: first
    assert select(everybody, at(made, 5, losses=losses)).places.tolist() == [2, 8, 9]
    assert len(candidates) == 3


def test_losses_are_remembered_where_the_sampling_goes_by_them(digits):
    for kind, known in (("power_of_choice", {"worker-02": 0.5}), ("uniform", {})):
        made = digits[kind]
        who = Contributions.of([Contribution("worker-02", 3.0, {"loss": 1.5, "seen": 3.0})])
        state = replace(made.start, counted=who)
        assert attended(made.terms, state, {}).losses == known


def test_a_worker_that_fails_again_and_again_is_left_out_and_comes_back():
    terms = {"exclude_after": 2, "readmit_after": 3, "quorum": 1}
    made = found(parse({**DIGITS, "terms": terms}))
    everybody = Contributions.of(
        [Contribution(n, 1.0, {"loss": 1.0, "seen": 1.0}) for n in made.terms.roster.names[1:]]
    )
    state, asked = made.start, []
    for _ in range(8):
        asked.append("worker-01" in [w.id for w in choose(made.workers, made.terms, state)])
        missing = {"worker-01": "train: it broke"} if asked[-1] else {}
        state = replace(state, counted=everybody)
        after = attended(made.terms, state, missing)
        state = replace(state, round=state.round + 1, attendance=after, counted=Contributions())
    # Out after two failures for three rounds; then one more failure is enough.
    assert asked == [True, True, False, False, False, True, False, False]


def test_who_answers_again_starts_anew_and_who_was_not_needed_did_not_fail():
    made = found(parse({**DIGITS, "terms": {"exclude_after": 2}}))
    bob = Contributions.of([Contribution("bob", 1.0, {"loss": 1.0, "seen": 1.0})])
    state = replace(made.start, counted=bob, attendance=Attendance(failures={"bob": 1, "al": 1}))
    after = attended(made.terms, state, {"al": SPARED, "eve": "hung"})
    assert after.failures == {"al": 1, "eve": 1}
    assert not after.excluded


def test_nobody_left_to_ask_is_an_error_that_says_why():
    made = found(parse({**DIGITS, "terms": {"exclude_after": 1}}))
    out = dict.fromkeys(made.terms.roster.names, 9)
    with pytest.raises(QuorumNotMet, match=r"worker-01 \(left out until round 9\)"):
        choose(made.workers, made.terms, at(made, 2, excluded=out))


def test_substitutes_are_those_who_would_be_asked_next(digits):
    made = digits["uniform"]
    terms = replace(made.terms, replace=True)
    asked = {w.id for w in choose(made.workers, terms, made.start)}
    others = [w.id for w in substitutes(made.workers, terms, made.start, lost=2)]
    assert len(others) == 2
    assert not asked & set(others)
    assert substitutes(made.workers, made.terms, made.start, lost=2) == []


CLOCK = {
    "kind": "simulated",
    "seconds_per_record": 1.0,
    "spread": 1.0,
    "deadline": 500.0,
    "bytes_per_second": 1e9,
}
MANY = {"kind": "simulated", "count": 40, "partition": {"kind": "iid"}}


def clocked(spare=0, count=10, **clock):
    return found(
        parse(
            {
                "model": {"kind": "logistic"},
                "local": {"epochs": 1},
                "workers": MANY,
                "sampling": {"kind": "uniform", "count": count},
                "terms": {"spare": spare},
                "clock": {**CLOCK, **clock},
            }
        )
    )


def test_who_would_be_late_is_not_asked_and_a_reserve_makes_up_for_it():
    without, reserve = clocked(deadline=30), clocked(deadline=30, spare=10)
    for round in range(20):
        few, more = (select(m.terms, at(m, round)) for m in (without, reserve))
        assert len(few.places) + len(few.late) == 10
        assert len(few.places) <= len(more.places) <= 10
        assert all("late by the simulated clock" in why for why in more.late.values())
        assert few.seconds == (30 if few.late else pytest.approx(few.seconds, abs=0))
        assert more.seconds <= 30
    assert sum(len(select(without.terms, at(without, r)).late) for r in range(20)) > 5


def test_a_reserve_makes_rounds_shorter():
    without, reserve = clocked(), clocked(spare=10)
    total = [sum(select(m.terms, at(m, r)).seconds for r in range(50)) for m in (without, reserve)]
    assert total[1] < 0.7 * total[0]


def test_slow_workers_are_slow_in_every_round():
    made = clocked(count=40, jitter=0.0, deadline=30)
    late = [frozenset(select(made.terms, at(made, r)).late) for r in range(5)]
    assert len(set(late)) == 1
    assert 0 < len(late[0]) < 40


def test_availability_by_the_hour_comes_round_every_day():
    made = clocked(count=40, availability={"kind": "daily", "hours": 6})
    hours = [
        select(made.terms, at(made, 3, seconds=3600.0 * hour)).places.tolist() for hour in range(48)
    ]
    assert hours[:24] == hours[24:]
    seen = Counter(place for hour in hours[:24] for place in hour)
    assert set(seen.values()) <= {5, 6, 7}
    assert len(seen) == 40


def test_nobody_there_is_waited_for_by_the_simulated_clock():
    made = clocked(count=40, availability={"kind": "daily", "hours": 0.01})
    selection = select(made.terms, made.start)
    assert len(selection.places) == 1
    assert 0 < selection.seconds < 24 * 3600 + 500


def test_random_availability_is_a_share():
    made = clocked(count=40, availability={"kind": "random", "share": 0.25})
    there = [len(select(made.terms, at(made, r)).places) for r in range(100)]
    assert sum(there) / 100 == pytest.approx(10, abs=1)


def test_a_training_by_the_clock_tells_its_time_and_waits_for_nobody():
    config = parse(
        {
            "rounds": 5,
            "local": {"epochs": 1},
            "model": {"kind": "logistic"},
            "workers": MANY,
            "sampling": {"kind": "uniform", "count": 10},
            "clock": {**CLOCK, "deadline": 30.0},
        }
    )
    states = list(simulate(config))
    clock = [state.record.metrics["clock_seconds"] for state in states]
    assert clock == sorted(clock)
    assert clock[-1] == states[-1].attendance.seconds
    for state in states:
        metrics = state.record.metrics
        assert metrics["workers_arrived"] + metrics["workers_late"] == 10
        assert len(state.record.contributions) == metrics["workers_arrived"]
    assert decode(encode(states[-1]), ServerState) == states[-1]


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"sampling": {"kind": "weighted", "count": 11}}, Incompatible, "at most the number"),
        (
            {"sampling": {"kind": "power_of_choice", "count": 5, "candidates": 4}},
            ConfigError,
            "sampling.candidates must be at least sampling.count, 5; given: 4",
        ),
        (
            {"workers": MANY, "terms": {"spare": 2}},
            Incompatible,
            "terms.spare must be 0 for simulated workers",
        ),
    ],
)
def test_what_does_not_go_together_is_said_before_anything_starts(changes, error, message):
    with pytest.raises(error, match=message):
        found(parse({**DIGITS, **changes}))


def test_a_uniform_draw_is_what_it_always_was(digits):
    """The draw of the first versions: golden numbers hang on it."""
    from fedcore.seeds import derive

    made = digits["uniform"]
    for round in range(1, 6):
        order = torch.randperm(10, generator=derive(0, round, "", "sampling"))
        assert places(made, round - 1) == order[:3].sort().values.tolist()
