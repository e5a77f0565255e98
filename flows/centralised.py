"""The flow `centralised-training`: the baseline without federation."""

from prefect import flow

from fedcore.settings import TrainingConfig
from flows.backend import threads
from flows.training import Outcome, train

__all__ = ["centralised_training"]


@flow(
    name="centralised-training",
    flow_run_name="{config.name}",
    task_runner=threads(),
    description="Train the same model on all the data in one place, as a baseline.",
)
def centralised_training(
    config: TrainingConfig = TrainingConfig(),  # noqa: B008 - frozen, and the form's default
    resume: str | None = None,
) -> Outcome:
    """Train on the pooled data with the same settings; the only worker is `centralised`.

    Args:
        config: The settings of the federated training to compare with.
        resume: MLflow or Prefect run id of a training that stopped, or `latest`, to go on with.
    """
    return train(config, kind="centralised", resume=resume)
