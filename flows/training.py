"""A whole training: open or resume a run, go through its rounds, close it with its true status."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Literal

import torch
from prefect.runtime import flow_run
from pydantic import BaseModel

from fedcore.checkpoint import RunFolder
from fedcore.errors import ConfigError, QuorumNotMet, UnknownRun
from fedcore.federation import CENTRALISED, Federation, found, pool
from fedcore.label_counts import label_counts
from fedcore.selection import attended
from fedcore.settings import TrainingConfig
from fedcore.stopping import why_stop
from fedcore.store import LIVE, open_store
from fedcore.values import RoundRecord, ServerState
from flows.backend import check_backend, opened
from flows.round import federated_round
from tasks import report, tracking
from tasks.close import close
from tasks.cross_site import cross_site
from tasks.memory import forget_task_runs
from tasks.record import Recorder, logger

__all__ = ["Kind", "Outcome", "Part", "check", "train"]

Kind = Literal["federated", "centralised"]


class Outcome(BaseModel):
    """What a training's flow returns."""

    run_id: str
    rounds: int
    model_digest: str


@dataclass(frozen=True)
class Part:
    """What a training is a part of."""

    tags: Mapping[str, str]
    """Of its run in MLflow."""
    halted: Callable[[], bool]
    """Whether the whole has been stopped."""


def train(
    config: TrainingConfig, *, kind: Kind, resume: str | None, part: Part | None = None
) -> Outcome:
    """Train to the last round, from the first or from where `resume` names a run that stopped.

    As a `part` it stops between two rounds, as by Ctrl-C, once the whole is halted.

    Raises:
        ConfigError: before anything was written.
        RoundError: a round failed; what is committed stays, and the run can be resumed.
    """
    # One intra-op thread for each concurrent worker: more of them slow each other down, and a
    # sum split over threads would not be the same on another machine.
    torch.set_num_threads(1)
    tracking.check_reachable()
    earlier = _earlier(resume, kind=kind)
    if earlier is not None:
        # The form always sends settings: its defaults are none that anybody asked for.
        config = _own_settings(earlier, asked=None if config == TrainingConfig() else config)
        if earlier.status == "FINISHED":
            return _outcome(earlier.id, RunFolder(earlier.folder))
    with ExitStack() as stack:
        place = stack.enter_context(opened(config.backend))
        federation = place.settle(
            _federation(config, kind, stores=place.stores, memories=place.memories)
        )
        recorder, federation = stack.enter_context(
            _opened(config, federation, kind=kind, earlier=earlier, part=part)
        )
        state = recorder.folder.latest() or federation.start
        while not (ended := _ended(config, recorder, state)):
            if part is not None and part.halted():
                raise KeyboardInterrupt
            state = _round(recorder, state, federation, repeats=config.terms.repeats)
        if state.round < config.rounds:
            logger.info("ends after round %s: %s", state.round, ended)
        strategy, workers, terms = federation.strategy, federation.workers, federation.terms
        asked = config.evaluation.cross_site
        matrix = cross_site(state, strategy, workers, terms=terms) if asked else None
        close(recorder, federation, state, matrix=matrix)
    return _outcome(recorder.run.id, recorder.folder)


def _ended(config: TrainingConfig, recorder: Recorder, state: ServerState) -> str:
    """Why the training ends here; empty: it goes on."""
    if state.round >= config.rounds:
        return "that was the last"
    return why_stop(config.stop, recorder.records)


def _round(
    recorder: Recorder, state: ServerState, federation: Federation, *, repeats: int
) -> ServerState:
    """The next round, which is repeated when too few workers answered.

    Raises:
        QuorumNotMet: in the last repeat as well.
        Diverged: the model would not be finite, which no repeat mends.
    """
    strategy, workers, terms = federation.strategy, federation.workers, federation.terms
    for repeat in range(repeats + 1):
        # Every start of a round is an attempt of its own, those of an earlier process too.
        attempt = (terms.attempt - 1) * (repeats + 1) + repeat + 1
        now = replace(terms, attempt=attempt)
        try:
            return federated_round(recorder, state, strategy, workers, now)
        except QuorumNotMet as error:
            if repeat == repeats:
                raise
            logger.warning("%s Repeating it, %s of %s.", error, repeat + 1, repeats)
            state = replace(state, attendance=attended(now, state, error.missing))
            time.sleep(min(terms.backoff_s * 2**repeat, 30.0))
        finally:
            for worker in workers:
                worker.forget(now.ticket(state.round + 1))
            for store in (terms.store, terms.outbox):
                open_store(store).drop(f"{terms.run}/")
            forget_task_runs()
    raise AssertionError("the last repeat returns or raises")


