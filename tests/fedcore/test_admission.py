"""What is refused before anything is summed, by name, and that the others' mean is untouched."""

import re
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import settings as run_settings
from hypothesis import strategies as st

from fedcore.admission import admitted
from fedcore.data import Dataset
from fedcore.errors import Diverged, QuorumNotMet
from fedcore.evaluation import Findings
from fedcore.federation import found_with
from fedcore.rounds import Course, measured, publish, reveal
from fedcore.settings import parse
from fedcore.store import fetch, put
from fedcore.strategies import strategy_of
from fedcore.trees import Layout
from fedcore.values import Contributions, Ref, Sealed, Ticket
from fedcore.workers import VirtualWorker

NAMES = ("alice", "bob", "carol", "dave")
BAD = "bob"


def federation(*, quorum=2, dtype=torch.float32, **changes):
    """Four workers of three to six records each."""
    generator = torch.Generator().manual_seed(3)
    config = parse(
        {
            "rounds": 2,
            "model": {"kind": "mlp", "hidden": []},
            "terms": {"quorum": quorum},
            **changes,
        }
    )
    workers = [
        VirtualWorker.holding(
            name,
            Dataset(
                torch.randn(3 + k, 2, generator=generator, dtype=dtype),
                torch.randint(2, (3 + k,), generator=generator),
                ("0", "1"),
            ),
        )
        for k, name in enumerate(NAMES)
    ]
    sample = fetch(workers[0].data, Dataset)
    made = found_with(config, workers, strategy_of(config.strategy), sample=sample)
    return made.named("admission", attempt=1)


class Round:
    """The first round of a federation, up to the answers."""

    def __init__(self, **changes):
        self.federation = federation(**changes)
        self.terms, self.strategy = self.federation.terms, self.federation.strategy
        self.brief = self.strategy.brief(self.federation.start, self.terms)
        ref = publish(self.brief, terms=self.terms, wave="x")
        self.answers = {
            worker.id: worker.fetch(worker.train(worker.send(ref)))
            for worker in self.federation.workers
        }
        for worker in self.federation.workers:  # the next test asks them anew
            self.answers[worker.id] = self.told(worker.id, self.sealed(worker.id))
            worker.forget(self.brief.ticket)

    def sealed(self, worker):
        return fetch(self.answers[worker], Sealed)

    def told(self, worker, value):
        """A pointer of this worker's to a value."""
        ref = put(f"live:told/{worker}", "k", value, owner=worker, ticket=self.brief.ticket)
        return replace(ref, kind="Sealed")

    def says(self, value, *, worker=BAD):
        """The worker answers with this instead."""
        self.answers[worker] = self.told(worker, value)
        return self

    def admitted(self, **more):
        missing = more.pop("missing", {})
        asked = len(self.answers) + len(missing)
        return admitted(self.answers, self.brief, self.terms, asked=asked, missing=missing, **more)

    def after(self, workers=None):
        """The model after those that are admitted, or else after these alone."""
        if workers is None:
            arrived = self.admitted()
        else:
            told = {worker: self.answers[worker] for worker in workers}
            arrived = admitted(told, self.brief, self.terms, asked=len(told), missing={})
        total = reveal(arrived, self.brief)
        return self.strategy.apply(self.federation.start, total, terms=self.terms)


def counted(sealed, *, workers=None, weights=None, **measures):
    """The same answer with other contributions."""
    known = sealed.contributions
    columns = {**known.measures, **measures}
    return replace(
        sealed,
        contributions=Contributions(
            known.workers if workers is None else workers,
            known.weights if weights is None else torch.tensor(weights, dtype=torch.float64),
            {name: column for name, column in columns.items() if column is not None},
        ),
    )


def numbers(*values):
    return torch.tensor(values, dtype=torch.float64)


def filled(sealed, value, *, place=2):
    rows = sealed.rows.clone()
    rows[0, place] = value
    return replace(sealed, rows=rows)


def summed(sealed):
    """The answer as a sum, as the host of a cohort gives it."""
    rows, weights = sealed.rows.double(), sealed.contributions.weights
    return replace(sealed, rows=None, sums=(weights[:, None] * rows).sum(0, keepdim=True))


NOTHING = Contributions((), numbers(), {name: numbers() for name in ("loss", "seen", "steps")})

