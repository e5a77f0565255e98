"""The flow `compare-trainings`: every case of a comparison with every seed, in one table.

Each cell is a whole training in a flow run of its own, under the comparison's, in a thread
(docs/decisions/0009). What is finished is not trained again when a comparison goes on.
"""

import logging
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.context import FlowRunContext
from prefect.runtime import flow_run
from pydantic import BaseModel, JsonValue

from fedcore.checkpoint import ComparisonFolder, RunFolder
from fedcore.comparison import CellResult
from fedcore.errors import ConfigError, FedroundsError, UnknownRun
from fedcore.federation import found
from fedcore.metrics import meter
from fedcore.settings import TrainingConfig
from fedcore.settings.backend import Ray
from fedcore.settings.cells import Cell, cells_of
from fedcore.settings.comparison import Comparison, Target
from fedcore.store import open_store
from flows.backend import check_backend, threads
from flows.training import Outcome, Part, train
from tasks import report, tracking
from tasks.close_comparison import close_comparison, read_result
from tasks.comparison_table import case_figures, cell_rows, told_failures
from tasks.gather import ended

__all__ = ["CellsFailed", "Compared", "check_comparison", "compare_trainings", "logger"]

logger = logging.getLogger("fedrounds.comparison")
LONGEST_REASON = 200
"""It stands in a table."""


class Compared(BaseModel):
    """What a comparison's flow returns."""

    run_id: str
    cases: list[dict[str, JsonValue]]
    """Of each case, figures over its seeds."""
    cells: list[dict[str, JsonValue]]
    """Of each training, how it stands."""
    failed: dict[str, str]
    """Of each training that failed, why."""
    table: list[dict[str, str]]
    """The same as people read it."""


class CellsFailed(FedroundsError):
    """Some trainings of a comparison failed; everything else is recorded."""

    def __init__(self, compared: Compared) -> None:
        self.compared = compared
        super().__init__(
            f"All {len(compared.cells)} trainings must finish; {len(compared.failed)} failed: "
            f"{told_failures(compared.failed)}. The others are recorded; "
            f"fedrounds compare --resume {compared.run_id} tries again."
        )


# Whether a comparison of this process was stopped, by its run: a flow's parameters are JSON.
_halts: dict[str, threading.Event] = {}


@flow(
    name="compare-trainings",
    flow_run_name="{comparison.name}",
    description="Train every case with every seed, and set them side by side.",
)
def compare_trainings(
    comparison: Comparison = Comparison(),  # noqa: B008 - frozen, and the form's default
    resume: str | None = None,
) -> Compared:
    """Train every case with every seed, and set them side by side.

    Args:
        comparison: What is varied, over which seeds.
        resume: MLflow or Prefect run id of a comparison that stopped, or `latest`, to go on with.
    """
    tracking.check_reachable()
    earlier = _earlier(resume)
    if earlier is not None:
        # The form always sends settings: its defaults are none that anybody asked for.
        asked = None if comparison == Comparison() else comparison
        comparison = _own_settings(earlier, asked=asked)
    cells = _checked(comparison)
    with _opened(comparison, cells, earlier=earlier) as run:
        results, failures = _trained(run, comparison, cells)
        rows = close_comparison(run, cells, results, failures, target=comparison.target)
    compared = Compared(
        run_id=run.id,
        cases=case_figures(results, comparison.target),
        cells=cell_rows(cells, results, failures),
        failed=failures,
        table=rows,
    )
    if failures:
        raise CellsFailed(compared)
    return compared


def check_comparison(comparison: Comparison | None, *, resume: str | None) -> Comparison:
    """Everything that the flow refuses, without writing anything; returns the settings to use.

    Raises:
        ConfigError: names the cell that cannot be trained.
    """
    if resume is not None:
        earlier = _earlier(resume)
        assert earlier is not None, "a run that is named is found or refused"
        comparison = _own_settings(earlier, asked=comparison)
    comparison = comparison or Comparison()
    _checked(comparison)
    return comparison


