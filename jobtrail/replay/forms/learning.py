"""Forms of events: what a producer writes again and again but for some texts and numbers in it.

Records of one form need not be parsed. Where a record has the same bytes around its texts and
numbers as one that the decoder took, it says the same things in the same places, and only what
stands in these places is left to be looked at. A form is learned from a record that was decoded.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final, NamedTuple, TypeAlias, get_type_hints

import msgspec

from jobtrail.core import events as ev
from jobtrail.core.source_binding import ATTRIBUTE, MAX_CHARACTERS

#: A string that has no escape in it, a number, another literal, or punctuation.
_TOKEN: Final = re.compile(rb'"[^"]*"|-?\d[\d.eE+-]*|true|false|null|[][{},:]')
#: Numbers that are read in a form: without sign and exponent, and as many digits as a double holds.
_NUMBER: Final = re.compile(rb"(?:0|[1-9]\d*)(?:\.\d+)?")
_LONGEST: Final = 16
#: The most places of a form, and the most bytes of the record that it is learned from.
_PLACES: Final = 128
_BYTES: Final = 8_192

#: A column of `schemas.EVENTS`, `subject`, or nothing at all for what nobody reads.
Role: TypeAlias = str
Limits: TypeAlias = tuple[int, int]
_NAME: Final = (1, 256)
_TEXT: Final = (0, 4096)
_ANY: Final = (0, ev.MAX_PAYLOAD_BYTES)


class Text(NamedTuple):
    """A string that differs: from one quote to the next."""

    #: The number of the quote that it begins with; the record's begin is 0, its end the last.
    quote: int
    role: Role
    limits: Limits


class Number(NamedTuple):
    """A number that differs: so many bytes behind one quote, so many before the next."""

    quote: int
    behind: int
    before: int
    role: Role


class Same(NamedTuple):
    """Bytes that do not differ: so many behind a quote, or before it where that is negative."""

    quote: int
    offset: int
    content: bytes


class Span(NamedTuple):
    """JSON that is handed on as it came, by two quotes and an offset from each."""

    role: Role
    begin: tuple[int, int]
    end: tuple[int, int]


class Form(NamedTuple):
    """What records of one form have in common."""

    #: The code of the events' type; None where `data` says what any type may say, but for created.
    kind: int | None
    quotes: int
    texts: tuple[Text, ...]
    numbers: tuple[Number, ...]
    same: tuple[Same, ...]
    #: Two quotes and how far the second is behind the first, where nothing between them differs.
    distances: tuple[tuple[int, int, int], ...]
    spans: tuple[Span, ...]
    #: The names of its tags; None where it has none.
    tags: tuple[str, ...] | None


class _NoForm(Exception):
    """Nothing can be learned from this record."""


#: What each text in an event, or in its data, is and how long it may be; `details` by its type.
_ENVELOPE: Final[dict[str, tuple[Role, Limits]]] = {
    "id": ("id", _NAME),
    "source": ("source", _NAME),
    "subject": ("subject", _NAME),
    "time": ("time", (20, 27)),
    ATTRIBUTE: ("bound_to", (1, MAX_CHARACTERS)),
}
_FIXED: Final = ("type", "specversion", "datacontenttype")
_CREATED: Final = {"jobType": "job_type", "owner": "owner", "bulkId": "bulk_id"}
_DETAILS: Final = ("worker", "message", "reason")
_JSON: Final = ("error", "output")


def form_of(value: bytes, event: ev.Event) -> Form | None:
    """Return the form of a record that was decoded; None where it has none.

    Args:
        value: The record's.
        event: What the decoder made of it.
    """
    if len(value) > _BYTES or not ev.is_plain(value):
        return None
    try:
        return _Learning(value, event).form()
    except _NoForm:
        return None


def _names_in(data: type[Any]) -> frozenset[str]:
    """Return the names that are known in the data of a type."""
    return frozenset(field.encode_name for field in msgspec.structs.fields(data))


def _said(value: bytes) -> set[str]:
    """Return the names in a record's data."""
    return set(msgspec.json.decode(value).get("data", {}))


_DATA: Final = [get_type_hints(kind)["data"] for kind in ev.EVENT_TYPES]
#: What the data of events of all types may say.
_BY_ALL: Final = frozenset.intersection(*(_names_in(data) for data in _DATA))


