"""Many simulated workers trained at once, with the numbers of as many trained alone."""

from fedcore.cohort.participation import participate_together
from fedcore.cohort.training import train_cohort
from fedcore.cohort.update import CohortUpdate
from fedcore.settings.training import Engine

__all__ = ["CohortUpdate", "Engine", "participate_together", "train_cohort"]
