"""MLflow's own settings where its defaults do not suit a training; what the user has set wins.

Importing this module sets them: MLflow reads some of them while it is imported, and all of them
come from the environment, not from arguments. `tasks.tracking` imports this module first.
"""

import os

__all__ = ["DEFAULTS"]

DEFAULTS = {
    # A server that is gone is asked again from the history at the next round; MLflow's own seven
    # tries of 120 seconds with growing pauses would hold a round up for minutes.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    # Standard output belongs to fedrounds: with --json its last line is one JSON object.
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    # A newcomer has no use for "Creating initial MLflow database tables...".
    "MLFLOW_LOGGING_LEVEL": "ERROR",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    # Saving or loading a model runs pip otherwise, which can ask the network.
    "MLFLOW_SKIP_PIP_REQUIREMENTS_CHECK": "true",
}

for _name, _value in DEFAULTS.items():
    os.environ.setdefault(_name, _value)
