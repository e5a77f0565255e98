"""`fedrounds evaluate`: the flow `evaluate-model` in this process, and its table."""

from rich.console import Console
from rich.table import Table

from deployments.prefect_api import prefect_api
from fedcore.checkpoint import home

__all__ = ["run_evaluation"]


def run_evaluation(run: str, *, round: int | None, json: bool) -> None:
    """Measure a run's model and print the figures.

    Raises:
        UnknownRun: no such run or round.
    """
    with prefect_api(log=home() / "prefect-server.log") as api:
        from deployments.drain import counted_task_runs, drain
        from flows.evaluate import evaluate_model

        api.wait_ready()
        with counted_task_runs() as count:
            try:
                found = evaluate_model(run, round=round)
            finally:
                drain(count)
    print(f"run {found.run_id}, round {found.round}")
    names = list(next(iter(found.workers.values())))
    table = Table("where", *names)
    central = {name.removeprefix("test_"): value for name, value in found.central.items()}
    for where, figures in [("central test", central), *found.workers.items()]:
        table.add_row(where, *(f"{figures[n]:.4g}" if n in figures else "" for n in names))
    Console().print(table)
    for name, value in found.overall.items():
        print(f"{name:<25}  {value:.4g}")
    for worker, why in found.missing.items():
        print(f"not measured at {worker} ({why})")
    if json:
        print(found.model_dump_json())
