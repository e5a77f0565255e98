"""Where the model is measured while it is trained, and how often."""

from pydantic import Field

from fedcore.settings.choice import Settings

__all__ = ["EvaluationSettings"]


class EvaluationSettings(Settings):
    """Where the model is measured, every how many rounds."""

    central: int = Field(1, ge=0, le=1_000_000)
    """Measured on the central test records every so many rounds and after the last; 0: never."""
    workers: int = Field(0, ge=0, le=1_000_000)
    """Measured by all workers on their own records every so many rounds and after the last;
    0: never."""
    cross_site: bool = False
    """At the end, every worker's local model is measured on every worker's records: local models
    leave their workers. Up to 50 virtual workers."""
