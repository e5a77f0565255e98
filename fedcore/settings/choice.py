"""Settings are frozen pydantic models; a choice among them is a plain union told apart by `kind`.

Plain unions, not discriminated ones: Prefect's run form shows a plain union as tabs with a form
each, a discriminated one as raw JSON. What is lost, errors that speak of one variant, is won back
by picking the variant before pydantic tries them all.
"""

from collections.abc import Callable
from typing import Any, Self, get_args

from pydantic import BaseModel, ConfigDict, GetJsonSchemaHandler, WrapValidator
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError

from fedcore.errors import nearest

__all__ = ["Settings", "by_kind"]


class Settings(BaseModel):
    """A group of settings: frozen, nothing unknown accepted, shown in the order written here."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True
    )

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        described = handler(schema)
        properties = handler.resolve_ref_schema(described).get("properties", {})
        # Prefect sorts a form by `position`; without one the order is the alphabet's.
        for position, name in enumerate(properties):
            properties[name]["position"] = position
        return described

    def but(self, **changes: Any) -> Self:
        """A copy with these fields changed, checked like any other settings."""
        return type(self).model_validate({**dict(self), **changes})


def by_kind(*variants: type[Settings]) -> WrapValidator:
    """Let `kind` decide which variant is meant, so that errors speak of that one alone."""
    known = {get_args(v.model_fields["kind"].annotation)[0]: v for v in variants}

    def pick(given: object, handler: Callable[[object], object]) -> object:
        if isinstance(given, variants):
            return given
        if not isinstance(given, dict):
            return handler(given)
        kind = given.get("kind", next(iter(known)) if len(known) == 1 else None)
        if kind not in known:
            raise PydanticCustomError(
                "unknown_kind",
                "kind must be one of {known}; given: {kind}{nearest}",
                {"known": ", ".join(known), "kind": kind, "nearest": nearest(str(kind), known)},
            )
        return known[kind].model_validate(given)

    return WrapValidator(pick)
