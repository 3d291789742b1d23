"""JSON Schemas of typed definitions: msgspec's for events and answers, pydantic's for requests."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final, get_args

from msgspec import Struct, structs
from pydantic import BaseModel

from jobtrail.contract.json_schema import is_struct, schema_components
from jobtrail.core import events

Schema = dict[str, Any]
_REF: Final = "#/components/schemas/{name}"


class Schemas:
    """The schemas of some definitions; shared ones are in `components`.

    Args:
        shapes: Types; a tuple stands for any of its members.
        models: Of bodies that pydantic parses.
    """

    def __init__(self, shapes: Iterable[Any], models: Iterable[type[BaseModel]] = ()) -> None:
        kinds = list(dict.fromkeys(kind for shape in shapes for kind in _members(shape)))
        made, components = schema_components(kinds, _REF)
        self._of = dict(zip(kinds, made, strict=True))
        for name, kind in _answer_structs(kinds).items():
            _close(components[name], kind)
        for model in models:
            schema = model.model_json_schema(ref_template=_REF.replace("{name}", "{model}"))
            components |= schema.pop("$defs", {})
            components[model.__name__] = schema
            self._of[model] = {"$ref": _REF.format(name=model.__name__)}
        self.components = dict(sorted(components.items()))

    def of(self, shape: Any) -> Schema:
        """Return the schema of one of the shapes."""
        found = [dict(self._of[kind]) for kind in _members(shape)]
        return found[0] if len(found) == 1 else {"anyOf": found}


def query_parameters(model: type[BaseModel]) -> list[Schema]:
    """Return the parameters of a model of a query."""
    schema = model.model_json_schema()
    definitions = schema.get("$defs", {})
    required = schema.get("required", ())
    parameters = []
    for name, member in schema.get("properties", {}).items():
        description = member.pop("description")
        found = {
            "name": name,
            "in": "query",
            "description": description,
            "required": name in required,
            "schema": _in_query(member, definitions),
        }
        if member.get("type") == "array":
            found |= {"style": "form", "explode": True}
            found["description"] += " Repeated, or joined by commas."
        parameters.append(found)
    return parameters


def never_null(schema: Schema) -> Schema:
    """Return the schema of a parameter, which may be absent but never null."""
    options = [option for option in schema.get("anyOf", ()) if option != {"type": "null"}]
    if len(options) != 1:
        return schema
    option: Schema = options[0]
    return {k: v for k, v in schema.items() if k != "anyOf"} | option


def _in_query(schema: Schema, definitions: Mapping[str, Schema]) -> Schema:
    """Return the schema of a field as that of a parameter."""
    schema = {k: v for k, v in schema.items() if k not in ("title", "default")} | (
        {"default": schema["default"]} if schema.get("default") not in (None, []) else {}
    )
    schema = never_null(schema)
    if "items" in schema:
        items = schema["items"]
        if "$ref" in items:
            items = definitions[items["$ref"].rpartition("/")[2]]
        schema["items"] = {k: v for k, v in items.items() if k not in ("title", "description")}
    return schema


def _members(shape: Any) -> tuple[Any, ...]:
    return shape if isinstance(shape, tuple) else (shape,)


def _answer_structs(kinds: Iterable[Any]) -> dict[str, type[Struct]]:
    """Return the structs of answers by name, without those of events."""
    found: dict[str, type[Struct]] = {}
    waiting = list(kinds)
    while waiting:
        kind = waiting.pop()
        waiting += get_args(kind)
        if not is_struct(kind) or kind.__module__ == events.__name__ or kind.__name__ in found:
            continue
        found[kind.__name__] = kind
        waiting += [field.type for field in structs.fields(kind)]
    return found


def _close(schema: Schema, kind: type[Struct]) -> None:
    """Mark the schema of an answer as complete: no further members, and all members required."""
    schema["additionalProperties"] = False
    if not kind.__struct_config__.omit_defaults:
        schema["required"] = [field.encode_name for field in structs.fields(kind)]
        for member in schema["properties"].values():
            member.pop("default", None)
