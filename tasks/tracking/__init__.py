"""A training's history in MLflow. Nothing outside this package imports mlflow.

server       which MLflow, and does it answer
artifacts    where files lie, with a server and without
provenance   settings and fingerprints of the data
runs         one parent run for each training: start, reopen, finish
finding      the run that a name means
rounds       metrics and the model of every round
cross_site   every model on every worker's records, as a table
curves       single workers' losses, in child runs
children     which child runs there are
models       best and final as MLflow models
apart        a process for what would disturb trainings in other threads
comparisons  a parent run over many trainings
summary      the best round
progress     keeping up, and catching up, without ever stopping a training
environment  MLflow's own settings
"""

# First: MLflow reads these settings while it is imported.
import tasks.tracking.environment  # noqa: F401
from tasks.tracking.comparisons import (
    FoundComparison,
    cell_tags,
    cells_known,
    find_comparison,
    find_comparison_by_flow_run,
    finish_comparison,
    log_comparison,
    reopen_comparison,
    start_comparison,
)
from tasks.tracking.cross_site import log_cross_site
from tasks.tracking.curves import log_workers
from tasks.tracking.finding import find_by_flow_run, find_run
from tasks.tracking.models import LoggedModels, log_models, warm_up
from tasks.tracking.progress import PATIENCE_S, Progress, Tracker, attempt, keep_up, settle
from tasks.tracking.rounds import (
    load_model_file,
    log_history,
    log_picture,
    log_round,
    log_round_model,
)
from tasks.tracking.runs import (
    FlowRunLink,
    FoundRun,
    Run,
    finish,
    reopen,
    run_link,
    run_path,
    start_run,
)
from tasks.tracking.server import check_reachable, prepare, tracking_uri
from tasks.tracking.summary import summary

__all__ = [
    "PATIENCE_S",
    "FlowRunLink",
    "FoundComparison",
    "FoundRun",
    "LoggedModels",
    "Progress",
    "Run",
    "Tracker",
    "attempt",
    "cell_tags",
    "cells_known",
    "check_reachable",
    "find_by_flow_run",
    "find_comparison",
    "find_comparison_by_flow_run",
    "find_run",
    "finish",
    "finish_comparison",
    "keep_up",
    "load_model_file",
    "log_comparison",
    "log_cross_site",
    "log_history",
    "log_models",
    "log_picture",
    "log_round",
    "log_round_model",
    "log_workers",
    "prepare",
    "reopen",
    "reopen_comparison",
    "run_link",
    "run_path",
    "settle",
    "start_comparison",
    "start_run",
    "summary",
    "tracking_uri",
    "warm_up",
]
