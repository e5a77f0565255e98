"""`fedrounds evaluate`: the flow `evaluate-model` in this process, and its table."""

from collections.abc import Mapping

from rich.console import Console
from rich.table import Table

from deployments.prefect_api import prefect_api
from fedcore.checkpoint import home

__all__ = ["run_evaluation"]

MOST_COLUMNS = 12
"""Workers whose matrix fits into a narrow terminal."""


def run_evaluation(run: str, *, round: int | None, cross_site: bool, json: bool) -> None:
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
                found = evaluate_model(run, round=round, cross_site=cross_site)
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
    if found.cross_site:
        _print_across(found.cross_site)
    if json:
        print(found.model_dump_json())


def _print_across(rows: Mapping[str, Mapping[str, float]]) -> None:
    workers = list(next(iter(rows.values())))
    if len(workers) > MOST_COLUMNS:
        print(f"{len(workers)} workers' models on each one's records: see the artifact cross-site")
        return
    table = Table("model of", *map(str, range(1, len(workers) + 1)), padding=(0, 0))
    for model, row in rows.items():
        place = f"{workers.index(model) + 1:>2} " if model in row else "   "
        table.add_row(f"{place}{model}", *(f"{value:.2f}" for value in row.values()))
    Console().print("Each local model on the records of", style="bold")
    Console().print(", ".join(f"{place} {name}" for place, name in enumerate(workers, start=1)))
    Console().print(table)
