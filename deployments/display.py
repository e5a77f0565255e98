"""What a person sees of a running training: a progress bar on a terminal, plain lines elsewhere."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

__all__ = ["Display", "displayed"]


class Display(logging.Handler):
    """Listens to the `fedrounds` logger: its lines are what a training has to say."""

    def __init__(self, console: Console) -> None:
        super().__init__(logging.INFO)
        self.console = console
        self.bar: Progress | None = None
        self.run_id: str | None = None

    def emit(self, record: logging.LogRecord) -> None:
        """Show one line; move the bar if it is a round's."""
        self.run_id = getattr(record, "run_id", self.run_id)
        finished = getattr(record, "record", None)
        if finished is not None and self.bar is not None:
            text = record.getMessage().partition(", ")[2]
            self.bar.update(self.bar.task_ids[0], completed=finished.round, text=text)
        else:
            self.console.print(record.getMessage(), markup=False, highlight=False, soft_wrap=True)
        rounds = getattr(record, "rounds", None)
        if rounds is not None and self.console.is_terminal and self.bar is None:
            self.bar = Progress(
                TextColumn("round"),
                MofNCompleteColumn(),
                BarColumn(bar_width=30),
                TimeElapsedColumn(),
                TextColumn("{task.fields[text]}", markup=False),
                console=self.console,
            )
            self.bar.add_task("rounds", total=rounds, completed=record.__dict__["done"], text="")
            self.bar.start()
        if getattr(record, "closing", False):
            self.stop()

    def stop(self) -> None:
        """Leave the bar as it stands."""
        if self.bar is not None:
            self.bar.stop()
            self.bar = None


@contextmanager
def displayed(about: str = "fedrounds") -> Iterator[Display]:
    """Show what the logger named `about` says during the block, and warnings of all of ours."""
    display = Display(Console(file=sys.stdout))
    display.addFilter(lambda said: said.name.startswith(about) or said.levelno > logging.INFO)
    logger = logging.getLogger("fedrounds")
    logger.addHandler(display)
    try:
        yield display
    finally:
        display.stop()
        logger.removeHandler(display)
