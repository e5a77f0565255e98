"""Writes docs/settings.md from the settings' models and the command line: run it after a change.

python docs/make_reference.py
"""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

import typer.main
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from deployments.cli import app
from fedcore.settings import Settings, TrainingConfig
from fedcore.settings.comparison import Comparison

PAGE = Path(__file__).with_name("settings.md")

INTRODUCTION = """# Settings and command line

Written by `python docs/make_reference.py` from the code; change the code, not this page.

A training is described by one YAML file, by the form of the flow in Prefect, or in Python by
`fedcore.parse`; all three take what is listed here, and what is left out has its default. Where a
setting is a choice, `kind` says which, and its other settings stand beside `kind`:

```yaml
strategy: {kind: fedprox, mu: 0.1}
```

On the command line `--set strategy.kind=fedprox --set strategy.mu=0.1` says the same; a change of
`kind` starts that choice from its defaults. A value after `=` is read as YAML.
"""

ENVIRONMENT = {
    "PREFECT_API_URL": "The Prefect API to use. None: the command starts a server of its own.",
    "PREFECT_API_AUTH_STRING": "`user:password` for a Prefect API that asks for it.",
    "MLFLOW_TRACKING_URI": "The MLflow server or database. None: `mlflow.db` in this folder.",
    "MLFLOW_TRACKING_USERNAME": "For an MLflow server that asks for it, with the next one.",
    "MLFLOW_TRACKING_PASSWORD": "The password.",
    "FEDROUNDS_HOME": "Where runs keep their checkpoints. None: `.fedrounds` in this folder.",
    "FEDROUNDS_CRASH_AFTER": "Seconds without a sign of life after which Prefect calls a flow run "
    "Crashed: 120, at least 40. Read by `fedrounds up`.",
}

STATUS = {
    0: "done",
    1: "failed; what was committed stays, and the run can be resumed",
    2: "bad input; nothing was written",
    130: "stopped with Ctrl-C; the run can be resumed",
}

WORDS = {
    "integer": "whole number",
    "number": "number",
    "string": "text",
    "boolean": "true or false",
    "object": "names and values",
    "null": "none",
}


def reference() -> str:
    """The whole page."""
    parts = [INTRODUCTION, *_settings(), *_comparison(), *_command_line()]
    return "\n".join(parts).rstrip() + "\n"


def _settings() -> Iterator[str]:
    yield "## Settings\n"
    yield from _table(TrainingConfig, "")
    shown: set[str] = set()
    waiting = list(_inner(TrainingConfig, ""))
    while waiting:
        path, field, variants = waiting.pop(0)
        if path in shown:
            continue
        shown.add(path)
        yield f"### {path}\n"
        yield f"{field.description}\n"
        inner = []
        if _is_choice(field):
            for variant in variants:
                yield f"**`{_kind(variant)}`** {_text(variant.__doc__)}\n"
                yield from _table(variant, path)
                inner += _inner(variant, path)
        else:
            yield from _table(variants[0], path)
            inner += _inner(variants[0], path)
        waiting = inner + waiting


def _comparison() -> Iterator[str]:
    yield "## comparison\n"
    yield "What `fedrounds compare` takes; how to use it: [comparing.md](comparing.md).\n"
    yield f"{_text(Comparison.__doc__)}\n"
    yield from _table(Comparison, "comparison")
    for path, field, variants in _inner(Comparison, "comparison"):
        yield f"### {path}\n"
        yield f"{field.description}\n"
        if variants == [TrainingConfig]:
            yield "All of [Settings](#settings).\n"
        else:
            yield from _table(variants[0], path)


def _inner(group: type[Settings], path: str) -> Iterator[tuple[str, FieldInfo, list[Any]]]:
    """The groups and choices inside a group, each with its path."""
    for name, field in group.model_fields.items():
        variants = _variants(field.annotation)
        if variants:
            yield f"{path}.{name}".lstrip("."), field, variants


