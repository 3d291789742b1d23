"""Event types as JSON Schemas see them: for the documents of the API and of the log."""

from __future__ import annotations

import inspect
import types
from collections.abc import Iterable
from functools import cache
from typing import Annotated, Any, TypeGuard, Union, get_args, get_origin

import msgspec
from msgspec import UNSET, Raw, Struct, structs


def is_struct(kind: Any) -> TypeGuard[type[Struct]]:
    """Tell whether something is a struct's type."""
    return isinstance(kind, type) and issubclass(kind, Struct)


def describable(kind: Any) -> Any:
    """Return an equivalent type for which msgspec can make a JSON Schema.

    It can't for a struct with a field of undecoded JSON that has a default.

    Args:
        kind: A struct, or a list, union or annotation of such types.
    """
    if get_origin(kind) is Annotated:
        inner, *meta = get_args(kind)
        return Annotated[(describable(inner), *meta)]
    if get_origin(kind) in (Union, types.UnionType):
        return Union[tuple(describable(member) for member in get_args(kind))]  # noqa: UP007
    if get_origin(kind) is list:
        return list[describable(get_args(kind)[0])]  # type: ignore[misc]
    if is_struct(kind) and _holds_raw(kind):
        return _twin(kind)
    return kind


def schema_components(
    kinds: Iterable[Any], ref_template: str
) -> tuple[tuple[dict[str, Any], ...], dict[str, dict[str, Any]]]:
    """Return the schemas of some types and those of the structs in them, the same on any Python.

    Python 3.13 takes the indentation out of docstrings as it compiles them; versions before leave
    it, and msgspec passes some of it on.

    Args:
        kinds: What to describe.
        ref_template: Address of a struct's schema, with `{name}` in it.
    """
    made, components = msgspec.json.schema_components(
        [describable(kind) for kind in kinds], ref_template=ref_template
    )
    for schema in components.values():
        if "description" in schema:
            schema["description"] = inspect.cleandoc(schema["description"])
    return made, components


def _holds_raw(kind: type[Struct]) -> bool:
    return any(
        field.type is Raw or (is_struct(field.type) and _holds_raw(field.type))
        for field in structs.fields(kind)
    )


@cache
def _twin(kind: type[Struct]) -> type[Struct]:
    """Return a struct with the same fields, where undecoded JSON is any JSON."""
    config = kind.__struct_config__
    members = []
    for field in structs.fields(kind):
        default: Any = field.default
        if field.type is Raw:
            default = UNSET
        elif field.default_factory is not msgspec.NODEFAULT:
            default = msgspec.field(default_factory=field.default_factory)
        shape = Any if field.type is Raw else describable(field.type)
        rest = () if field.required else (default,)
        members.append((field.encode_name, shape, *rest))
    return msgspec.defstruct(
        kind.__name__,
        members,
        namespace={"__doc__": kind.__doc__},
        kw_only=True,
        tag_field=config.tag_field,
        tag=config.tag,
    )
