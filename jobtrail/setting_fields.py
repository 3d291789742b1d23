"""How a setting is declared, and how a value that was given for it is checked: by msgspec.

Every producer reads the settings, and a library for settings would take a third of the packages of
a light install. msgspec decodes its events anyway.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Final, Literal, get_args, get_origin, get_type_hints

import msgspec


class Secret:
    """A text that is not shown where its owner is printed.

    Args:
        value: The text.
    """

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def get_secret_value(self) -> str:
        """Return the text itself."""
        return self._value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._value == self._value

    def __hash__(self) -> int:
        return hash(self._value)

    def __repr__(self) -> str:
        return "Secret('**********')" if self._value else "Secret('')"

    __str__ = __repr__


@dataclasses.dataclass(frozen=True)
class About:
    """What is true of a setting beside its type and default."""

    description: str
    #: The least number, or the least characters of a text; None: no bound.
    least: float | None = None
    most: float | None = None
    #: Raises ValueError where a value that is within the bounds is still none.
    check: Callable[[Any], None] | None = None


_ABOUT: Final = "about"


def setting(
    default: Any = dataclasses.MISSING,
    *,
    description: str,
    bounds: tuple[float | None, float | None] = (None, None),
    made_by: Callable[[], Any] | None = None,
    check: Callable[[Any], None] | None = None,
) -> Any:
    """Declare a setting of a dataclass.

    Args:
        default: What counts unless another value is given.
        description: What it is, its unit and the reason for its default.
        bounds: The least and the most that a number may be, or the characters of a text.
        made_by: Makes the default, in place of `default`.
        check: Raises ValueError where a value can't be used.
    """
    metadata = {_ABOUT: About(description, *bounds, check)}
    if made_by is not None:
        return dataclasses.field(default_factory=made_by, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def about(field: dataclasses.Field[Any]) -> About:
    """Return what is true of a setting that `setting` has declared."""
    found: About = field.metadata[_ABOUT]
    return found


@cache
def _declared(of: type) -> dict[str, tuple[Any, About]]:
    kinds = get_type_hints(of)
    return {field.name: (kinds[field.name], about(field)) for field in dataclasses.fields(of)}


def values_of(
    of: type, given: Mapping[str, object], places: Mapping[str, str] = {}
) -> tuple[dict[str, Any], list[str]]:
    """Return values as their settings have them, and what is wrong with the others.

    Args:
        of: The dataclass that declares the settings.
        given: By the names of settings.
        places: Where values came from, those that came from a variable.

    Returns:
        The right ones, and of each other a text with its place and what it should be.
    """
    declared = _declared(of)
    found: dict[str, Any] = {}
    faults: list[str] = []
    for name, value in given.items():
        try:
            if name not in declared:
                raise ValueError("There is no such setting")
            kind, bounds = declared[name]
            found[name] = value_of(kind, value, bounds)
            if bounds.check is not None:
                bounds.check(found[name])
        except ValueError as error:
            faults.append(f"{places.get(name, f'setting {name}')}: {error} (found {value!r})")
    return found, faults


def value_of(kind: Any, given: object, bounds: About) -> Any:
    """Return a value as its setting has it: texts of the environment become numbers and paths.

    Args:
        kind: The setting's type.
        given: What was given, of that type or a text.
        bounds: The setting's bounds.

    Raises:
        ValueError: It is no such value, or out of bounds; the text says what it should be.
    """
    try:
        return msgspec.convert(given, _bounded(kind, bounds), strict=False, dec_hook=_made_of)
    except msgspec.ValidationError as error:
        if get_origin(kind) is Literal:
            *others, last = map(repr, get_args(kind))
            raise ValueError(f"Expected {', '.join(others)} or {last}") from error
        raise ValueError(str(error)) from error


def _bounded(kind: Any, bounds: About) -> Any:
    """Return a type with its bounds, as msgspec has them."""
    least, most = bounds.least, bounds.most
    if kind in (int, float):
        return Annotated[kind, msgspec.Meta(ge=least, le=most)]
    if kind is str:
        characters = [None if bound is None else int(bound) for bound in (least, most)]
        return Annotated[kind, msgspec.Meta(min_length=characters[0], max_length=characters[1])]
    return kind


def _made_of(kind: type, given: object) -> object:
    """Make what msgspec does not know of what was given."""
    if kind is Secret and isinstance(given, str):
        return Secret(given)
    if kind is Path and isinstance(given, str | os.PathLike):
        return Path(given)
    if isinstance(given, kind):
        return given
    raise ValueError(f"Expected `{'path' if kind is Path else 'str'}`")