def _variants(annotation: object) -> list[Any]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [variant for inner in get_args(annotation) for variant in _variants(inner)]


def _is_choice(field: FieldInfo) -> bool:
    variants = _variants(field.annotation)
    return len(variants) > 1 or "kind" in variants[0].model_fields


def _kind(variant: type[BaseModel]) -> str:
    return str(get_args(variant.model_fields["kind"].annotation)[0])


def _table(group: type[Settings], path: str) -> Iterator[str]:
    properties = group.model_json_schema()["properties"]
    rows = [
        _row(name, field, properties[name], path)
        for name, field in group.model_fields.items()
        if name != "kind"
    ]
    if rows:
        yield "| setting | values | default | meaning |\n| --- | --- | --- | --- |"
        yield from rows
        yield ""


def _row(name: str, field: FieldInfo, described: Mapping[str, Any], path: str) -> str:
    variants = _variants(field.annotation)
    if not variants:
        values, default = _values(described), _default(field.default)
    else:
        full = f"{path}.{name}".lstrip(".")
        kinds = [f"`{_kind(v)}`" for v in variants] if _is_choice(field) else ["a group"]
        many = "list of " if isinstance(field.default, list) else ""
        values = f"{many}{', '.join(kinds)}: see [{full}](#{full.replace('.', '')})"
        default = _default(getattr(field.default, "kind", [] if many else None), group=not many)
    cells = (f"`{name}`", values, default, _text(field.description))
    return "| " + " | ".join(_cell(cell) for cell in cells) + " |"


def _values(described: Mapping[str, Any]) -> str:
    if "anyOf" in described:
        return " or ".join(_values(each) for each in described["anyOf"])
    if "const" in described:
        return f"`{described['const']}`"
    if "enum" in described:
        return ", ".join(f"`{each}`" for each in described["enum"])
    if described.get("type") == "array":
        return f"list of {_values(described['items'])}"
    word = WORDS.get(described.get("type", ""), "any value")
    if "pattern" in described:
        return f"{word} like `{described['pattern']}`"
    least, most = described.get("minimum"), described.get("maximum")
    if least is not None and most is not None:
        return f"{word}, {least:,} to {most:,}"
    return word if least is None else f"{word}, at least {least:,}"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


def _default(value: object, *, group: bool = False) -> str:
    if value is None:
        return "" if group else "none"
    if isinstance(value, bool):
        return "true" if value else "false"
    return "empty" if value in ("", [], {}) else f"`{value}`"


def _text(text: str | None) -> str:
    return " ".join((text or "").split())


def _command_line() -> Iterator[str]:
    yield "## Command line\n"
    group = typer.main.get_command(app)
    for name, command in group.commands.items():  # type: ignore[attr-defined]
        yield f"### fedrounds {name}\n"
        yield f"{_text(command.help)}\n"
        yield "| | meaning |\n| --- | --- |"
        for parameter in command.params:
            yield f"| {_spelled(parameter)} | {_text(parameter.help)}{_given(parameter)} |"
        yield ""
    yield from _list("Exit status", {f"{k}": v for k, v in STATUS.items()})
    yield from _list("Environment", ENVIRONMENT)


def _spelled(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        return f"`{parameter.metavar}`".replace("|", "\\|")
    value = "" if parameter.is_flag else f" {parameter.metavar or parameter.name.upper()}"
    return f"`{parameter.opts[0]}{value}`"


def _given(parameter: Any) -> str:
    named = parameter.show_default if isinstance(parameter.show_default, str) else None
    default = named or (parameter.default if isinstance(parameter.default, int) else None)
    return "" if default is None or isinstance(default, bool) else f" Default: {default}."


def _list(title: str, entries: Mapping[str, str]) -> Iterable[str]:
    yield f"### {title}\n"
    yield "| | meaning |\n| --- | --- |"
    yield from (f"| `{name}` | {meaning} |" for name, meaning in entries.items())
    yield ""


if __name__ == "__main__":
    PAGE.write_text(reference(), encoding="utf-8")