def _checked(comparison: Comparison) -> list[Cell]:
    cells = cells_of(comparison)
    for cell in cells:
        try:
            _check_cell(cell.config, comparison)
        except ConfigError as error:
            raise ConfigError(f"cell {cell.label!r}: {error}") from None
    return cells


def _check_cell(config: TrainingConfig, comparison: Comparison) -> None:
    if isinstance(config.backend, Ray) and comparison.concurrency > 1:
        raise ConfigError(
            f"concurrency must be 1 with the backend ray, which a process has once; given: "
            f"{comparison.concurrency}; lower it, or choose another backend."
        )
    check_backend(config.backend)
    federation = found(config)
    plan = federation.terms.blueprint
    known = ["train_loss"]
    if federation.test is not None:
        names = meter(plan.model.loss, plan.model.metrics, classes=plan.classes).metrics
        known += ["test_loss", *(f"test_{name}" for name in names)]
    open_store(federation.terms.store).drop("")
    _check_target(comparison.target, known)


def _check_target(target: Target | None, known: Sequence[str]) -> None:
    if target is not None and target.metric not in known:
        raise ConfigError(
            f"target.metric must be measured in every round; given: {target.metric}; choose one "
            f"of {', '.join(known)}."
        )


def _earlier(resume: str | None) -> tracking.FoundComparison | None:
    """The comparison to go on with: the one named, or this flow run's own, which is retried."""
    if resume is None:
        return tracking.find_comparison_by_flow_run(str(flow_run.id)) if flow_run.id else None
    named = tracking.find_comparison(resume)
    if named.status == "FINISHED":
        raise UnknownRun(
            f"Only a comparison that stopped can be resumed; given: {named.run.id}, which is "
            "finished; start a new one."
        )
    return named


def _own_settings(earlier: tracking.FoundComparison, *, asked: Comparison | None) -> Comparison:
    own = ComparisonFolder(earlier.folder).settings()
    if asked is not None and asked != own:
        raise ConfigError(
            f"A comparison must be resumed with its own settings; given: other ones than run "
            f"{earlier.run.id} has; leave the settings out, or start a new one."
        )
    return own


@contextmanager
def _opened(
    comparison: Comparison, cells: Sequence[Cell], *, earlier: tracking.FoundComparison | None
) -> Iterator[tracking.Run]:
    """The comparison's run in MLflow, held by this process, and its true status at the end."""
    link = tracking.FlowRunLink(str(flow_run.id), flow_run.ui_url or "") if flow_run.id else None
    if earlier is None:
        cases = len({cell.case for cell in cells})
        run = tracking.start_comparison(comparison, cells=len(cells), cases=cases, flow_run=link)
        folder = ComparisonFolder.of(run.id)
        folder.create(comparison)
    else:
        run, folder = earlier.run, ComparisonFolder(earlier.folder)
    with folder.lock():
        if earlier is not None:
            tracking.reopen_comparison(earlier, flow_run=link)
        logger.info("run %s", run.id, extra={"run_id": run.id})
        url = tracking.run_link(run)
        report.link(
            url or f"http://127.0.0.1:5000{tracking.run_path(run)}",
            description="The comparison: its table, its curves, its trainings."
            if url
            else "It opens while `fedrounds up` runs in the comparison's folder.",
        )
        try:
            yield run
        except Exception:
            tracking.attempt(
                lambda: tracking.finish_comparison(run, "FAILED"), doing="close it", patience=5.0
            )
            raise
        except BaseException:  # Ctrl-C, or Prefect's cancellation
            tracking.attempt(
                lambda: tracking.finish_comparison(run, "KILLED"), doing="close it", patience=5.0
            )
            raise