def check(config: TrainingConfig | None, *, kind: Kind, resume: str | None) -> TrainingConfig:
    """Everything that `train` refuses, without writing anything; returns the settings to use.

    Raises:
        ConfigError: as `train`.
    """
    if resume is not None:
        earlier = _earlier(resume, kind=kind)
        assert earlier is not None, "a run that is named is found or refused"
        config = _own_settings(earlier, asked=config)
    config = config or TrainingConfig()
    check_backend(config.backend)
    _federation(config, kind)
    return config


def _federation(
    config: TrainingConfig, kind: Kind, *, stores: str = LIVE, memories: str = LIVE
) -> Federation:
    return (found if kind == "federated" else pool)(config, stores=stores, memories=memories)


def _earlier(resume: str | None, *, kind: str) -> tracking.FoundRun | None:
    """The run to go on with: the one named, or this flow run's own, which Prefect retries."""
    if resume is None:
        return tracking.find_by_flow_run(str(flow_run.id)) if flow_run.id else None
    named = tracking.find_run(resume)
    if named.status == "FINISHED":
        raise UnknownRun(
            f"Only a run that stopped can be resumed; given: {named.id}, which is finished; "
            "start a new one."
        )
    if named.kind != kind:
        raise UnknownRun(
            f"A run must be resumed by the flow that started it; given: {named.id}, a {named.kind} "
            f"training, to the {kind} one; use the other."
        )
    return named


def _own_settings(earlier: tracking.FoundRun, *, asked: TrainingConfig | None) -> TrainingConfig:
    """The run's own settings; other ones are refused."""
    own = RunFolder(earlier.folder).settings()
    if asked is not None and asked != own:
        mine, theirs = own.model_dump(), asked.model_dump()
        names = [name for name in mine if mine[name] != theirs[name]]
        raise ConfigError(
            f"A run must be resumed with its own settings; given: other {', '.join(names)} than "
            f"run {earlier.id} has; leave the settings out, or start a new run."
        )
    return own


@contextmanager
def _opened(
    config: TrainingConfig,
    federation: Federation,
    *,
    kind: Kind,
    earlier: tracking.FoundRun | None,
    part: Part | None,
) -> Iterator[tuple[Recorder, Federation]]:
    """The run in MLflow, its folder, held by this process, and its true status at the end."""
    link = tracking.FlowRunLink(str(flow_run.id), flow_run.ui_url or "") if flow_run.id else None
    if earlier is None:
        run = tracking.start_run(
            config,
            kind=kind,
            descriptions=federation.descriptions,
            flow_run=link,
            part_of=part.tags if part else None,
        )
        folder = RunFolder.of(run.id)
        folder.create(config)
        folder.save(federation.start)
    else:
        run, folder = earlier.run, RunFolder(earlier.folder)
    with folder.lock() as attempt:
        if earlier is not None:
            tracking.reopen(earlier, flow_run=link)
        records = folder.records()
        try:
            recorder = Recorder(
                run=run,
                folder=folder,
                tracker=tracking.Tracker(run, folder),
                rounds=config.rounds,
                descriptions=federation.descriptions,
                progress=report.start_progress(done=len(records), rounds=config.rounds),
                records=records,
            )
            _announce(recorder, config)
            yield recorder, federation.named(run.id, attempt=attempt)
        except Exception:
            _leave(run, "FAILED", records)
            raise
        except BaseException:  # Ctrl-C, or Prefect's cancellation
            _leave(run, "KILLED", records)
            raise


def _announce(recorder: Recorder, config: TrainingConfig) -> None:
    done = len(recorder.records)
    logger.info("run %s", recorder.run.id, extra={"run_id": recorder.run.id})
    number = recorder.run.workers
    how = f"{config.strategy.kind} over {number:,} workers" if number > 1 else "one worker"
    if recorder.descriptions[0].worker == CENTRALISED:
        how = "all records in one place, the baseline without federation"
    else:
        how += f", disclosure {config.disclosure}: updates leave the workers in the clear"
    again = f"; goes on after round {done}" if done else ""
    rounds = {"rounds": config.rounds, "done": done}
    logger.info("%s: %s%s", config.name, how, again, extra=rounds)
    url = tracking.run_link(recorder.run)
    report.link(
        url or f"http://127.0.0.1:5000{tracking.run_path(recorder.run)}",
        description="Metrics, curves, pictures and models."
        if url
        else "It opens while `fedrounds up` runs in the training's folder.",
    )
    report.labels_table(label_counts(recorder.descriptions))


def _leave(
    run: tracking.Run, status: Literal["FAILED", "KILLED"], records: Sequence[RoundRecord]
) -> None:
    """Tell MLflow how it ended; what stands in the way of that must not hide the reason."""
    trouble = tracking.attempt(
        lambda: tracking.finish(run, status, records=records),
        doing="say how the run ended",
        patience=5.0,
    )
    if trouble:
        logger.warning(trouble)


def _outcome(run_id: str, folder: RunFolder) -> Outcome:
    state = folder.latest()
    assert state is not None, "a run that was opened has its start"
    return Outcome(run_id=run_id, rounds=state.round, model_digest=state.model.digest)
