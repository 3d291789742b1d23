"""The mapping file: which rows of a table are which events, checked before a row is read."""

from __future__ import annotations

import hashlib
import re
import tomllib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from msgspec import Struct
from msgspec.structs import fields

from jobtrail.core.errors import UsageError
from jobtrail.core.events import EVENT_TYPES, TYPE_NAMES
from jobtrail.importing.toml import Table, wrong
from jobtrail.importing.values import TIME_FORMATS, as_text, reader

_TEMPLATE: Final = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")


def _fields(event_type: type[Struct]) -> list[str]:
    (data,) = (field.type for field in fields(event_type) if field.name == "data")
    return [field.name for field in fields(data)]


#: The fields that each event type's data has; `tags` are a table of their own.
FIELDS: Final[dict[str, frozenset[str]]] = {
    str(event_type.__struct_config__.tag): frozenset(_fields(event_type)) - {"tags"}
    for event_type in EVENT_TYPES
}
ALL_FIELDS: Final = frozenset[str]().union(*FIELDS.values())
_TIMES: Final = ("time", "retry_at")
_PAYLOADS: Final = ("error", "output")


@dataclass(frozen=True)
class Part:
    """Where one part of an event comes from: a column, a template of columns, or a constant."""

    #: Texts and names of columns in turn, a text first and last; a column alone is `("", c, "")`.
    pieces: tuple[str, ...] = ()
    #: Whether the column's value is taken as it is, not as text.
    whole: bool = False
    constant: object = None
    #: What its texts stand for; none where they are taken as they are.
    values: dict[str, str] | None = None
    #: What stands for null.
    default: object = None
    #: Whether a text is JSON.
    json: bool = False
    #: How a time is written, see `values.instant_reader`.
    format: str = "iso"
    zone: ZoneInfo | None = None

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that it reads."""
        return self.pieces[1::2]


@dataclass(frozen=True)
class Condition:
    """What has to be true of a column for a rule to apply; null is nothing but null."""

    column: str
    #: Whether it has to be null; None where it is compared.
    null: bool | None = None
    #: The texts one of which it has to have, or must not have.
    texts: frozenset[str] = frozenset()
    negated: bool = False


@dataclass(frozen=True)
class Rule:
    """One `[[event]]`: when a row is such an event, and where its parts come from."""

    name: str
    when: tuple[Condition, ...]
    #: The event type, where all events of the rule are of the same.
    type: str | None
    type_part: Part
    job: Part
    time: Part
    #: By field of the event's data.
    fields: dict[str, Part]
    viewers: tuple[Part, ...]
    tags: dict[str, Part]
    #: The columns that tell a job's events of this rule apart; None: their type, time, attempt.
    identity: tuple[str, ...] | None

    @property
    def columns(self) -> frozenset[str]:
        """The columns that it reads."""
        parts = (
            *(self.type_part, self.job, self.time),
            *self.fields.values(),
            *self.viewers,
            *self.tags.values(),
        )
        return frozenset(
            [c for part in parts for c in part.columns]
            + [condition.column for condition in self.when]
            + list(self.identity or ())
        )


@dataclass(frozen=True)
class CsvOptions:
    """How a CSV file is written."""

    delimiter: str = ","
    encoding: str = "utf-8"
    #: The cells that mean null.
    null: frozenset[str] = frozenset({""})


@dataclass(frozen=True)
class Mapping:
    """A mapping file that can be used."""

    source: str
    rules: tuple[Rule, ...]
    csv: CsvOptions = field(default_factory=CsvOptions)
    #: Of the file's bytes: another mapping makes other events.
    fingerprint: str = ""

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that its rules read, in a fixed order."""
        return tuple(sorted(frozenset[str]().union(*(rule.columns for rule in self.rules))))


