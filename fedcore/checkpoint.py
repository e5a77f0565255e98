"""A run's folder: its settings, one checkpoint per round, and a lock.

    <home>/<run>/settings.json               of a comparison: comparison.json, and no checkpoints
    <home>/<run>/round-00007.safetensors     ServerState after round 7; 0 is the start
    <home>/<run>/lock                        held by the process that trains

A checkpoint is renamed into place whole: it is there or it is not. A round counts when its
checkpoint is there.
"""

import fcntl
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from fedcore.codec import decode, encode
from fedcore.disk import write_whole
from fedcore.errors import UnknownRun
from fedcore.settings import TrainingConfig
from fedcore.settings.comparison import Comparison
from fedcore.values import RoundRecord, ServerState

__all__ = ["ComparisonFolder", "RunFolder", "home"]


def home() -> Path:
    """Where runs are kept: FEDROUNDS_HOME, else `.fedrounds` in the working folder."""
    return Path(os.environ.get("FEDROUNDS_HOME") or ".fedrounds").absolute()


@dataclass(frozen=True)
class RunFolder:
    """One run's folder; nothing is written before `create`."""

    path: Path

    @classmethod
    def of(cls, run: str) -> "RunFolder":
        """The folder of a run in this home."""
        return cls(home() / run)

    def create(self, config: TrainingConfig) -> None:
        """Make the folder and keep the settings in it."""
        self.path.mkdir(parents=True, exist_ok=True)
        write_whole(self.path / "settings.json", config.model_dump_json(indent=2).encode())

    def settings(self) -> TrainingConfig:
        """The settings that the run was started with."""
        try:
            content = (self.path / "settings.json").read_text(encoding="utf-8")
        except FileNotFoundError:
            raise UnknownRun(
                f"A run must have its folder of checkpoints here; given: {self.path.name}, which "
                f"has none under {self.path.parent}; set FEDROUNDS_HOME to where it was started."
            ) from None
        return TrainingConfig.model_validate_json(content)

    def save(self, state: ServerState) -> Path:
        """Commit a state: once this returns, it survives a kill and a power cut."""
        path = self._round(state.round)
        write_whole(path, encode(state))
        return path

    def rounds(self) -> list[int]:
        """The rounds that are committed, ascending."""
        names = (re.fullmatch(r"round-(\d+)\.safetensors", f.name) for f in self._files())
        return sorted(int(name[1]) for name in names if name)

    def load(self, round: int) -> ServerState:
        """The state after a round.

        Raises:
            CheckpointError: damaged, or not a checkpoint.
            UnknownRun: no such round.
        """
        try:
            content = self._round(round).read_bytes()
        except FileNotFoundError:
            raise UnknownRun(
                f"The round must be one of the {len(self.rounds())} committed; given: {round}; "
                f"choose from 0 to {max(self.rounds(), default=0)}."
            ) from None
        return decode(content, ServerState)

    def latest(self) -> ServerState | None:
        """The last committed state, if there is one."""
        rounds = self.rounds()
        return self.load(rounds[-1]) if rounds else None

    def records(self) -> list[RoundRecord]:
        """The history: the record of every committed round, ascending."""
        states = (self.load(round) for round in self.rounds() if round)
        return [state.record for state in states if state.record is not None]

    @contextmanager
    def lock(self) -> Iterator[int]:
        """Hold the run: two processes must not train it at once. Yields the number of the attempt.

        The lock is the operating system's, so it ends with the process, however that dies.

        Raises:
            UnknownRun: another process trains this run.
        """
        with _locked(self.path) as attempt:
            yield attempt

    def _files(self) -> list[Path]:
        return list(self.path.iterdir()) if self.path.is_dir() else []

    def _round(self, round: int) -> Path:
        return self.path / f"round-{round:05d}.safetensors"


@dataclass(frozen=True)
class ComparisonFolder:
    """A comparison's folder. Which cells have a run, and how these ended, MLflow and the cells'
    own folders say."""

    path: Path

    @classmethod
    def of(cls, run: str) -> "ComparisonFolder":
        """The folder of a comparison's run in this home."""
        return cls(home() / run)

    @property
    def file(self) -> Path:
        """Where its settings lie."""
        return self.path / "comparison.json"

    def create(self, comparison: Comparison) -> None:
        """Make the folder and keep the settings in it."""
        self.path.mkdir(parents=True, exist_ok=True)
        write_whole(self.file, comparison.model_dump_json(indent=2).encode())

    def settings(self) -> Comparison:
        """The comparison that was started.

        Raises:
            UnknownRun: it was started somewhere else.
        """
        try:
            content = self.file.read_text(encoding="utf-8")
        except FileNotFoundError:
            raise UnknownRun(
                f"A comparison must have its folder here; given: {self.path.name}, which has none "
                f"under {self.path.parent}; set FEDROUNDS_HOME to where it was started."
            ) from None
        return Comparison.model_validate_json(content)

    @contextmanager
    def lock(self) -> Iterator[int]:
        """Hold the comparison; see `RunFolder.lock`."""
        with _locked(self.path) as attempt:
            yield attempt


@contextmanager
def _locked(folder: Path) -> Iterator[int]:
    with (folder / "lock").open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.seek(0)
            holder = json.loads(file.read() or "{}").get("process", "unknown")
            raise UnknownRun(
                f"A run must be trained by one process at a time; given: {folder.name}, "
                f"which process {holder} is training; wait for it, or stop it."
            ) from None
        file.seek(0)
        attempt = int(json.loads(file.read() or "{}").get("attempt", 0)) + 1
        file.truncate(0)
        file.write(json.dumps({"process": os.getpid(), "attempt": attempt}))
        file.flush()
        os.fsync(file.fileno())
        yield attempt
