"""The flow `federated-training`: what the Prefect UI, a schedule and the command line start."""

from prefect import flow

from fedcore.settings import TrainingConfig
from flows.backend import threads
from flows.training import Outcome, train

__all__ = ["federated_training"]


@flow(
    name="federated-training",
    flow_run_name="{config.name}",
    task_runner=threads(),
    description="Train a model over workers that keep their data.",
)
def federated_training(
    config: TrainingConfig = TrainingConfig(),  # noqa: B008 - frozen, and the form's default
    resume: str | None = None,
) -> Outcome:
    """Train over workers that keep their data.

    Args:
        config: What is learnt, from whose data, and how.
        resume: MLflow or Prefect run id of a training that stopped, or `latest`, to go on with.
    """
    return train(config, kind="federated", resume=resume)
