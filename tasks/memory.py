"""What Prefect keeps of finished task runs until the flow ends."""

from prefect.context import FlowRunContext

__all__ = ["forget_task_runs"]


def forget_task_runs() -> None:
    """Let go of the task runs of a committed round: about 3 kB each, or 30 MB in 10,000.

    Prefect keeps them to draw edges to later task runs; edges only join verbs of one round.
    """
    context = FlowRunContext.get()
    if context is None:
        return
    context.run_results.clear()
    context.task_run_assets.clear()
    # The thread pool keeps an event for each task run it ever had, to cancel it with.
    getattr(context.task_runner, "_cancel_events", {}).clear()
