"""Workers that misbehave by a seeded plan, around real ones."""

import random
import threading
import time
from dataclasses import dataclass, field, replace

import torch

from fedcore.errors import WorkerUnreachable
from fedcore.store import fetch, put
from fedcore.values import Description, Ref, Sealed, Ticket
from fedcore.workers import VirtualWorker

DEADLINE_S = 0.5
SHARE = 0.4
"""Of (worker, round), how many misbehave."""


@dataclass
class Scene:
    """What happened, and the end of all that hangs. Handles name it: they hold nothing."""

    over: threading.Event = field(default_factory=threading.Event)
    done: dict[tuple[int, str], tuple[int, str]] = field(default_factory=dict)
    """By round and worker: the last attempt, and what the worker did in it."""


SCENES: dict[str, Scene] = {}


def _nan(sealed: Sealed) -> Sealed:
    return replace(sealed, rows=sealed.rows * float("nan"))


def _short(sealed: Sealed) -> Sealed:
    return replace(sealed, rows=sealed.rows[:, :-1])


def _heavy(sealed: Sealed) -> Sealed:
    contributions = replace(sealed.contributions, weights=sealed.contributions.weights * 1e6)
    return replace(sealed, contributions=contributions)


def _both(sealed: Sealed) -> Sealed:
    return replace(sealed, sums=torch.full_like(sealed.rows, 1e6).double())


def _stale(sealed: Sealed) -> Sealed:
    return replace(sealed, ticket=replace(sealed.ticket, round=sealed.ticket.round - 1))


def _masked(sealed: Sealed) -> Sealed:
    return replace(sealed, contributions=replace(sealed.contributions, workers=("worker-1",) * 2))


SPOILT = {
    f"seals {change.__name__[1:]}": change
    for change in (_nan, _short, _heavy, _both, _stale, _masked)
}
VERBS = ("send", "train", "fetch")
KINDS = (
    *SPOILT,
    "answers twice",
    *(f"{verb} {what}" for verb in VERBS for what in ("raises", "hangs", "is late")),
    "send exits",
    "send is out of reach",
    "train returns nothing",
    "train returns another's",
    "fetch returns another round's",
)
HARMLESS = ("", "answers twice")


def plan(seed: int, worker: str, ticket: Ticket) -> str:
    """What a worker does wrong; empty: nothing."""
    draw = random.Random(f"{seed}/{worker}/{ticket.round}/{ticket.attempt}")
    return draw.choice(KINDS) if draw.random() < SHARE else ""


@dataclass(frozen=True)
class Chaotic:
    """A worker that misbehaves in some rounds."""

    worker: VirtualWorker
    seed: int
    scene: str

    @property
    def id(self) -> str:
        return self.worker.id

    @property
    def count(self) -> int:
        return self.worker.count

    def describe(self) -> Description:
        return self.worker.describe()

    def send(self, brief: Ref) -> Ref:
        kind = plan(self.seed, self.id, brief.ticket)
        done = SCENES[self.scene].done
        done[brief.ticket.round, self.id] = (brief.ticket.attempt, kind)
        if kind == "send exits":
            raise SystemExit(3)
        if kind == "send is out of reach":
            raise WorkerUnreachable("gone", worker=self.id, verb="send", round=brief.ticket.round)
        return self._do("send", brief)

    def train(self, model: Ref) -> Ref:
        kind = plan(self.seed, self.id, model.ticket)
        answer = self._do("train", model)
        if kind == "train returns nothing":
            return None
        return replace(answer, owner="zed") if kind == "train returns another's" else answer

    def fetch(self, update: Ref) -> Ref:
        kind = plan(self.seed, self.id, update.ticket)
        answer = self._do("fetch", update)
        if kind == "fetch returns another round's":
            return replace(answer, key=answer.key.replace(f"/{update.ticket.round}/", "/0/"))
        if kind not in SPOILT:
            return answer
        spoilt = SPOILT[kind](fetch(answer, Sealed))
        return put(f"live:spoilt/{self.id}", "k", spoilt, owner=self.id, ticket=update.ticket)

    def evaluate(self, model: Ref) -> Ref:
        return self.worker.evaluate(model)

    def forget(self, ticket: Ticket) -> None:
        self.worker.forget(ticket)

    def _do(self, verb: str, ref: Ref) -> Ref:
        kind = plan(self.seed, self.id, ref.ticket)
        if kind == f"{verb} raises":
            raise ValueError(f"no {verb} today\nand more that nobody wants in a table")
        if kind == f"{verb} hangs":
            SCENES[self.scene].over.wait(600)
            raise RuntimeError("the test is over")
        answer = getattr(self.worker, verb)(ref)
        if kind == "answers twice":
            assert getattr(self.worker, verb)(ref) == answer
        if kind == f"{verb} is late":
            time.sleep(2 * DEADLINE_S)
        return answer
