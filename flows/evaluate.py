"""The flow `evaluate-model`: a trained model on the central test records and on every worker."""

from prefect import flow
from pydantic import BaseModel

from fedcore.checkpoint import RunFolder, home
from fedcore.errors import QuorumNotMet
from fedcore.federation import check_cross_site, found, pool
from flows.backend import threads
from tasks import report, tracking
from tasks.cross_site import cross_site as measure_across
from tasks.evaluation import evaluate_centrally, evaluate_everywhere

__all__ = ["Evaluation", "evaluate_model"]


class Evaluation(BaseModel):
    """What `evaluate-model` found; nothing was trained."""

    run_id: str
    round: int
    central: dict[str, float]
    """On the coordinator's test records; empty without any."""
    overall: dict[str, float]
    """On all workers' records together, and how evenly the model serves the workers."""
    workers: dict[str, dict[str, float]]
    """On each worker's records."""
    missing: dict[str, str]
    """Workers that did not answer, and why."""
    cross_site: dict[str, dict[str, float]] = {}
    """If asked for: of each model, what it reaches on each worker's records."""


@flow(
    name="evaluate-model",
    flow_run_name="evaluate-{run}",
    task_runner=threads(),
    description="Measure a run's model on the central test records and on every worker.",
)
def evaluate_model(
    run: str = "latest", round: int | None = None, cross_site: bool = False
) -> Evaluation:
    """Measure a trained model where the data is.

    Args:
        run: MLflow or Prefect run id of a training.
        round: Which round's model; the last one if not given.
        cross_site: Also train it once more at every worker, and measure these local models
            everywhere.
    """
    tracking.check_reachable()
    trained = tracking.find_run(run, latest="trained")
    folder = RunFolder(trained.folder)
    config = folder.settings()
    federation = (found if trained.kind == "federated" else pool)(config, memories=f"{home()}/")
    state = folder.load(max(folder.rounds()) if round is None else round)
    # The run's own name, for what its workers remember; no training is its attempt 0.
    federation = federation.named(trained.id, attempt=0)
    strategy, workers, terms = federation.strategy, federation.workers, federation.terms
    if cross_site:
        check_cross_site(federation)
    central = evaluate_centrally(state, terms=terms, round=state.round)
    reached = evaluate_everywhere(
        state, strategy, workers, terms=terms, round=state.round, central=central
    )
    if not len(reached.workers):
        raise QuorumNotMet(round=state.round, quorum=1, arrived=0, missing={**reached.missing})
    each = {w.worker: {"records": w.weight, **w.measures} for w in reached.workers}
    across: dict[str, dict[str, float]] = {}
    if cross_site:
        matrix = measure_across(state, strategy, workers, terms=terms)
        report.cross_site_table(matrix)
        rows = matrix.values[matrix.judged_by].tolist()
        across = {
            model: dict(zip(matrix.workers, row, strict=True))
            for model, row in zip(matrix.models, rows, strict=True)
        }
    report.evaluation_table(central, reached.overall, each)
    return Evaluation(
        run_id=trained.id,
        round=state.round,
        central=central,
        overall=dict(reached.overall),
        workers=each,
        missing=dict(reached.missing),
        cross_site=across,
    )
