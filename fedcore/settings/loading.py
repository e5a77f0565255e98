"""From YAML and `--set a.b=c` to checked settings, or one clear message."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, JsonValue, ValidationError

from fedcore.errors import ConfigError, nearest
from fedcore.settings.training import TrainingConfig

__all__ = ["assign", "configured", "explain", "parse", "read", "replace"]


def read(path: Path) -> dict[str, JsonValue]:
    """The mapping in a YAML file.

    Raises:
        ConfigError: no such file, not YAML, or not a mapping.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(
            f"A settings file must exist; given: {path}; check the name and the folder."
        ) from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(
            f"A settings file must be readable YAML; given: {path} ({reason}); mend the file."
        ) from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigError(
            f"A settings file must hold names and values; given: {path}, "
            f"which holds a {type(content).__name__}; write `rounds: 12` and the like."
        )
    return content


def replace(settings: Mapping[str, JsonValue], changes: Iterable[str]) -> dict[str, JsonValue]:
    """Settings with each `a.b=c` applied in turn; c is read as YAML.

    `x.kind=...` replaces the whole of x by that kind's defaults, because the fields of one kind
    mean nothing to another.

    >>> replace({"strategy": {"kind": "fedprox", "mu": 1}}, ["strategy.kind=fedavg", "rounds=3"])
    {'strategy': {'kind': 'fedavg'}, 'rounds': 3}
    """
    changed: dict[str, Any] = _copy(settings)
    for change in changes:
        path, equals, text = change.partition("=")
        names = path.strip().split(".")
        if not equals or not all(names):
            raise ConfigError(
                f"A setting must be given as name=value; given: {change!r}; "
                "write for example --set local.learning_rate=0.1."
            )
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError:
            raise ConfigError(
                f"A setting's value must be YAML; given: {change!r}; quote it, or check brackets."
            ) from None
        if isinstance(value, str):
            # YAML 1.1 reads 1e-3 as text; people mean the number.
            value = _number(value)
        assign(changed, names, value)
    return changed


def assign(settings: dict[str, JsonValue], names: Sequence[str], value: JsonValue) -> None:
    """Put a value at a path into settings; at `x.kind` it replaces the whole of x."""
    inner = settings
    *parents, last = names
    if last == "kind" and parents:
        *parents, last = parents
        value = {"kind": value}
    for name in parents:
        below = inner.get(name)
        inner[name] = below = below if isinstance(below, dict) else {}
        inner = below
    inner[last] = value


def _number(text: str) -> str | float:
    try:
        return float(text)
    except ValueError:
        return text


def _copy(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _copy(inner) for name, inner in value.items()}
    return value


def configured(path: Path, changes: Iterable[str]) -> TrainingConfig:
    """The settings in a file, with changes; both checked.

    Raises:
        ConfigError: every mistake, one line each.
    """
    # The file is completed first: a change inside a choice must know which kind it is.
    complete = parse(read(path)).model_dump(mode="json")
    return parse(replace(complete, changes))


def parse(settings: Mapping[str, object]) -> TrainingConfig:
    """Checked settings.

    Raises:
        ConfigError: every mistake, one line each.
    """
    try:
        return TrainingConfig.model_validate(settings)
    except ValidationError as error:
        raise ConfigError(explain(error, settings)) from None


def explain(
    error: ValidationError,
    settings: Mapping[str, object],
    *,
    model: type[BaseModel] = TrainingConfig,
) -> str:
    """Every mistake on a line of its own: what must hold; what was given; what to do."""
    return "\n".join(_line(dict(mistake), settings, model) for mistake in error.errors())


def _line(mistake: dict[str, Any], settings: Mapping[str, object], model: type[BaseModel]) -> str:
    where = ".".join(str(part) for part in mistake["loc"]) or "The settings"
    if mistake["type"] == "extra_forbidden":
        known = _fields(mistake["loc"][:-1], settings, model)
        name = str(mistake["loc"][-1])
        return (
            f"{where}: there is no such setting{nearest(name, known)}; "
            f"known here: {', '.join(known) or 'none'}."
        )
    if mistake["type"] == "unknown_kind":
        return f"{where}: {mistake['msg']}; choose one of them."
    if mistake["type"] == "not_a_choice":
        return f"{where}: {mistake['msg']}; write {where}.kind=... or {where}: {{kind: ...}}."
    must = mistake["msg"].removeprefix("Value error, ")
    must = must[0].lower() + must[1:]
    given = mistake["input"] if mistake["type"] != "missing" else "nothing"
    shown = repr(given) if len(repr(given)) < 80 else repr(given)[:77] + "..."
    return f"{where}: {must}; given: {shown}; change it in the file or with --set {where}=..."


def _fields(path: tuple[str | int, ...], settings: object, model: type[BaseModel]) -> list[str]:
    """The settings known at a path; where it goes through a choice, those of the kind chosen."""
    models: list[type[BaseModel]] = [model]
    for part in path:
        settings = settings.get(part) if isinstance(settings, Mapping) else None
        kind = settings.get("kind") if isinstance(settings, Mapping) else None
        found = [
            m.model_fields[str(part)].annotation for m in models if str(part) in m.model_fields
        ]
        models = [model for annotation in found for model in _models(annotation)]
        models = [m for m in models if kind in (None, _kind(m))] or models
    return sorted({name for model in models for name in model.model_fields})


def _kind(model: type[BaseModel]) -> object:
    field = model.model_fields.get("kind")
    return field.default if field else None


def _models(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for inner in get_args(annotation) for model in _models(inner)]
