"""TrainingConfig and its groups: the Prefect form, the YAML file and the record in MLflow.

Nothing here imports torch: a command line that only checks settings answers at once.
"""

from fedcore.settings.choice import Settings
from fedcore.settings.data import DataSettings, Partition, Source
from fedcore.settings.evaluation import EvaluationSettings
from fedcore.settings.loading import configured, explain, parse, read, replace
from fedcore.settings.model import Initial, Loss, Metric, Model
from fedcore.settings.participation import Sampling, StopSettings, TermsSettings
from fedcore.settings.strategies import StrategySettings
from fedcore.settings.training import (
    GroupedWorkers,
    LocalSettings,
    SimulatedWorkers,
    TrainingConfig,
    VirtualWorkers,
)

__all__ = [
    "DataSettings",
    "EvaluationSettings",
    "GroupedWorkers",
    "Initial",
    "LocalSettings",
    "Loss",
    "Metric",
    "Model",
    "Partition",
    "Sampling",
    "Settings",
    "SimulatedWorkers",
    "Source",
    "StopSettings",
    "StrategySettings",
    "TermsSettings",
    "TrainingConfig",
    "VirtualWorkers",
    "configured",
    "explain",
    "parse",
    "read",
    "replace",
]
