"""Threads for verbs: what hangs takes no other's place, and is not waited for."""

import sys
import threading
import time

import pytest

from flows.verb_threads import VerbPool
from tests.conftest import PATIENCE

WIDTH = 3


@pytest.fixture
def hangs():
    over = threading.Event()
    yield lambda: over.wait(PATIENCE)
    over.set()


@pytest.fixture
def busy():
    """Threads take turns as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def test_calls_give_what_they_return_and_raise(hangs):
    pool = VerbPool(WIDTH)
    calls = [pool.submit(divmod, n, 4) for n in range(20)]
    assert [call.result(PATIENCE) for call in calls] == [divmod(n, 4) for n in range(20)]
    with pytest.raises(SystemExit):
        pool.submit(exit).result(PATIENCE)
    pool.shutdown()


def test_no_more_are_at_work_than_the_pool_is_wide():
    pool, guard, now, most = VerbPool(WIDTH), threading.Lock(), 0, 0

    def work():
        nonlocal now, most
        with guard:
            now += 1
            most = max(most, now)
        time.sleep(0.01)
        with guard:
            now -= 1

    for call in [pool.submit(work) for _ in range(30)]:
        call.result(PATIENCE)
    pool.shutdown()
    assert most == WIDTH


def test_what_was_submitted_before_the_end_is_done(hangs):
    pool, done = VerbPool(WIDTH), []
    for n in range(10):
        pool.submit(done.append, n)
    pool.shutdown()
    assert sorted(done) == list(range(10))


@pytest.mark.parametrize("_", range(100))
def test_the_end_comes_however_much_was_given_up(hangs, busy, _):
    pool = VerbPool(WIDTH)
    calls = [pool.submit(hangs) for _ in range(100 * WIDTH)]
    while not all(call.running() for call in calls[:WIDTH]):
        time.sleep(0.0001)
    assert [call.cancel() for call in reversed(calls)] == [True] * 99 * WIDTH + [False] * WIDTH
    ended = threading.Thread(target=pool.shutdown, kwargs={"cancel_futures": True}, daemon=True)
    ended.start()
    ended.join(PATIENCE / 4)
    assert not ended.is_alive()


def test_after_some_were_given_up_the_pool_is_as_wide_as_before(hangs):
    pool = VerbPool(WIDTH)
    for _ in range(3):
        calls = [pool.submit(hangs) for _ in range(WIDTH)]
        while not all(call.running() for call in calls):
            time.sleep(0.001)
        for call in calls:
            call.cancel()
    meeting = threading.Barrier(WIDTH)  # broken unless all are at work at once
    for call in [pool.submit(meeting.wait, PATIENCE) for _ in range(WIDTH)]:
        call.result(PATIENCE)
    pool.shutdown()