FAULTS = {
    "another round": (
        lambda s: replace(s, ticket=replace(s.ticket, round=7)),
        r"it answers round 7, attempt 1$",
    ),
    "another attempt": (
        lambda s: replace(s, ticket=replace(s.ticket, attempt=2)),
        r"it answers round 1, attempt 2$",
    ),
    "another run": (
        lambda s: replace(s, ticket=Ticket("other", 1)),
        r"it answers round 1, attempt 1 of run other",
    ),
    "too short": (lambda s: replace(s, rows=s.rows[:, :-1]), r"rows must be \[1, 6\] .*\[1, 5\]"),
    "one flat row": (lambda s: replace(s, rows=s.rows[0]), r"rows must be \[1, 6\] .*is \[6\]"),
    "two rows of one": (
        lambda s: replace(s, rows=s.rows.repeat(2, 1)),
        r"rows must be \[1, 6\] .*is \[2, 6\]",
    ),
    "neither": (lambda s: replace(s, rows=None), r"either rows or sums"),
    # The sum would be taken where the row was looked at.
    "both": (lambda s: replace(s, sums=summed(s).sums * 1e6), r"either rows or sums"),
    "sums of too many weightings": (
        lambda s: replace(summed(s), sums=summed(s).sums.repeat(2, 1)),
        r"sums must be \[1, 6\] float64, and is \[2, 6\] float64",
    ),
    "float32 sums": (
        lambda s: replace(summed(s), sums=summed(s).sums.float()),
        r"sums must be \[1, 6\] float64, and is \[1, 6\] float32",
    ),
    **{
        str(kind): (
            lambda s, kind=kind: replace(s, rows=s.rows.to(kind)),
            rf"rows must be \[1, 6\] float32, and is \[1, 6\] {str(kind).removeprefix('torch.')}$",
        )
        for kind in (torch.int64, torch.float16, torch.float64, torch.complex64, torch.bool)
    },
    "sparse": (lambda s: replace(s, rows=s.rows.to_sparse()), r"is \[1, 6\] float32 sparse_coo"),
    "on no device": (lambda s: replace(s, rows=s.rows.to("meta")), r"float32 on meta"),
    "with a gradient": (
        lambda s: replace(s, rows=s.rows.clone().requires_grad_()),
        r"float32 with a gradient",
    ),
    "a list": (lambda s: replace(s, rows=s.rows.tolist()), r"cannot be read \(AttributeError"),
    **{
        f"{value} in a tensor": (
            lambda s, value=value: filled(s, value),
            r"NaN or infinity in 0.weight$",
        )
        for value in (float("nan"), float("inf"), -float("inf"))
    },
    "inf and -inf": (
        lambda s: filled(filled(s, float("inf"), place=0), -float("inf"), place=2),
        r"NaN or infinity in 0.bias, 0.weight$",
    ),
    "NaN in sums": (lambda s: summed(filled(s, float("nan"))), r"NaN or infinity in 0.weight$"),
    "NaN loss": (lambda s: counted(s, loss=numbers(float("nan"))), r"NaN or infinity in loss$"),
    "infinite loss": (
        lambda s: counted(s, loss=numbers(float("inf"))),
        r"NaN or infinity in loss$",
    ),
    "NaN records seen": (
        lambda s: counted(s, seen=numbers(float("nan"))),
        r"NaN or infinity in seen$",
    ),
    "loss that overflows": (lambda s: counted(s, loss=numbers(1.7e308)), r"too large .*: loss$"),
    "empty": (
        lambda s: replace(s, contributions=NOTHING, rows=s.rows[:0]),
        r"refused: it is empty$",
    ),
    "empty with a row": (lambda s: replace(s, contributions=Contributions()), r"it is empty$"),
    **{
        f"weight {value}": (
            lambda s, value=value: counted(s, weights=[value]),
            r"its weight is not a positive number$",
        )
        for value in (0.0, -2.0, float("nan"), -float("inf"))
    },
    "infinite weight": (lambda s: counted(s, weights=[float("inf")]), r"it claims inf records and"),
    "too many records": (
        lambda s: counted(s, weights=[4.5]),
        r"it claims 4\.5 records and described 4$",
    ),
    "two weights": (
        lambda s: counted(s, weights=[2.0, 2.0]),
        r"weights must be \[1\] float64, and is \[2\] float64",
    ),
    "for another": (lambda s: counted(s, workers=("carol",)), r"it speaks for carol$"),
    "for nobody known": (lambda s: counted(s, workers=("zed",)), r"it speaks for zed$"),
    "for one more": (
        lambda s: replace(
            counted(
                s,
                workers=("bob", "zed"),
                weights=[2.0, 2.0],
                loss=numbers(1, 1),
                seen=numbers(2, 2),
                steps=numbers(1, 1),
            ),
            rows=s.rows.repeat(2, 1),
        ),
        r"it speaks for zed$",
    ),
    "for itself twice": (
        lambda s: replace(
            counted(
                s,
                workers=("bob", "bob"),
                weights=[2.0, 2.0],
                loss=numbers(1, 1),
                seen=numbers(2, 2),
                steps=numbers(1, 1),
            ),
            rows=s.rows.repeat(2, 1),
        ),
        r"it speaks for a worker twice$",
    ),
    **{
        f"without {name}": (
            lambda s, name=name: counted(s, **{name: None}),
            rf"its measures must be loss, seen, steps, and are (?!.*{name})",
        )
        for name in ("loss", "seen", "steps")
    },
    "a measure too many": (
        lambda s: counted(s, norm=numbers(1)),
        r"measures must be loss, seen, steps, and are loss, norm, seen, steps$",
    ),
    "two losses": (lambda s: counted(s, loss=numbers(1, 2)), r"loss must be \[1\] float64.*\[2\]"),
    "nothing seen": (lambda s: counted(s, seen=numbers(0)), r"seen must be above 0 and .*, and is"),
    "more seen than there is": (lambda s: counted(s, seen=numbers(1e9)), r"seen .* at most \d+,"),
    "no steps": (lambda s: counted(s, steps=numbers(0)), r"steps must be above 0"),
    "more steps than asked": (lambda s: counted(s, steps=numbers(1e18)), r"steps .*is 1e\+18$"),
    "no answer in the sealed": (
        lambda s: replace(s, contributions=None),
        r"cannot be read \(AttributeError",
    ),
    "no ticket": (lambda s: replace(s, ticket=None), r"cannot be read \(AttributeError"),
    "not sealed": (lambda s: s.contributions, r"cannot be read \(CheckpointError: A Sealed must"),
}


