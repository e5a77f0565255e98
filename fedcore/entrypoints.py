"""Your own code by name: `module:name` in the settings becomes a callable.

Whoever writes the settings chooses code that runs here. That is what custom models and sources
are for; settings from somebody you do not trust must not reach this module.
"""

import functools
import importlib
import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import ModuleType

from fedcore.errors import ConfigError, nearest

__all__ = ["load_callable", "load_entrypoint"]

# sys.path belongs to the whole process: two imports at once must not undo each other's change.
_search = threading.RLock()


def load_entrypoint(entrypoint: str, *, what: str) -> Callable[..., object]:
    """The callable that `module:name` names; `what` says in messages what it is for.

    Modules are found where Python finds them, then in the working folder. `__main__:name` finds
    what a notebook or script has defined itself.

    Raises:
        ConfigError: no such module or name, an import that fails, or nothing that can be called.

    >>> load_entrypoint("math:hypot", what="a custom metric")(3, 4)
    5.0
    """
    where, colon, name = entrypoint.partition(":")
    if not (where and colon and name):
        raise ConfigError(
            f"An entrypoint must be module:name; given: {entrypoint!r} for {what}; "
            "write for example my_models:Net."
        )
    module = _module(where, entrypoint=entrypoint, what=what)
    if not hasattr(module, name):
        public = [known for known in vars(module) if not known.startswith("_")]
        raise ConfigError(
            f"The entrypoint of {what} must name something in its module; given: {entrypoint!r}, "
            f"and {where} has no {name!r}{nearest(name, public)}; correct the name."
        )
    found: object = getattr(module, name)
    if not callable(found):
        raise ConfigError(
            f"The entrypoint of {what} must be a class or function; given: {entrypoint!r}, "
            f"which is a {type(found).__name__}; name what is to be called."
        )
    return found


def load_callable(
    entrypoint: str, *, arguments: Mapping[str, object], what: str
) -> Callable[..., object]:
    """A function with these keyword arguments bound, or an instance of a class made from them.

    Raises:
        ConfigError: as `load_entrypoint`; or a class that cannot be made, or made not callable.
    """
    found = load_entrypoint(entrypoint, what=what)
    if not isinstance(found, type):
        return functools.partial(found, **arguments)
    try:
        made: object = found(**arguments)
    except Exception as error:
        raise ConfigError(
            f"{entrypoint} must accept its arguments to become {what}; given: "
            f"{dict(arguments)}, and it raised {type(error).__name__}: {error}; "
            "correct the arguments."
        ) from error
    if not callable(made):
        raise ConfigError(
            f"A class used as {what} must make callables; given: {entrypoint!r}, which has no "
            "__call__; add one, or name a function."
        )
    return made


def _module(where: str, *, entrypoint: str, what: str) -> ModuleType:
    try:
        with _search, _working_folder():
            importlib.invalidate_caches()
            return importlib.import_module(where)
    except ModuleNotFoundError as error:
        missing = error.name or where
        if where == missing or where.startswith(f"{missing}."):
            raise ConfigError(
                f"The module of {what} must be importable; given: {entrypoint!r}, and there is no "
                f"module {missing!r} among the installed packages or in {os.getcwd()}; "
                "install it, or start from the folder that holds it."
            ) from None
        raise _failed(error, entrypoint=entrypoint, what=what) from error
    except Exception as error:
        raise _failed(error, entrypoint=entrypoint, what=what) from error


def _failed(error: Exception, *, entrypoint: str, what: str) -> ConfigError:
    return ConfigError(
        f"The module of {what} must import without error; given: {entrypoint!r}, which raised "
        f"{type(error).__name__}: {error}; mend the module."
    )


@contextmanager
def _working_folder() -> Iterator[None]:
    # At the end of the search path, so that a data.py or flows/ beside a notebook can never stand
    # in for an installed package, ours included.
    folder = os.getcwd()
    added = folder not in sys.path
    if added:
        sys.path.append(folder)
    try:
        yield
    finally:
        if added and folder in sys.path:
            sys.path.remove(folder)
