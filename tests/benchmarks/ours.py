"""The same workloads trained by us: the engine alone, or the whole product.

python -m tests.benchmarks.ours NAME engine|fedrounds HOSTS
"""

import logging
import sys
from pathlib import Path

import torch

from tests.benchmarks.laps import Laps


def engine(name: str, hosts: int, laps: Laps) -> None:
    """A loop over fedcore, without Prefect, MLflow and checkpoints."""
    from fedcore.simulation import simulate
    from tests.benchmarks.workloads import config

    # What flows/training.py says for the process that it runs in.
    torch.set_num_threads(1)
    for state in simulate(config(name, hosts=hosts)):
        assert state.record is not None, "a round that ended has a record"
        laps.lap(state.record.metrics.get("test_accuracy", 0.0))


def product(name: str, hosts: int, laps: Laps) -> None:
    """The flow with the servers that the environment names, and a checkpoint every round."""
    from deployments.prefect_api import prefect_api

    logging.getLogger("fedrounds").addHandler(Committed(laps))
    with prefect_api(log=Path("prefect.log")) as api:
        api.wait_ready()
        from flows.federated import federated_training
        from tests.benchmarks.workloads import config

        federated_training(config(name, hosts=hosts))


class Committed(logging.Handler):
    """Notes when each round is committed."""

    def __init__(self, laps: Laps) -> None:
        super().__init__()
        self.laps = laps

    def emit(self, record: logging.LogRecord) -> None:
        """A round's line has its record with it."""
        finished = getattr(record, "record", None)
        if finished is not None:
            self.laps.lap(finished.metrics.get("test_accuracy", 0.0))


def main() -> None:
    """Measure in this process."""
    name, system, hosts = sys.argv[1:]
    laps = Laps()
    {"engine": engine, "fedrounds": product}[system](name, int(hosts), laps)
    laps.report()


if __name__ == "__main__":
    main()
