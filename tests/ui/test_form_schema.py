"""Prefect's run form opens a choice on the tab with the most names of the value, the first of
equals, and does not look at `kind`: in our schema that must be the right tab, always."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from deployments.serve import DEPLOYMENTS, parameters
from fedcore.settings import TrainingConfig

SCHEMA = TrainingConfig.model_json_schema()
DEPLOY_FILE = Path(__file__).parents[2] / "deployments" / "prefect.yaml"
WITH_FIELDS = [SCHEMA, *SCHEMA["$defs"].values()]


def training(given: dict[str, Any]) -> Any:
    """The training's settings among a flow's parameters."""
    return given["config"] if "config" in given else given["comparison"]["base"]


DEPLOYED = {served.name: training(parameters(served)) for served in DEPLOYMENTS}
DEPLOYED |= {
    f"{each['name']} in prefect.yaml": training(each["parameters"])
    for each in yaml.safe_load(DEPLOY_FILE.read_text())["deployments"]
}


def resolved(described: dict[str, Any]) -> dict[str, Any]:
    name = described.get("$ref", "").rpartition("/")[2]
    return {**SCHEMA["$defs"][name], **described} if name else described


def tabs(described: dict[str, Any]) -> list[dict[str, Any]]:
    variants = [resolved(each) for each in described.get("anyOf", [])]
    return [each for each in variants if "properties" in each]


def kinds(tab: dict[str, Any]) -> list[str]:
    kind = tab["properties"]["kind"]
    return list(kind.get("enum", [kind.get("const")]))


def opened(choice: list[dict[str, Any]], value: dict[str, Any]) -> dict[str, Any]:
    """Prefect's rule."""
    return max(choice, key=lambda tab: len(set(tab["properties"]) & set(value)))


def choices() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    for model in WITH_FIELDS:
        for name, field in model.get("properties", {}).items():
            for described in (field, field.get("items", {})):
                if tabs(described):
                    yield f"{model['title']}.{name}", tabs(described)


CHOICES = dict(choices())


@pytest.mark.parametrize("name", CHOICES)
def test_every_kind_opens_on_its_own_tab(name: str) -> None:
    for tab in CHOICES[name]:
        for kind in kinds(tab):
            value = {**dict.fromkeys(tab["properties"]), "kind": kind}
            assert kind in kinds(opened(CHOICES[name], value))


@pytest.mark.parametrize("name", CHOICES)
def test_every_kind_is_offered_once(name: str) -> None:
    offered = [kind for tab in CHOICES[name] for kind in kinds(tab)]
    assert len(set(offered)) == len(offered)
    for tab in CHOICES[name]:
        assert tab["title"] == ", ".join(kinds(tab))


@pytest.mark.parametrize("name", DEPLOYED)
def test_deployed_settings_open_on_the_right_tabs(name: str) -> None:
    found = list(wrong_tabs(DEPLOYED[name], SCHEMA))
    assert found == []


def wrong_tabs(value: dict[str, Any], described: dict[str, Any]) -> Iterator[object]:
    for name, inner in value.items():
        field = resolved(described["properties"][name])
        if isinstance(inner, dict) and tabs(field):
            field = opened(tabs(field), inner)
            if inner["kind"] not in kinds(field):
                yield name, inner["kind"]
        if isinstance(inner, dict) and "properties" in field:
            yield from wrong_tabs(inner, field)


def test_every_field_is_described_and_first_comes_what_it_is() -> None:
    for model in WITH_FIELDS:
        fields = model.get("properties", {})
        for name, field in fields.items():
            assert resolved(field).get("description"), f"{model['title']}.{name}"
        if "kind" in fields:
            assert fields["kind"]["position"] == 0
        positions = sorted(field["position"] for field in fields.values())
        assert positions == list(range(len(fields)))
