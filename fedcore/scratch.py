"""Folders for the values of a running training that other processes read, too.

    <home>/values/<name>/lock      held by the training's process
    <home>/values/<name>/...       its stores

What a killed training has left behind, the next one on this machine removes.
"""

import fcntl
import shutil
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import fsspec

from fedcore.errors import ConfigError
from fedcore.store import open_store

__all__ = ["folder_at", "own_folder"]


@contextmanager
def own_folder(values: Path) -> Iterator[str]:
    """The URL of a fresh folder in `values`, which is gone after the block."""
    values.mkdir(parents=True, exist_ok=True)
    for left in values.iterdir():
        with ExitStack() as held:
            if _hold(left, held):
                shutil.rmtree(left)
    with ExitStack() as held:
        made = values / uuid.uuid4().hex
        made.mkdir()
        _hold(made, held)
        try:
            yield f"file://{made}"
        finally:
            shutil.rmtree(made)


@contextmanager
def folder_at(store: str) -> Iterator[str]:
    """The URL of a fresh folder at an fsspec URL, which is gone after the block.

    Raises:
        ConfigError: nothing can be written there.
    """
    # Other processes may work in another folder: a relative path would be another place there.
    base = store.rstrip("/") if "://" in store else f"file://{Path(store).absolute()}"
    url = f"{base}/{uuid.uuid4().hex}"
    try:
        open_store(url).put("begun", ())
    except Exception as error:  # whatever the many file systems of fsspec raise
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise ConfigError(
            f"backend.store must be a folder that can be written to; given: {store} ({first}); "
            "check its name, the rights, and that fsspec's package for it is installed."
        ) from None
    try:
        yield url
    finally:
        files, folder = fsspec.core.url_to_fs(url)
        files.rm(folder, recursive=True)


def _hold(folder: Path, held: ExitStack) -> bool:
    """Lock the folder until `held` ends; whether nobody else has it."""
    try:
        file = held.enter_context((folder / "lock").open("a"))
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