def read_mapping(file: Path) -> Mapping:
    """Read a mapping file.

    Raises:
        UsageError: It can't be used; says which table, which key, what was expected and found.
    """
    try:
        content = file.read_bytes()
        table = tomllib.loads(content.decode())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(
            "The mapping can't be read.", expected="TOML", found=str(error), where=str(file)
        ) from None
    top = Table(table, str(file))
    source = top.take("source", str)
    csv = _csv_options(top.table("csv"))
    time = top.table("time")
    times = _Times(*_Times().of(time))
    time.end()
    events = top.take("event", list)
    top.end()
    rules = [
        _rule(Table(event, f"{file}, [[event]] {number}"), times)
        for number, event in enumerate(events, 1)
    ]
    if not rules:
        raise wrong(str(file), "event", "one [[event]] at least", "none")
    names = [rule.name for rule in rules]
    for number, name in enumerate(names, 1):
        if names.index(name) != number - 1:
            raise wrong(
                f"{file}, [[event]] {number}", "name",
                "a name that no other rule has; it is the type where none is given", repr(name),
            )  # fmt: skip
    return Mapping(source, tuple(rules), csv, hashlib.sha256(content).hexdigest())


def _csv_options(table: Table) -> CsvOptions:
    plain = CsvOptions()
    delimiter = table.take("delimiter", str, plain.delimiter)
    if len(delimiter) != 1 or delimiter in '"\r\n':
        raise table.wrong("delimiter", "one character, no quote and no line end", delimiter)
    encoding = table.take("encoding", str, plain.encoding)
    try:
        "".encode(encoding)
    except (LookupError, ValueError):
        raise table.wrong("encoding", "an encoding of text, as utf-8", encoding) from None
    null = table.texts("null")
    table.end()
    return CsvOptions(delimiter, encoding, plain.null if null is None else frozenset(null))


@dataclass(frozen=True)
class _Times:
    """How times are written where a part does not say it."""

    form: str = "iso"
    zone: ZoneInfo | None = None

    def of(self, table: Table) -> tuple[str, ZoneInfo | None]:
        """Take `format` and `zone` of a table."""
        form = table.take("format", str, self.form)
        if form not in TIME_FORMATS:
            raise table.wrong("format", f"one of {', '.join(TIME_FORMATS)}", form)
        name = table.peek("zone")
        if name is None:
            return form, self.zone
        try:
            return form, ZoneInfo(str(name))
        except (ZoneInfoNotFoundError, ValueError, OSError):
            raise table.wrong("zone", "a time zone, as UTC or Europe/Berlin", name) from None


def _rule(table: Table, times: _Times) -> Rule:
    type_, type_part = _type(table, times)
    types = (type_,) if type_ else _types_of(type_part)
    allowed = frozenset[str]().union(*(FIELDS[name] for name in types))
    for key in table:
        if key in ALL_FIELDS - allowed:
            having = [name for name in TYPE_NAMES if key in FIELDS[name]]
            raise table.wrong(key, f"a rule of the type {' or '.join(having)}", ", ".join(types))
    needed = {"job", "time"} | ({"job_type", "owner"} if "job.created" in types else set())
    parts = {}
    for key in sorted({"job", "time"} | allowed - {"viewers"}):
        value = table.peek(key)
        if value is not None:
            parts[key] = _part(table, key, value, times)
        elif key in needed:
            raise table.wrong(key, "a column, a template or a constant", "nothing")
    viewers = table.peek("viewers") if "viewers" in allowed else None
    listed = viewers if isinstance(viewers, list) else [] if viewers is None else [viewers]
    tags = table.table("tags")
    identity = table.texts("identity")
    rule = Rule(
        name=table.take("name", str, type_ or "event"),
        when=_when(table),
        type=type_,
        type_part=type_part,
        job=parts.pop("job"),
        time=parts.pop("time"),
        fields=parts,
        viewers=tuple(_part(table, "viewers", one, times) for one in listed),
        tags={key: _part(tags, key, tags.peek(key), times) for key in tags},
        identity=None if identity is None else tuple(identity),
    )
    table.end()
    return rule


def _type(table: Table, times: _Times) -> tuple[str | None, Part]:
    """Return the type of all events of a rule, or what tells the type of each."""
    expected = f"one of {', '.join(TYPE_NAMES)}, or {{ column = ..., values = ... }}"
    value = table.peek("type")
    if isinstance(value, dict):
        part = _part(table, "type", value, times)
        values = None
        if part.values is not None:
            values = {text: full_type(name) for text, name in part.values.items()}
            for name in values.values():
                if name not in FIELDS:
                    raise table.wrong("type", expected, name)
        return None, replace(part, values=values)
    name = full_type(str(value))
    if name not in FIELDS:
        raise table.wrong("type", expected, "nothing" if value is None else value)
    return name, Part(constant=name)


