"""Tables of a TOML file that people write: taken key by key, with errors that name the key."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, TypeVar

from jobtrail.core.errors import UsageError

_T = TypeVar("_T")
_NAMES: Final = {str: "a text", bool: "true or false", dict: "a table", list: "a list"}


def wrong(where: str, key: str, expected: str, found: str) -> UsageError:
    """Return the error that a key of a table is not what was expected."""
    return UsageError(
        "The mapping can't be used.",
        where=f"{where}, key `{key}`",
        expected=expected,
        found=found[:200],
        hint="docs/importing.md has every key.",
    )


class Table:
    """A table of the mapping, taken key by key; a key that nobody took is a mistake."""

    def __init__(self, content: object, where: str, key: str = "") -> None:
        if not isinstance(content, dict):
            raise wrong(where, key or "event", "a table", repr(content))
        self._left = dict(content)
        self._asked: list[str] = []
        self.where = where

    def wrong(self, key: str, expected: str, found: object) -> UsageError:
        """Return the error that a key's value is not what was expected."""
        return wrong(
            self.where, key, expected, found if isinstance(found, str) and found else repr(found)
        )

    def peek(self, key: str) -> object:
        """Take a value of any kind; None where the key is absent."""
        self._asked.append(key)
        return self._left.pop(key, None)

    def take(self, key: str, kind: type[_T], default: _T | None = None) -> _T:
        """Take a value of a kind; one without a default has to be there."""
        value = self.peek(key)
        if value is None:
            if default is None:
                raise self.wrong(key, _NAMES[kind], "nothing")
            return default
        if not isinstance(value, kind):
            raise self.wrong(key, _NAMES[kind], value)
        return value

    def known(self, key: str) -> None:
        """Name a key among those that there may be, without taking it."""
        self._asked.append(key)

    def texts(self, key: str) -> list[str] | None:
        """Take a list of texts; None where the key is absent."""
        value = self.peek(key)
        if value is None:
            return None
        if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
            raise self.wrong(key, "a list of texts", value)
        return value

    def table(self, key: str) -> Table:
        """Take a table; an empty one where the key is absent."""
        value = self.peek(key)
        return Table({} if value is None else value, f"{self.where}, [{key}]", key)

    def __iter__(self) -> Iterator[str]:
        """Return the keys that are left."""
        return iter(tuple(self._left))

    def end(self) -> None:
        """Refuse what is left."""
        for key in self._left:
            raise self.wrong(key, f"one of {', '.join(sorted(set(self._asked)))}", "an unknown key")
