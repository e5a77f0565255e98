"""Flower's own strategies over given updates; runs in Flower's environment, not in ours.

    python strategies.py FOLDER

FOLDER/jobs.json: {name: [a class of flwr.serverapp.strategy, its keyword arguments]}.
FOLDER/given.npz: `start` [P], `changes` [T, K, P], `losses` [T, K] and `weights` [K]; in round t
worker k answers with the model it received plus changes[t, k].
FOLDER/models.npz, written: `name` [T, P], the model after each round.
"""

import json
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid, strategy
from flwr.supercore.task_identity import TaskIdentity
from numpy.typing import NDArray

Floats = NDArray[np.float64]


class Workers(Grid):
    """K nodes that answer at once, in the order of their numbers, what they are told to."""

    def __init__(self, changes: Floats, losses: Floats, weights: Floats) -> None:
        self.answers = zip(changes, losses, strict=True)
        self.weights = weights

    def get_node_ids(self) -> Iterable[int]:
        return range(1, len(self.weights) + 1)

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        asked = sorted(messages, key=lambda message: message.metadata.dst_node_id)
        if not asked:  # to evaluate: nobody is
            return []
        each = zip(asked, *next(self.answers), self.weights, strict=True)
        return [reply(message, *answer) for message, *answer in each]

    # The rest of the interface; strategies do not use it.
    run = set_run = create_message = push_messages = pull_messages = None


def reply(message: Message, change: Floats, loss: float, weight: float) -> Message:
    """One node's answer."""
    received = message.content["arrays"]["w"].numpy()
    content = {
        "arrays": ArrayRecord({"w": Array(received + change)}),
        "metrics": MetricRecord({"num-examples": float(weight), "train_loss": float(loss)}),
    }
    return Message(RecordDict(content), reply_to=message)


def models(kind: str, arguments: dict[str, float], given: dict[str, Floats]) -> Floats:
    """The model after each round, [T, P]."""
    after: list[Floats] = []
    made = getattr(strategy, kind)(
        fraction_evaluate=0.0, min_available_nodes=len(given["weights"]), **arguments
    )
    made.start(
        Workers(given["changes"], given["losses"], given["weights"]),
        ArrayRecord({"w": Array(given["start"])}),
        num_rounds=len(given["changes"]),
        evaluate_fn=lambda number, arrays: after.append(arrays["w"].numpy().copy()),
    )
    return np.stack(after[1:])  # the first is the start


def main(folder: Path) -> None:
    """Run all jobs."""
    # Every process of Flower's has one, and no message can be made without.
    TaskIdentity.run_id = TaskIdentity.task_id = TaskIdentity.node_id = 1
    jobs = json.loads((folder / "jobs.json").read_text())
    with np.load(folder / "given.npz") as given:
        found = {name: models(*job, dict(given)) for name, job in jobs.items()}
    np.savez(folder / "models.npz", **found)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
