"""The flow `evaluate-model`: a trained model on the central test records and on every worker."""

from dataclasses import replace

from prefect import flow, unmapped
from pydantic import BaseModel

from fedcore.checkpoint import RunFolder, home
from fedcore.federation import found, pool
from fedcore.rounds import publish
from flows.backend import threads
from tasks import report, tracking
from tasks.gather import answered, survivors
from tasks.verbs import evaluate, evaluated, verbs

__all__ = ["Evaluation", "evaluate_model"]


class Evaluation(BaseModel):
    """What `evaluate-model` found; nothing was trained."""

    run_id: str
    round: int
    central: dict[str, float]
    """On the coordinator's test records; empty without any."""
    workers: dict[str, dict[str, float]]
    """On each worker's records."""


@flow(
    name="evaluate-model",
    flow_run_name="evaluate-{run}",
    task_runner=threads(),
    description="Measure a run's model on the central test records and on every worker.",
)
def evaluate_model(run: str = "latest", round: int | None = None) -> Evaluation:
    """Measure a trained model where the data is.

    Args:
        run: MLflow or Prefect run id of a training.
        round: Which round's model; the last one if not given.
    """
    tracking.check_reachable()
    trained = tracking.find_run(run, latest="trained")
    folder = RunFolder(trained.folder)
    config = folder.settings()
    federation = (found if trained.kind == "federated" else pool)(config, memories=f"{home()}/")
    state = folder.load(max(folder.rounds()) if round is None else round)
    # The run's own name, for what its workers remember; no training is its attempt 0.
    terms = federation.named(trained.id, attempt=0).terms
    central = evaluate(state, terms=terms, round=state.round)
    send_model, evaluate_at = verbs(terms).send_model, verbs(terms).evaluate_at
    brief = replace(federation.strategy.brief(state, terms), ticket=terms.ticket(state.round))
    published = publish(brief, terms=terms, wave="all")
    sent = send_model.map(federation.workers, unmapped(published))
    there = answered(federation.workers, sent, terms=terms)
    measured = evaluate_at.map(there.workers, there.refs)
    back = answered(there.workers, measured, terms=terms)
    arrived = survivors(there, back, terms=terms, asked=len(federation.workers), round=state.round)
    workers = evaluated(arrived.refs, terms.blueprint)
    report.evaluation_table(central, workers)
    return Evaluation(run_id=trained.id, round=state.round, central=central, workers=workers)
