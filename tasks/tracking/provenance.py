"""What a run records of itself before its first round: settings, and the data as fingerprints."""

import hashlib
import json
from collections.abc import Iterator, Sequence

import yaml
from mlflow.entities import Dataset, DatasetInput, InputTag, Param
from mlflow.utils.validation import MAX_PARAM_VAL_LENGTH
from pydantic import BaseModel

from fedcore.settings import TrainingConfig
from fedcore.values import Description

__all__ = [
    "dataset_inputs",
    "parameters",
    "settings_digest",
    "settings_yaml",
    "workers_json",
]

MOST_DATASETS = 50
"""Workers that get a data set of their own in MLflow; the combined one is always there."""
DIGEST_CHARACTERS = 32
"""MLflow takes 36 at most."""


def settings_digest(config: TrainingConfig) -> str:
    """sha256 of the settings as canonical JSON: two runs with equal digests had the same ones."""
    canonical = json.dumps(
        config.model_dump(mode="json"), sort_keys=True, separators=(",", ":"), ensure_ascii=False
    )
    return hashlib.sha256(canonical.encode()).hexdigest()


def settings_yaml(config: TrainingConfig) -> bytes:
    """The settings as a file that `fedrounds train` takes."""
    tree = config.model_dump(mode="json")
    return yaml.safe_dump(tree, sort_keys=False, allow_unicode=True).encode()


def parameters(config: TrainingConfig) -> list[Param]:
    """The settings as flat MLflow parameters: `local.learning_rate`, `strategy.kind`, ..."""
    return [Param(name, _short(value)) for name, value in _flat(config, "")]


def _flat(settings: BaseModel, prefix: str) -> Iterator[tuple[str, str]]:
    for name in type(settings).model_fields:
        value = getattr(settings, name)
        if isinstance(value, BaseModel):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            # Dictionaries stay whole: their keys are the user's and need not be legal names.
            yield f"{prefix}{name}", _text(value)


def _text(value: object) -> str:
    if value is None:
        return "none"
    if isinstance(value, str):
        return value
    return json.dumps(value, default=_plain, ensure_ascii=False)


def _plain(value: object) -> object:
    assert isinstance(value, BaseModel), value
    return value.model_dump(mode="json")


def _short(text: str) -> str:
    if len(text) <= MAX_PARAM_VAL_LENGTH:
        return text
    note = f"... ({len(text)} characters; whole in settings.yaml)"
    return text[: MAX_PARAM_VAL_LENGTH - len(note)] + note


def dataset_inputs(
    config: TrainingConfig, descriptions: Sequence[Description]
) -> list[DatasetInput]:
    """The training data as MLflow data sets: all of it together, and each worker's part."""
    source = config.data.source
    where = _short(json.dumps(source.model_dump(mode="json")))
    parts = descriptions if len(descriptions) <= MOST_DATASETS else ()
    named = [(source.kind, _combined(descriptions)), *((d.worker, _one(d)) for d in parts)]
    return [
        DatasetInput(
            Dataset(
                name=name,
                digest=str(profile["fingerprint"])[:DIGEST_CHARACTERS],
                source_type="fedrounds",
                source=where,
                profile=json.dumps(profile),
            ),
            [InputTag("mlflow.data.context", "training")],
        )
        for name, profile in named
    ]


def _one(description: Description) -> dict[str, object]:
    return {
        "num_rows": description.records,
        "inputs": list(description.inputs),
        "labels": dict(description.labels),
        "fingerprint": description.fingerprint,
    }


def _combined(descriptions: Sequence[Description]) -> dict[str, object]:
    parts = sorted((d.worker, d.fingerprint) for d in descriptions)
    return {
        "num_rows": sum(d.records for d in descriptions),
        "workers": sum(d.workers for d in descriptions),
        "fingerprint": hashlib.sha256(json.dumps(parts).encode()).hexdigest(),
    }


def workers_json(descriptions: Sequence[Description]) -> bytes:
    """What the workers let out about their data: counts and fingerprints, never a record."""
    listed = [{"worker": d.worker, **_one(d)} for d in descriptions]
    for entry in listed:
        entry["records"] = entry.pop("num_rows")
    return json.dumps(listed, indent=2).encode()