class _Learning:
    """Goes through a record once, and notes what is in which place."""

    def __init__(self, value: bytes, event: ev.Event) -> None:
        self._value = value
        self._kind = type(event)
        self._known = _names_in(type(event.data))
        # Then what is known of the names is the same for every type that requires none of them.
        self._any_type = self._kind is not ev.Created and _said(value) <= _BY_ALL
        self._tokens = [(*found.span(), found[0]) for found in _TOKEN.finditer(value)]
        self._at = 0
        #: Begin, end and what is there, of all that differs.
        self._places: list[tuple[int, int, Role, Limits | None]] = []
        self._raw: list[tuple[Role, int, int]] = []
        self._tags: tuple[str, ...] | None = None

    def form(self) -> Form:
        self._object(())
        if self._at != len(self._tokens) or len(self._places) > _PLACES:
            raise _NoForm
        kind = None if self._any_type else ev.EVENT_TYPES.index(self._kind)
        return _assembled(self._value, kind, self._places, self._raw, self._tags)

    def _next(self) -> tuple[int, int, bytes]:
        self._at += 1
        return self._tokens[self._at - 1]

    def _items(self, close: bytes) -> Iterator[None]:
        """Step from item to item of an array or object that was opened."""
        if self._tokens[self._at][2] == close:
            self._at += 1
            return
        while True:
            yield
            if self._next()[2] == close:
                return

    def _object(self, path: tuple[str, ...]) -> None:
        self._next()
        names: list[str] = []
        for _ in self._items(b"}"):
            name = self._next()[2][1:-1].decode()
            self._next()  # the colon
            names.append(name)
            self._value_of((*path, name))
        if path in ((), ("data",), ("data", "tags")) and len(set(names)) < len(names):
            raise _NoForm  # the last one counts
        if path == ("data", "tags") and "tags" in self._known:
            self._tags = tuple(names)

    def _value_of(self, path: tuple[str, ...]) -> None:
        begin, end, token = self._tokens[self._at]
        if token == b"{":
            self._object(path)
        elif token == b"[":
            self._next()
            for _ in self._items(b"]"):
                self._value_of((*path, ""))
        else:
            self._next()
            self._leaf(path, begin, end, token)
        if len(path) == 2 and path[0] == "data" and path[1] in _JSON and path[1] in self._known:
            self._raw.append((path[1], begin, self._tokens[self._at - 1][1]))

    def _leaf(self, path: tuple[str, ...], begin: int, end: int, token: bytes) -> None:
        known = path[0] == "data" and len(path) > 1 and path[1] in self._known
        if token.startswith(b'"'):
            role, limits = self._text(path, known=known)
            if limits is not None:
                self._places.append((begin, end, role, limits))
        elif token[:1] in b"-0123456789":
            if not _NUMBER.fullmatch(token) or len(token) > _LONGEST:
                raise _NoForm
            is_figure = known and path[1:] in (("attempt",), ("progress",))
            if is_figure and path[1] == "attempt" and b"." in token:
                raise _NoForm
            self._places.append((begin, end, path[1] if is_figure else "", None))

    def _text(self, path: tuple[str, ...], *, known: bool) -> tuple[Role, Limits | None]:
        """Return what a text is and how long it may be; None for one that has to stay the same."""
        if len(path) == 1:
            if path[0] == "type" and self._any_type:
                return "type", _NAME
            return ("", None) if path[0] in _FIXED else _ENVELOPE.get(path[0], ("", _ANY))
        if not known or path[1] in _JSON:
            return "", _ANY
        name = path[1]
        if name == "tags":
            return "tags", (0, 256)
        if name == "viewers":
            return "viewers", (0, 262)
        if name == "writers":
            return "writers", _NAME
        if name in _CREATED:
            return _CREATED[name], _NAME
        if name in _DETAILS:
            return "details", _TEXT
        raise _NoForm  # such as an instant, which is not handed on as it came


def _assembled(
    value: bytes,
    kind: int | None,
    places: list[tuple[int, int, Role, Limits | None]],
    raw: list[tuple[Role, int, int]],
    tags: tuple[str, ...] | None,
) -> Form:
    """Tell places by quotes, and what stands between them by its bytes."""
    # Anchors: the record's begin, each quote, and its end.
    quotes = [-1, *(at for at, byte in enumerate(value) if byte == ord('"')), len(value)]
    number_of = {at: number for number, at in enumerate(quotes)}
    texts, numbers, same, distances = [], [], [], []

    def keep(begin: int, first: int, end: int, last: int) -> None:
        """Note that from behind one anchor to before another nothing differs."""
        distances.append((first, last, quotes[last] - quotes[first]))
        if end > begin:
            same.append(Same(first, begin - quotes[first], value[begin:end]))

    at, anchor = 0, 0
    for begin, end, role, limits in places:
        if limits is not None:
            quote = number_of[begin]
            keep(at, anchor, begin, quote)
            texts.append(Text(quote, role, limits))
            at, anchor = end, quote + 1
            continue
        before = max(number for number, place in enumerate(quotes) if place < begin)
        if before < anchor or at > quotes[before] + 1:
            raise _NoForm  # two numbers with no quote between them
        keep(at, anchor, quotes[before], before)
        behind, until = quotes[before] + 1, quotes[before + 1]
        numbers.append(Number(before, begin - behind, until - end, role))
        same.append(Same(before, 1, value[behind:begin]))
        same.append(Same(before + 1, end - until, value[end:until]))
        at, anchor = until, before + 1
    keep(at, anchor, len(value), len(quotes) - 1)
    spans = []
    for role, begin, end in raw:
        first = max(number for number, place in enumerate(quotes) if place <= begin)
        last = min(number for number, place in enumerate(quotes) if place >= end - 1)
        spans.append(Span(role, (first, begin - quotes[first]), (last, end - quotes[last])))
    return Form(
        kind,
        len(quotes) - 2,
        tuple(texts),
        tuple(numbers),
        tuple(one for one in same if one.content),
        tuple(one for one in distances if one[0] < one[1]),
        tuple(spans),
        tags,
    )
