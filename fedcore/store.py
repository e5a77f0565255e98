"""Where Refs point: live objects in this process, or files on any fsspec URL beyond it.

A live store neither copies nor serialises. Both have the same few verbs, so a worker does not
know which one it writes to.
"""

import os
import threading
import uuid
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TypeVar

import fsspec
from fsspec.implementations.local import LocalFileSystem

from fedcore.codec import decode, encode
from fedcore.data.dataset import Dataset
from fedcore.data.holdings import Holdings
from fedcore.disk import write_whole
from fedcore.errors import CheckpointError
from fedcore.values import Ref, Ticket

__all__ = ["LIVE", "Store", "fetch", "open_store", "put"]

LIVE = "live:"
"""What the URLs of stores in this process begin with."""

ENDING = ".safetensors"

T = TypeVar("T")


class Store(Protocol):
    """A place for values, by key."""

    def put(self, key: str, value: object, *, durable: bool = False) -> None:
        """Keep a value under a key, replacing what was there; `durable`: it survives a power cut
        once this returns, where the store survives the process at all."""

    def get(self, key: str, kind: type[T]) -> T:
        """The value under a key. Raises CheckpointError if there is none of that kind."""

    def once(self, key: str, make: Callable[[], object]) -> None:
        """Keep what `make` returns, unless the key is there: all callers find the same value."""

    def names(self) -> list[str]:
        """The keys of all values."""

    def drop(self, prefix: str) -> None:
        """Forget every value whose key begins so."""


@dataclass
class _LiveStore:
    values: dict[str, object] = field(default_factory=dict)
    locks: dict[str, threading.Lock] = field(default_factory=dict)
    guard: threading.Lock = field(default_factory=threading.Lock)

    def put(self, key: str, value: object, *, durable: bool = False) -> None:
        self.values[key] = value

    def get(self, key: str, kind: type[T]) -> T:
        if key not in self.values:
            raise _missing(key, kind)
        value = self.values[key]
        if not isinstance(value, kind):
            raise CheckpointError(
                f"A {kind.__name__} must lie under {key}; given: a {type(value).__name__}; "
                "use the pointer that the verb before returned."
            )
        return value

    def once(self, key: str, make: Callable[[], object]) -> None:
        with self.guard:
            lock = self.locks.setdefault(key, threading.Lock())
        with lock:
            if key not in self.values:
                self.values[key] = make()

    def names(self) -> list[str]:
        with self.guard:
            return list(self.values)

    def drop(self, prefix: str) -> None:
        with self.guard:
            for key in [key for key in (*self.values, *self.locks) if key.startswith(prefix)]:
                self.values.pop(key, None)
                self.locks.pop(key, None)


@dataclass(frozen=True)
class _FileStore:
    """A value is there whole or not at all, whichever process looks."""

    url: str

    def put(self, key: str, value: object, *, durable: bool = False) -> None:
        files, path = self._at(key)
        if durable and isinstance(files, LocalFileSystem):
            files.makedirs(path.rpartition("/")[0], exist_ok=True)
            write_whole(Path(path), encode(value))
            return
        self._write(key, value, settle=os.replace)

    def get(self, key: str, kind: type[T]) -> T:
        if kind not in _RECORDS:
            return decode(self._read(key, kind), kind)
        # Records never change and their key names their content: each process reads them once.
        return _records.get(f"{self.url}/{key}", kind, lambda: self._read(key, kind))

    def once(self, key: str, make: Callable[[], object]) -> None:
        files, path = self._at(key)
        if not files.exists(path):
            # Another process may make it at the same time: the first stays. On an object store
            # the last does, with the same bytes: random streams depend on the ticket only.
            self._write(key, make(), settle=_name)

    def names(self) -> list[str]:
        names = [path.rpartition("/")[2] for path in self._paths()]
        whole = [name.removesuffix(ENDING) for name in names if name.endswith(ENDING)]
        return [name.replace("~", "/") for name in whole]

    def drop(self, prefix: str) -> None:
        files, _ = fsspec.core.url_to_fs(self.url)
        for path in self._paths():
            if path.rpartition("/")[2].startswith(_file_name(prefix)):
                files.rm(path)

    def _paths(self) -> list[str]:
        files, folder = fsspec.core.url_to_fs(self.url)
        files.invalidate_cache()
        try:
            return [str(path) for path in files.ls(folder, detail=False)]
        except FileNotFoundError:
            return []

    def _at(self, key: str) -> tuple[fsspec.AbstractFileSystem, str]:
        files, folder = fsspec.core.url_to_fs(self.url)
        return files, f"{folder}/{_file_name(key)}{ENDING}"

    def _read(self, key: str, kind: type) -> bytes:
        files, path = self._at(key)
        try:
            content: bytes = files.cat_file(path)
        except FileNotFoundError:
            raise _missing(key, kind) from None
        return content

    def _write(self, key: str, value: object, *, settle: Callable[[str, str], None]) -> None:
        content = encode(value)
        files, path = self._at(key)
        files.makedirs(path.rpartition("/")[0], exist_ok=True)
        if not isinstance(files, LocalFileSystem):
            files.pipe_file(path, content)  # an object store shows an object when it is whole
            return
        neighbour = f"{path}.{uuid.uuid4().hex}"
        Path(neighbour).write_bytes(content)
        settle(neighbour, path)


def _file_name(key: str) -> str:
    # One flat folder: no round leaves empty folders behind.
    return key.replace("/", "~")


def _name(made: str, path: str) -> None:
    """Give a file its name, unless another one has it already."""
    with suppress(FileExistsError):
        os.link(made, path)
    os.unlink(made)


@dataclass
class _Decoded:
    """Values read from files, as many as `limit` bytes hold; the longest unused goes first."""

    limit: int
    values: OrderedDict[str, tuple[object, int]] = field(default_factory=OrderedDict)
    guard: threading.Lock = field(default_factory=threading.Lock)

    def get(self, name: str, kind: type[T], read: Callable[[], bytes]) -> T:
        with self.guard:
            if name in self.values:
                self.values.move_to_end(name)
            else:
                content = read()
                self.values[name] = decode(content, kind), len(content)
            value = self.values[name][0]
            # The one that was just used stays, however large: it is wanted again in a round.
            while len(self.values) > 1 and self._size > self.limit:
                self.values.popitem(last=False)
        assert isinstance(value, kind), "a name stands for one value"
        return value

    @property
    def _size(self) -> int:
        return sum(size for _, size in self.values.values())


_RECORDS = (Dataset, Holdings)
# Enough for a few data sets like MNIST in every process, too little to fill a small machine.
_records = _Decoded(limit=2**29)


def _missing(key: str, kind: type) -> CheckpointError:
    return CheckpointError(
        f"A {kind.__name__} must lie under {key}; given: nothing; "
        "the round it belonged to is over, or another process holds it."
    )


_live: dict[str, _LiveStore] = {}


def open_store(url: str) -> Store:
    """The store at a URL: `live:name` in this process, else anything that fsspec knows."""
    if url.startswith(LIVE):
        return _live.setdefault(url, _LiveStore())
    return _FileStore(url)


def put(url: str, key: str, value: object, *, owner: str, ticket: Ticket | None = None) -> Ref:
    """Keep a value and return the pointer to it."""
    open_store(url).put(key, value)
    return Ref(owner=owner, kind=type(value).__name__, store=url, key=key, ticket=ticket)


def fetch(ref: Ref, kind: type[T]) -> T:
    """The value that a pointer names.

    Raises:
        CheckpointError: it points at nothing, or at something else.
    """
    return open_store(ref.store).get(ref.key, kind)
