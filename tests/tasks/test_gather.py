"""Who counts: what arrives in time, and why the others do not. On a real server."""

import threading
import time

import pytest
from prefect import flow

from deployments.prefect_settings import apply_client_defaults
from fedcore.errors import QuorumNotMet, WorkerRefused, WorkerUnreachable
from fedcore.federation import found
from fedcore.selection import SPARED, enough
from fedcore.settings import parse
from fedcore.values import Ref
from flows.backend import WIDTH, threads
from tasks.gather import answered, survivors
from tasks.verbs import verbs
from tests.conftest import PATIENCE


class Scripted:
    """A worker that does what a test says; `calls` counts how often it was asked."""

    def __init__(self, id, *answers):
        self.id, self.answers, self.calls = id, list(answers), 0

    def send(self, brief):
        self.calls += 1
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        if callable(answer):
            answer()
        return Ref(self.id, "Brief", "live:x", "k", brief.ticket)


def terms(**changes):
    config = parse(
        {
            "terms": changes,
            "data": {"source": {"kind": "toy"}, "test_share": 0},
            "model": {"kind": "linear"},
            "workers": {"kind": "virtual", "count": 2, "partition": {"kind": "iid"}},
        }
    )
    return found(config).named("gathering", attempt=1).terms


@pytest.fixture
def ask(prefect_url, monkeypatch):
    """Ask workers to receive a model, as a round does."""
    from prefect.settings import PREFECT_API_URL, temporary_settings

    apply_client_defaults()

    def ask(workers, *, before=(), **changes):
        agreed = terms(**changes)
        ref = Ref("coordinator", "Brief", "live:x", "k", agreed.ticket(1))

        @flow(task_runner=threads())
        def asking():
            from prefect import unmapped

            if before:
                answered(before, verbs(agreed).send_model.map(before, unmapped(ref)), terms=agreed)
            sent = verbs(agreed).send_model.map(workers, unmapped(ref))
            came = answered(workers, sent, terms=agreed, enough=enough(agreed, len(workers)))
            return survivors(came, terms=agreed, asked=len(workers), round=1)

        with temporary_settings({PREFECT_API_URL: prefect_url}):
            return asking()

    return ask


def lost(reason, kind=WorkerUnreachable):
    return kind(reason, worker="bob", verb="send", round=1)


def test_answers_are_sorted_by_worker_whoever_comes_first(ask):
    slow = Scripted("alice", lambda: time.sleep(0.3))
    found = ask([Scripted("carol", None), Scripted("bob", None), slow])
    assert [ref.owner for ref in found.refs] == ["alice", "bob", "carol"]
    assert found.missing == {}


def test_an_unreachable_worker_is_asked_again_and_a_refusal_is_final(ask):
    back = Scripted("bob", lost("no connection"), None)
    never = Scripted("carol", lost("not here", WorkerRefused))
    found = ask([Scripted("alice", None), back, never], quorum=2, retries=3)
    assert [worker.id for worker in found.workers] == ["alice", "bob"]
    assert (back.calls, never.calls) == (2, 1)
    assert found.missing == {"carol": "send: not here"}


def test_a_bug_is_not_retried(ask):
    broken = Scripted("bob", ZeroDivisionError("division by zero"))
    found = ask([Scripted("alice", None), broken], quorum=1, retries=3)
    assert broken.calls == 1
    assert found.missing == {"bob": "ZeroDivisionError: division by zero"}


def test_too_few_answers_name_everyone_who_is_missing_and_why(ask):
    hangs = threading.Event()
    workers = [
        Scripted("alice", None),
        Scripted("bob", lost("no connection")),
        Scripted("carol", lambda: hangs.wait(PATIENCE)),
    ]
    with pytest.raises(QuorumNotMet) as caught:
        ask(workers, quorum=2, retries=0, deadline=1.0)
    assert not hangs.is_set()  # nobody waited for it
    hangs.set()
    assert str(caught.value) == (
        "Round 1 needs 2 workers; 1 of 3 answered. Missing: bob (send: no connection), "
        "carol (no answer within 1 s). The global model is unchanged; "
        "mend the workers and resume, or lower terms.quorum."
    )


def test_without_a_quorum_all_must_answer(ask):
    with pytest.raises(QuorumNotMet, match=r"needs 2 workers; 1 of 2 answered"):
        ask([Scripted("alice", None), Scripted("bob", lost("gone"))], retries=0)


def test_those_in_reserve_are_not_waited_for(ask):
    workers = [
        Scripted("bob", None),
        Scripted("alice", lambda: time.sleep(3)),
        Scripted("carol", None),
    ]
    found = ask(workers, spare=1, deadline=15)
    assert [worker.id for worker in found.workers] == ["bob", "carol"]
    assert found.missing == {"alice": SPARED}


def test_a_reserve_stands_in_for_a_worker_that_fails(ask):
    broken = RuntimeError("no")
    workers = [Scripted("bob", None), Scripted("alice", broken), Scripted("carol", None)]
    found = ask(workers, spare=1, retries=0)
    assert [worker.id for worker in found.workers] == ["bob", "carol"]
    assert list(found.missing) == ["alice"]
    with pytest.raises(QuorumNotMet, match=r"needs 2 workers; 1 of 3 answered"):
        ask([*workers[:2], Scripted("carol", broken)], spare=1, retries=0)


def test_more_hanging_workers_than_threads_leave_the_others_their_turn(ask):
    hangs = threading.Event()
    stuck = [Scripted(f"stuck-{n:02d}", lambda: hangs.wait(PATIENCE)) for n in range(2 * WIDTH)]
    found = ask([Scripted("zoe", None)], before=stuck, retries=0, deadline=1.0)
    assert [ref.owner for ref in found.refs] == ["zoe"]
    assert [worker.calls for worker in stuck] == [1] * WIDTH + [0] * WIDTH
    hangs.set()


def test_who_found_no_thread_is_not_blamed(ask):
    hangs = threading.Event()
    stuck = [Scripted(f"stuck-{n:02d}", lambda: hangs.wait(PATIENCE)) for n in range(WIDTH)]
    with pytest.raises(QuorumNotMet, match=r"stuck-00 \(no answer.* zoe \(no thread was free for"):
        ask([*stuck, Scripted("zoe", None)], quorum=1, retries=0, deadline=1.0)
    hangs.set()


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), GeneratorExit()])
def test_a_worker_that_would_end_the_process_is_missing(ask, error):
    def ends():
        raise error

    found = ask([Scripted("alice", None), Scripted("bob", ends)], quorum=1, retries=0)
    assert [worker.id for worker in found.workers] == ["alice"]
    assert type(error).__name__ in found.missing["bob"]


@pytest.mark.parametrize("answer", [None, 7, "r001", Ref("bob", "Brief", "live:x", "k")])
def test_what_is_no_pointer_to_the_work_is_no_answer(ask, answer):
    class Other(Scripted):
        def send(self, brief):
            return answer

    found = ask([Scripted("alice", None), Other("bob")], quorum=1, retries=0)
    assert [worker.id for worker in found.workers] == ["alice"]
    assert found.missing["bob"].startswith("no pointer to its work, but ")