@pytest.mark.parametrize(("spoil", "reason"), FAULTS.values(), ids=FAULTS)
def test_a_bad_answer_is_refused_by_name_and_the_others_mean_is_theirs_alone(spoil, reason):
    given = Round()
    given.says(spoil(given.sealed(BAD)))
    found = given.admitted()
    assert list(found.refused) == [BAD]
    assert found.refused[BAD].startswith("refused: ")
    assert re.search(reason, found.refused[BAD]), found.refused[BAD]
    others = [name for name in NAMES if name != BAD]
    assert given.after() == given.after(others)  # bit for bit
    weights = {w.id: len(fetch(w.data, Dataset)) for w in given.federation.workers}
    mean = sum(given.sealed(n).rows[0].double() * weights[n] for n in others)
    mean /= sum(weights[n] for n in others)
    after = given.after().model.averaged
    assert torch.allclose(Layout.of(after).flatten(after).double(), mean)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"store": "live:nowhere"}, r"CheckpointError: A Sealed must lie under k; given: nothing"),
        ({"store": "nothing-that-is-known://x"}, r"cannot be read \(ValueError: "),
        ({"store": "/dev/null/x"}, r"cannot be read \(NotADirectoryError"),
        ({"owner": "carol"}, r"its pointer is one of carol"),
    ],
)
def test_a_pointer_that_cannot_be_read_or_is_anothers_is_refused(change, reason):
    given = Round()
    given.answers[BAD] = replace(given.answers[BAD], **change)
    (refused,) = given.admitted().refused.items()
    assert refused[0] == BAD
    assert re.search(reason, refused[1]), refused


def test_anothers_answer_under_ones_own_pointer_is_refused():
    given = Round()
    given.says(given.sealed("carol"))
    assert given.admitted().refused == {BAD: "refused: it speaks for carol"}


def test_what_is_no_pointer_at_all_is_refused():
    given = Round()
    given.answers[BAD] = None
    assert given.admitted().refused[BAD].startswith("refused: its answer cannot be read")


def test_someone_who_never_described_its_records_is_refused():
    given = Round()
    given.answers["zed"] = given.told("zed", counted(given.sealed(BAD), workers=("zed",)))
    assert given.admitted().refused == {"zed": "refused: it never described its records"}


def test_good_answers_are_all_admitted_in_their_order():
    given = Round()
    found = given.admitted()
    assert found.refused == {}
    assert [ref.owner for ref in found.refs] == list(NAMES)