def _trained(
    run: tracking.Run, comparison: Comparison, cells: Sequence[Cell]
) -> tuple[list[CellResult], dict[str, str]]:
    """Every cell's result, or why it failed; those finished earlier are only read."""
    # Before any cell's thread starts: one intra-op thread for each worker that trains.
    torch.set_num_threads(1)
    known = tracking.cells_known(run)
    results = {
        cell.label: read_result(cell, known[cell.label].id, RunFolder(known[cell.label].folder))
        for cell in cells
        if cell.label in known and known[cell.label].status == "FINISHED"
    }
    failures: dict[str, str] = {}
    waiting = [cell for cell in cells if cell.label not in results]
    begun = {cell.label: known[cell.label].id for cell in waiting if cell.label in known}
    _announce(comparison, cells, finished=len(results), begun=len(begun))
    bar = report.start_progress(done=len(results), rounds=len(cells), what="trainings")
    context = FlowRunContext.get()
    assert context is not None, "a comparison runs in a flow"
    halt = _halts[run.id] = threading.Event()
    try:
        with (
            threads(comparison.concurrency) as runner,
            context.model_copy(update={"task_runner": runner}),
        ):
            try:
                futures = [
                    train_cell.submit(cell, comparison=run.id, resume=begun.get(cell.label))
                    for cell in waiting
                ]
                for place, outcome in ended(futures):
                    cell = waiting[place]
                    number = len(results) + len(failures) + 1
                    if isinstance(outcome, BaseException):
                        failures[cell.label] = _reason(outcome)
                        logger.info(
                            "%d of %d: %s failed: %s",
                            number, len(cells), cell.label, failures[cell.label],
                        )  # fmt: skip
                    else:
                        result = read_result(cell, outcome.run_id, RunFolder.of(outcome.run_id))
                        results[cell.label] = result
                        logger.info("%d of %d: %s", number, len(cells), _line(result))
                    report.progress(bar, done=number, rounds=len(cells))
                    ordered = [results[c.label] for c in cells if c.label in results]
                    report.cells_table(cell_rows(cells, ordered, failures))
            except BaseException:
                # Threads cannot be interrupted: each training stops after its round.
                halt.set()
                raise
    finally:
        del _halts[run.id]
    return [results[cell.label] for cell in cells if cell.label in results], failures


@task(task_run_name="{cell.label}", cache_policy=NO_CACHE)
def train_cell(cell: Cell, comparison: str, resume: str | None) -> Outcome:
    """Train one cell in a flow run of its own, under this task run."""
    tags = tracking.cell_tags(comparison, cell)
    return compared_training(cell.config, comparison=comparison, tags=tags, resume=resume)


@flow(
    name="compared-training",
    flow_run_name="{config.name}",
    task_runner=threads(),
    description="One training of a comparison.",
)
def compared_training(
    config: TrainingConfig, comparison: str, tags: dict[str, str], resume: str | None
) -> Outcome:
    """A federated training that stands under a comparison's run in MLflow."""
    part = Part(tags, halted=_halts[comparison].is_set)
    return train(config, kind="federated", resume=resume, part=part)


def _announce(comparison: Comparison, cells: Sequence[Cell], *, finished: int, begun: int) -> None:
    cases, seeds = len({cell.case for cell in cells}), len(comparison.all_seeds)
    again = f"; {finished} are finished, {begun} go on" if finished or begun else ""
    logger.info(
        "%s: %d trainings, cases: %d, seeds: %d, %d at a time%s",
        comparison.name, len(cells), cases, seeds, comparison.concurrency, again,
    )  # fmt: skip


def _line(result: CellResult) -> str:
    rounds = len(result.curves["train_loss"])
    shown = [
        f"{name.replace('_', ' ')} {result.curves[name][-1]:.4f}"
        for name in ("test_accuracy", "test_loss", "train_loss")
        if name in result.curves
    ]
    return f"{result.label}: {', '.join(shown)} after {rounds} rounds"


def _reason(error: BaseException) -> str:
    """A failed training's reason without the advice; all of it is in its flow run."""
    lines = (line for line in str(error).splitlines() if line.strip())
    said = next(lines, type(error).__name__)
    said = said.partition(" The global model is unchanged")[0].rstrip(".")
    return said if len(said) <= LONGEST_REASON else said[: LONGEST_REASON - 3] + "..."
