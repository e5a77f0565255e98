"""The backend `threads`: workers of this process, side by side."""

import os
from typing import cast

from prefect.futures import PrefectFuture
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner

__all__ = ["threads"]

# A few more than cores do no harm; without a bound Prefect starts a thread for every worker.
WIDTH = max(4, os.cpu_count() or 4)


def threads() -> TaskRunner[PrefectFuture[object]]:
    """A task runner that has as many workers train at a time as there are cores."""
    # The decorator asks for a runner of any future; the thread runner says which it makes.
    return cast("TaskRunner[PrefectFuture[object]]", ThreadPoolTaskRunner(max_workers=WIDTH))
