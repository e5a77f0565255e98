"""Where Refs point: live objects in this process, or files on any fsspec URL beyond it.

A live store neither copies nor serialises. Both have the same few verbs, so a worker does not
know which one it writes to.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

import fsspec

from fedcore.codec import decode, encode
from fedcore.errors import CheckpointError
from fedcore.values import Ref, Ticket

__all__ = ["Store", "fetch", "open_store", "put"]

T = TypeVar("T")


class Store(Protocol):
    """A place for values, by key."""

    def put(self, key: str, value: object) -> None:
        """Keep a value under a key, replacing what was there."""

    def get(self, key: str, kind: type[T]) -> T:
        """The value under a key. Raises CheckpointError if there is none of that kind."""

    def once(self, key: str, make: Callable[[], object]) -> None:
        """Keep what `make` returns, unless the key is there; concurrent callers wait."""

    def drop(self, prefix: str) -> None:
        """Forget every value whose key begins so."""


@dataclass
class _LiveStore:
    values: dict[str, object] = field(default_factory=dict)
    locks: dict[str, threading.Lock] = field(default_factory=dict)
    guard: threading.Lock = field(default_factory=threading.Lock)

    def put(self, key: str, value: object) -> None:
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

    def drop(self, prefix: str) -> None:
        with self.guard:
            for key in [key for key in (*self.values, *self.locks) if key.startswith(prefix)]:
                self.values.pop(key, None)
                self.locks.pop(key, None)


@dataclass(frozen=True)
class _FileStore:
    url: str

    def _path(self, key: str) -> str:
        return f"{self.url.rstrip('/')}/{key}.safetensors"

    def put(self, key: str, value: object) -> None:
        files, path = fsspec.core.url_to_fs(self._path(key))
        files.makedirs(files._parent(path), exist_ok=True)
        # One call writes it whole: no reader ever sees half a value on an object store; on a
        # local disk a half-written file does not decode.
        files.pipe_file(path, encode(value))

    def get(self, key: str, kind: type[T]) -> T:
        files, path = fsspec.core.url_to_fs(self._path(key))
        try:
            content = files.cat_file(path)
        except FileNotFoundError:
            raise _missing(key, kind) from None
        return decode(content, kind)

    def once(self, key: str, make: Callable[[], object]) -> None:
        files, path = fsspec.core.url_to_fs(self._path(key))
        # Two processes that both make it write the same bytes: streams depend on the ticket only.
        if not files.exists(path):
            self.put(key, make())

    def drop(self, prefix: str) -> None:
        files, path = fsspec.core.url_to_fs(f"{self.url.rstrip('/')}/{prefix}")
        for found in files.glob(f"{path}*"):
            files.rm(found, recursive=True)


def _missing(key: str, kind: type) -> CheckpointError:
    return CheckpointError(
        f"A {kind.__name__} must lie under {key}; given: nothing; "
        "the round it belonged to is over, or another process holds it."
    )


_live: dict[str, _LiveStore] = {}


def open_store(url: str) -> Store:
    """The store at a URL: `live:name` in this process, else anything that fsspec knows."""
    if url.startswith("live:"):
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
