"""`fedrounds compare`: servers, the flow, the table at the end."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from deployments.display import displayed
from deployments.prefect_api import prefect_api
from fedcore.checkpoint import home
from fedcore.settings.comparison import Comparison, Target

__all__ = ["run_comparison"]

WIDEST = 1000
"""More than any table needs."""


def run_comparison(comparison: Comparison | None, *, resume: str | None, json: bool) -> None:
    """Compare in this process, with its own Prefect server unless one is configured.

    Raises:
        ConfigError: bad input; nothing was written.
        FedroundsError: some trainings failed; the others are recorded.
    """
    with (
        prefect_api(log=home() / "prefect-server.log") as api,
        displayed("fedrounds.comparison"),
    ):
        # The server needs seconds to start; the imports and MLflow's database use them.
        from deployments.crash_automation import install_crash_automation
        from deployments.drain import counted_task_runs, drain
        from flows.compare import CellsFailed, check_comparison, compare_trainings
        from tasks import tracking

        with ThreadPoolExecutor(1) as side:
            prepared = side.submit(tracking.prepare)
            settings = check_comparison(comparison, resume=resume)
            prepared.result()
            side.submit(tracking.warm_up, beside_others=True)
            api.wait_ready()
        if api.server is not None:
            install_crash_automation()
        failed: CellsFailed | None = None
        with counted_task_runs() as count:
            try:
                compared = compare_trainings(settings, resume=resume)
            except CellsFailed as error:
                failed, compared = error, error.compared
            finally:
                drain(count)
    _show(compared.table, settings.target)
    if json:
        print(compared.model_dump_json(exclude={"table"}))
    if failed is not None:
        raise failed


def _show(rows: Sequence[dict[str, str]], target: Target | None) -> None:
    """The table; outside a terminal, where nobody can widen it, as wide as it needs."""
    console = Console()
    table = Table()
    for name in rows[0]:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*map(escape, row.values()))
    if not console.is_terminal:
        console = Console(width=Console(width=WIDEST).measure(table).maximum)
    said = "Mean ± sample standard deviation over seeds, after the last round"
    if target is not None:
        sign = ">=" if target.reach == "at_least" else "<="
        said += f"; target: {target.metric} {sign} {target.value:g}"
    print(f"\n{said}.")
    console.print(table)
