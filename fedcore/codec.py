"""Values of a round <-> bytes: tensors as safetensors, everything else as JSON in its header.

Only the classes listed here are ever built from bytes; no class is looked up by a name in the
input, and nothing is unpickled.
"""

import dataclasses
import json
from typing import TypeVar

from pydantic import BaseModel
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from fedcore import settings, values
from fedcore.cohort import CohortUpdate
from fedcore.data.dataset import Dataset
from fedcore.data.holdings import Holdings
from fedcore.errors import CheckpointError
from fedcore.models import Blueprint
from fedcore.remembering import ControlVariates, DynamicRegulariser, Remembered
from fedcore.rules import ControlVariate, Dynamic, Plain, Proximal
from fedcore.settings import model as model_settings
from fedcore.settings import training as training_settings
from fedcore.weightings import ByRecords, BySteps, Evenly, Fairly, Normalised

__all__ = ["decode", "encode"]

T = TypeVar("T")

_DATACLASSES: dict[str, type] = {
    kind.__name__: kind
    for kind in (
        Blueprint,
        ByRecords,
        BySteps,
        CohortUpdate,
        ControlVariate,
        ControlVariates,
        Dataset,
        Dynamic,
        DynamicRegulariser,
        Evenly,
        Fairly,
        Holdings,
        Normalised,
        Plain,
        Proximal,
        Remembered,
        *(getattr(values, name) for name in values.__all__),
    )
}
_SETTINGS: dict[str, type[BaseModel]] = {
    kind.__name__: kind
    for module in (model_settings, training_settings)
    for name in module.__all__
    if isinstance(kind := getattr(module, name), type) and issubclass(kind, settings.Settings)
}


def encode(value: object) -> bytes:
    """The bytes of a value of a round.

    Raises:
        TypeError: something in it has no encoding.
    """
    tensors: dict[str, Tensor] = {}
    tree = _pack(value, (), tensors)
    contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
    return save(contiguous, {"fedrounds": json.dumps(tree, separators=(",", ":"))})


def decode(content: bytes, kind: type[T]) -> T:
    """The value in these bytes, which must be of this kind.

    Raises:
        CheckpointError: damaged bytes, or another kind of value.
    """
    try:
        length = int.from_bytes(content[:8], "little")
        tree = json.loads(json.loads(content[8 : 8 + length])["__metadata__"]["fedrounds"])
        value = _unpack(tree, load(content))
    except (SafetensorError, ValueError, KeyError, TypeError, IndexError) as error:
        raise CheckpointError(
            f"A stored {kind.__name__} must be whole; given: {len(content)} bytes that cannot be "
            f"read ({type(error).__name__}); remove the file, or restore it from a copy."
        ) from None
    if not isinstance(value, kind):
        raise CheckpointError(
            f"A {kind.__name__} must be stored here; given: a {type(value).__name__}; "
            "check where the file came from."
        )
    return value


def _pack(value: object, path: tuple[str, ...], tensors: dict[str, Tensor]) -> object:
    """JSON for `value`, with its tensors put aside under the path where they were found."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Tensor):
        # Tensors that share memory cannot be saved side by side; a clone shares nothing.
        tensors["/".join(path)] = value.detach().clone()
        return {"$tensor": "/".join(path)}
    if isinstance(value, tuple | list):
        packed = [_pack(item, (*path, str(i)), tensors) for i, item in enumerate(value)]
        return {"$tuple": packed} if isinstance(value, tuple) else packed
    if isinstance(value, BaseModel) and type(value).__name__ in _SETTINGS:
        return {"$settings": type(value).__name__, "fields": value.model_dump(mode="json")}
    if dataclasses.is_dataclass(value) and type(value).__name__ in _DATACLASSES:
        fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
        packed_fields = {n: _pack(v, (*path, n), tensors) for n, v in fields.items()}
        return {"$value": type(value).__name__, "fields": packed_fields}
    if isinstance(value, dict):
        return {"$dict": {name: _pack(v, (*path, name), tensors) for name, v in value.items()}}
    raise TypeError(f"Only values of a round can be stored; given: {type(value).__name__}.")


def _unpack(tree: object, tensors: dict[str, Tensor]) -> object:
    if isinstance(tree, list):
        return [_unpack(item, tensors) for item in tree]
    if not isinstance(tree, dict):
        return tree
    if "$tensor" in tree:
        return tensors[tree["$tensor"]]
    if "$tuple" in tree:
        return tuple(_unpack(item, tensors) for item in tree["$tuple"])
    if "$settings" in tree:
        return _SETTINGS[tree["$settings"]].model_validate(tree["fields"])
    if "$value" in tree:
        fields = {name: _unpack(v, tensors) for name, v in tree["fields"].items()}
        return _DATACLASSES[tree["$value"]](**fields)
    return {name: _unpack(v, tensors) for name, v in tree["$dict"].items()}