@pytest.mark.parametrize("value", [1e308, -1e308, 2e307])
def test_numbers_that_would_overflow_the_sum_are_refused_and_do_not_end_the_round(value):
    """Each is finite, and so is the row; weighted, or summed over the workers, it is not."""
    given = Round()
    model = given.brief.model
    double = replace(model, parameters={n: p.double() for n, p in model.parameters.items()})
    given.brief = replace(given.brief, model=double)
    for name in NAMES:
        given.says(replace(given.sealed(name), rows=given.sealed(name).rows.double()), worker=name)
    assert given.admitted().refused == {}
    given.says(filled(given.sealed(BAD), value))
    assert given.admitted().refused == {BAD: "refused: too large to be summed: rows"}


def test_what_a_model_of_half_precision_cannot_hold_is_not_finite():
    given = Round()
    model = given.brief.model
    narrow = {**model.parameters, "0.weight": model.parameters["0.weight"].half()}
    given.brief = replace(given.brief, model=replace(model, parameters=narrow))
    given.says(filled(given.sealed(BAD), 1e6))
    assert given.admitted().refused == {BAD: "refused: NaN or infinity in 0.weight"}
    given.says(filled(filled(given.sealed(BAD), 0.0), 1e6, place=0))  # the bias holds it
    assert given.admitted().refused == {}


def test_a_sum_that_would_overflow_is_refused():
    given = Round()
    sealed = summed(given.sealed(BAD))
    given.says(replace(sealed, sums=sealed.sums.sign() * 1e308))
    assert given.admitted().refused == {BAD: "refused: too large to be summed: sums"}


def test_a_sum_is_refused_where_the_strategy_needs_rows():
    given = Round(strategy={"kind": "fedavg", "aggregator": {"kind": "coordinate_median"}})
    assert given.brief.answer == "rows"
    given.says(summed(given.sealed(BAD)))
    assert given.admitted().refused == {BAD: "refused: it is a sum, and the strategy needs rows"}


@pytest.mark.parametrize(
    ("measure", "value"), [("start_loss", 1e300), ("norm", 1e200), ("start_loss", float("nan"))]
)
def test_a_measure_that_makes_a_weight_infinite_is_refused(measure, value):
    """q-FedAvg counts a worker by the loss that it says it had: F^q."""
    given = Round(strategy={"kind": "qfedavg", "q": 2.0})
    assert given.admitted().refused == {}
    given.says(counted(given.sealed(BAD), **{measure: numbers(value)}))
    assert list(given.admitted().refused) == [BAD]
    after = given.after([n for n in NAMES if n != BAD])
    assert given.after() == after
    assert all(bool(torch.isfinite(p).all()) for p in after.model.parameters.values())


class TestWhoIsLeft:
    def test_too_few_names_the_refused_and_why_and_who_is_missing(self):
        given = Round(quorum=4)
        given.says(counted(given.sealed(BAD), weights=[99.0]))
        del given.answers["dave"]
        with pytest.raises(QuorumNotMet) as caught:
            given.admitted(missing={"dave": "send: gone"})
        assert str(caught.value).startswith(
            "Round 1 needs 4 workers; 2 of 4 answered. Missing: bob (refused: it claims 99 records "
            "and described 4), dave (send: gone). The global model is unchanged; "
        )

    def test_all_that_is_wrong_is_nan_so_it_diverged(self):
        given = Round(quorum=3)
        for name in ("alice", "carol"):
            given.says(filled(given.sealed(name), float("nan")), worker=name)
        with pytest.raises(
            Diverged, match=r"0\.weight from alice, carol\. .*lower local\.learning"
        ):
            given.admitted()

    def test_nan_and_something_else_is_no_divergence(self):
        given = Round(quorum=3)
        given.says(filled(given.sealed("alice"), float("nan")), worker="alice")
        given.says(counted(given.sealed(BAD), weights=[0.0]))
        with pytest.raises(QuorumNotMet, match=r"alice \(refused: NaN .*bob \(refused: its weight"):
            given.admitted()

    def test_nan_is_survived_where_enough_are_left(self):
        given = Round(quorum=3)
        given.says(filled(given.sealed(BAD), float("nan")))
        assert len(given.admitted().sealed) == 3

    def test_without_a_quorum_all_must_be_admitted(self):
        given = Round(quorum=0)
        given.says(counted(given.sealed(BAD), weights=[0.0]))
        with pytest.raises(QuorumNotMet, match="needs 4 workers; 3 of 4"):
            given.admitted()

    def test_as_many_as_the_aggregator_needs_must_be_left(self):
        given = Round(quorum=2)
        given.says(counted(given.sealed(BAD), weights=[0.0]))
        with pytest.raises(QuorumNotMet, match="needs 4 workers; 3 of 4"):
            given.admitted(least=4)

    def test_the_refused_are_counted_and_named_in_the_rounds_record(self):
        given = Round()
        given.says(counted(given.sealed(BAD), weights=[0.0]))
        found = given.admitted()
        course = Course({"zed": "gone"}, found.refused)
        state = measured(given.after(), Findings({}), terms=given.terms, seconds=1.0, course=course)
        assert state.record.metrics["workers_arrived"] == 3
        assert state.record.metrics["workers_refused"] == 1
        assert state.record.missing == {
            "zed": "gone",
            BAD: "refused: its weight is not a positive number",
        }


