"""Settings are frozen pydantic models; a choice among them is a plain union told apart by `kind`.

Plain unions, not discriminated ones: Prefect's run form shows a plain union as tabs with a form
each, a discriminated one as raw JSON. What is lost, errors that speak of one variant, is won back
by picking the variant before pydantic tries them all.

The form opens a union on the tab that has the most field names in common with the value, the
first of equals; it does not look at `kind`. Variants with the same names would all open on the
first one's tab, and the first could not be chosen any more. In the schema they are therefore one
tab whose `kind` is a menu, and no tab comes after one that has all its names.
"""

from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from inspect import get_annotations
from typing import Any, Self, get_args

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from fedcore.errors import nearest

__all__ = ["Settings", "by_kind"]


class Settings(BaseModel):
    """A group of settings: frozen, nothing unknown accepted, shown in the order written."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True
    )

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        described = handler(schema)
        properties = handler.resolve_ref_schema(described).get("properties", {})
        # Prefect sorts a form by `position`; without one the order is the alphabet's. First what
        # it is, then what is its own, then what all such variants have.
        own = get_annotations(cls)
        order = sorted(properties, key=lambda name: (name != "kind", name not in own))
        for position, name in enumerate(order):
            properties[name]["position"] = position
        kind = properties.get("kind", {})
        if "const" in kind:
            # A tab is called what a file calls it, and says what it is; the form leaves out the
            # description of the variant itself.
            shown = handler.resolve_ref_schema(described)
            shown["title"] = kind["const"]
            kind["description"] = shown["description"].partition("\n\n")[0].replace("\n", " ")
        return described

    def but(self, **changes: Any) -> Self:
        """A copy with these fields changed, checked like any other settings."""
        return type(self).model_validate({**dict(self), **changes})


@dataclass(frozen=True)
class _ByKind:
    """How a union of variants is checked, and how it is shown in a form."""

    known: Mapping[str, type[Settings]]

    def __get_pydantic_core_schema__(
        self, source: object, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.no_info_wrap_validator_function(self._pick, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        described = handler(schema)
        tabs: list[list[JsonSchemaValue]] = []
        for variant in described.get("anyOf", []):
            names = set(handler.resolve_ref_schema(variant)["properties"])
            for place, tab in enumerate(tabs):
                others = set(handler.resolve_ref_schema(tab[0])["properties"])
                if names == others:
                    tab.append(variant)
                    break
                if names < others:
                    tabs.insert(place, [variant])
                    break
            else:
                tabs.append([variant])
        if tabs:
            described["anyOf"] = [
                tab[0] if len(tab) == 1 else _merged([handler.resolve_ref_schema(v) for v in tab])
                for tab in tabs
            ]
        return described

    def _pick(self, given: object, handler: Callable[[object], object]) -> object:
        known = self.known
        if isinstance(given, tuple(known.values())):
            return given
        if not isinstance(given, dict):
            raise PydanticCustomError(
                "not_a_choice",
                "must say its kind, one of {known}; given: {given}",
                {"known": ", ".join(known), "given": repr(given)[:60]},
            )
        kind = given.get("kind", next(iter(known)) if len(known) == 1 else None)
        if not isinstance(kind, str) or kind not in known:
            raise PydanticCustomError(
                "unknown_kind",
                "kind must be one of {known}; given: {kind}{nearest}",
                {"known": ", ".join(known), "kind": kind, "nearest": nearest(str(kind), known)},
            )
        return known[kind].model_validate(given)


def by_kind(*variants: type[Settings]) -> _ByKind:
    """Let `kind` decide which variant is meant, so that errors speak of that one alone."""
    return _ByKind({get_args(v.model_fields["kind"].annotation)[0]: v for v in variants})


def _merged(variants: list[JsonSchemaValue]) -> JsonSchemaValue:
    """One schema for variants with the same fields: `kind` is a menu, defaults are the first's."""
    merged = deepcopy(variants[0])
    kinds = [variant["properties"]["kind"]["const"] for variant in variants]
    for name, field in merged["properties"].items():
        told = [variant["properties"][name]["description"] for variant in variants]
        if len(set(told)) > 1:
            field["description"] = " ".join(
                f"`{kind}`: {text}" for kind, text in zip(kinds, told, strict=True)
            )
    menu = merged["properties"]["kind"]
    del menu["const"]
    menu["enum"] = kinds
    return {**merged, "title": ", ".join(kinds), "description": menu["description"]}