def _types_of(part: Part) -> tuple[str, ...]:
    """Return which types a column may tell."""
    if part.values is None:
        return TYPE_NAMES
    default = () if part.default is None else (full_type(str(part.default)),)
    return tuple(name for name in TYPE_NAMES if name in {*part.values.values(), *default})


def full_type(name: str) -> str:
    """Return the name of an event type, which may be given without `job.`."""
    return name if name.startswith("job.") else f"job.{name}"


def _part(table: Table, key: str, value: object, times: _Times) -> Part:
    if isinstance(value, str):
        part = _template(table, key, value) if {"{", "}"} & set(value) else _column(value)
        return replace(part, format=times.form, zone=times.zone)
    if not isinstance(value, dict):
        raise table.wrong(key, 'a column as "name", "{template}" or a table', value)
    inner = Table(value, f"{table.where}, {key}")
    kinds = [kind for kind in ("column", "template", "constant") if kind in value]
    if len(kinds) != 1:
        raise table.wrong(key, "one of column, template, constant", ", ".join(kinds) or "none")
    constant = inner.peek("constant")
    if kinds == ["constant"]:
        part = Part(constant=constant)
    elif kinds == ["column"]:
        part = _column(inner.take("column", str))
    else:
        part = _template(inner, "template", inner.take("template", str))
    values = inner.peek("values")
    if values is not None and not (
        isinstance(values, dict) and all(isinstance(text, str) for text in values.values())
    ):
        raise inner.wrong("values", "a table of texts", values)
    form, zone = times.of(inner) if key in _TIMES else ("iso", None)
    json = inner.take("json", bool, False) if key in _PAYLOADS else False
    default = inner.peek("default")
    inner.end()
    try:
        for given in (constant, default):
            if given is not None:
                reader(key, json, form, zone)(given)
    except ValueError as error:
        raise table.wrong(key, "a value that fits", str(error)) from None
    return replace(part, values=values, default=default, json=json, format=form, zone=zone)


def _column(name: str) -> Part:
    return Part(pieces=("", name, ""), whole=True)


def _template(table: Table, key: str, text: str) -> Part:
    pieces, literal, behind = [], "", 0
    for found in _TEMPLATE.finditer(text):
        literal += text[behind : found.start()]
        behind = found.end()
        if found[0] in ("{{", "}}"):
            literal += found[0][0]
        elif found[1]:
            pieces += [literal, found[1]]
            literal = ""
        else:
            raise table.wrong(key, "a column's name in braces, {{ or }} for a brace", text)
    return Part(pieces=(*pieces, literal + text[behind:]))


def _when(table: Table) -> tuple[Condition, ...]:
    given = table.peek("when")
    listed = given if isinstance(given, list) else [] if given is None else [given]
    return tuple(_condition(Table(one, table.where, "when")) for one in listed)


def _condition(table: Table) -> Condition:
    kinds = [kind for kind in ("null", "not_null", "equals", "in", "not_in") if kind in table]
    if len(kinds) != 1:
        expected = "one of null, not_null, equals, in, not_in"
        raise table.wrong("when", expected, ", ".join(kinds) or "none of them")
    (kind,) = kinds
    if kind in ("null", "not_null"):
        condition = Condition(table.take(kind, str), null=kind == "null")
    else:
        column, value = table.take("column", str), table.peek(kind)
        if kind == "equals":
            value = [value]
        elif not isinstance(value, list):
            raise table.wrong(kind, "a list", value)
        try:
            texts = frozenset(map(as_text, value))
        except ValueError as error:
            raise table.wrong(kind, "texts, numbers or truth values", str(error)) from None
        condition = Condition(column, texts=texts, negated=kind == "not_in")
    for other in ("column", "null", "not_null", "equals", "in", "not_in"):
        table.known(other)
    table.end()
    return condition