class TestHosts:
    """Hosts of simulated workers share whoever is drawn, and answer with sums."""

    def answers(self, **changes):
        from fedcore.federation import found

        workers = {"kind": "simulated", "count": 6, "hosts": 2, "partition": {"kind": "iid"}}
        config = parse(
            {
                "data": {"source": {"kind": "breast_cancer"}},
                "workers": workers,
                **changes,
            }
        )
        made = found(config).named("hosts", attempt=1)
        brief = made.strategy.brief(made.start, made.terms)
        ref = publish(brief, terms=made.terms, wave="x")
        told = {h.id: h.fetch(h.train(h.send(ref))) for h in made.workers}
        kept = {id: fetch(ref, Sealed) for id, ref in told.items()}
        for host in made.workers:
            host.forget(brief.ticket)
        return made, brief, kept

    def refused(self, made, brief, sealed):
        refs = {id: put(f"live:hosts/{id}", "k", each, owner=id) for id, each in sealed.items()}
        terms = replace(made.terms, quorum=1)
        return admitted(refs, brief, terms, asked=len(refs), missing={}).refused

    def test_they_are_admitted(self):
        assert self.refused(*self.answers()) == {}

    def test_one_that_speaks_for_a_worker_of_the_other_is_refused(self):
        made, brief, sealed = self.answers()
        mine = sealed["host-2"].contributions
        theirs = sealed["host-1"].contributions.workers[1]
        sealed["host-2"] = counted(sealed["host-2"], workers=(theirs, *mine.workers[1:]))
        assert self.refused(made, brief, sealed) == {
            "host-2": f"refused: it speaks for {theirs}, and so does host-1"
        }

    def test_one_that_counts_a_worker_twice_is_refused(self):
        made, brief, sealed = self.answers()
        mine = sealed["host-2"].contributions.workers
        sealed["host-2"] = counted(sealed["host-2"], workers=(mine[1], *mine[1:]))
        assert self.refused(made, brief, sealed) == {
            "host-2": "refused: it speaks for a worker twice"
        }

    def test_more_workers_than_were_drawn_are_refused(self):
        made, brief, sealed = self.answers(sampling={"kind": "uniform", "count": 2})
        assert self.refused(made, brief, sealed) == {}
        one, names = sealed["host-2"], list(made.descriptions[0].members)
        many = Contributions.joined(counted(one, workers=(name,)).contributions for name in names)
        sealed["host-2"] = replace(one, contributions=many)
        assert self.refused(made, brief, sealed) == {
            "host-2": "refused: it speaks for 3 workers and stands for 2"
        }

    def test_of_a_sum_that_is_not_finite_the_workers_whose_loss_shows_it_are_named(self):
        made, brief, sealed = self.answers()
        host = sealed["host-1"]
        loss = host.contributions.measures["loss"].clone()
        loss[1] = float("nan")
        guilty = host.contributions.workers[1]
        sealed["host-1"] = counted(replace(host, sums=host.sums * float("nan")), loss=loss)
        (reason,) = self.refused(made, brief, sealed).values()
        assert reason.endswith(f", from {guilty}")


@run_settings(max_examples=60, deadline=None, derandomize=True)
@given(spoilt=st.dictionaries(st.sampled_from(NAMES), st.sampled_from(sorted(FAULTS)), max_size=3))
def test_whoever_spoils_and_however_what_is_left_is_the_others_sum(spoilt):
    given = Round(quorum=1)
    for worker, name in spoilt.items():
        if "for" in name and worker != BAD:
            continue
        given.says(FAULTS[name][0](given.sealed(worker)), worker=worker)
    found = given.admitted()
    left = [ref.owner for ref in found.refs]
    assert sorted([*left, *found.refused]) == sorted(NAMES)
    assert given.after() == given.after(left)
    assert isinstance(found.refs[0], Ref)
