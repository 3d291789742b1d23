"""A mapping at work: the values of a row become events."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from datetime import datetime
from hashlib import blake2b
from typing import Final

import msgspec

from jobtrail.core.errors import EventError
from jobtrail.core.events import decode, microseconds
from jobtrail.importing.mapping import FIELDS, Condition, Mapping, Part, Rule, full_type
from jobtrail.importing.row import Made
from jobtrail.importing.values import Fault, as_text, reader, wrong

#: The values of a row: one for each column of the mapping, None for null.
Values = Sequence[object]
_Get = Callable[[Values], object]

_ID_BYTES: Final = 16
_PLACE: Final = re.compile(r"at `\$\.(?:data\.)?(\w+)")
_encoder: Final = msgspec.json.Encoder()


class Maker:
    """Makes the events of rows; rows of one file or of many.

    Args:
        mapping: How.
    """

    def __init__(self, mapping: Mapping) -> None:
        #: What `events` takes the values of, in this order.
        self.columns = mapping.columns
        slots = {column: slot for slot, column in enumerate(self.columns)}
        self._rules = [_Rule(rule, mapping.source, slots) for rule in mapping.rules]

    def events(self, values: Values) -> tuple[Made, ...]:
        """Return the events of a row, in the order of the rules; none where no rule applies.

        Raises:
            Fault: One of them can't be made; then the row has none.
        """
        return tuple([rule.event(values) for rule in self._rules if rule.applies(values)])


class _Field:
    """One part of a rule's events, ready to be read from rows."""

    def __init__(self, rule: str, name: str, part: Part, slots: dict[str, int]) -> None:
        self._name = name
        self._rule = rule
        self._get = _getter(part, slots)
        self._read = reader(name, part.json, part.format, part.zone)
        self._values = part.values
        self._default = part.default
        #: Which columns it reads, as an error names them.
        self.columns = ", ".join(dict.fromkeys(part.columns))

    def __call__(self, values: Values) -> object:
        """Return the value in a row, or None for null.

        Raises:
            Fault: The value does not fit.
        """
        try:
            value = self._get(values)
            if value is not None and self._values is not None:
                text = as_text(value)
                value = self._values.get(text)
                if value is None and self._default is None:
                    raise wrong(f"one of {', '.join(self._values)}", text)
            if value is None:
                value = self._default
            return None if value is None else self._read(value)
        except ValueError as error:
            raise self.fault(str(error)) from None

    def needed(self, values: Values) -> object:
        """Return the value in a row.

        Raises:
            Fault: It is null, or does not fit.
        """
        value = self(values)
        if value is None:
            raise self.fault("expected a value, found none")
        return value

    def fault(self, reason: str) -> Fault:
        """Return the error that this part can't be made."""
        return Fault(f"event {self._rule!r}, {self._name}: {reason}", self.columns)


class _Rule:
    """One rule, ready to be applied to rows."""

    def __init__(self, rule: Rule, source: str, slots: dict[str, int]) -> None:
        self._name = rule.name
        self._source = source
        self._conditions = [_condition(condition, slots) for condition in rule.when]
        self._identity = None if rule.identity is None else [slots[c] for c in rule.identity]

        def made(name: str, part: Part) -> _Field:
            return _Field(rule.name, name, part, slots)

        self._type = rule.type
        self._type_field = made("type", rule.type_part)
        self._job, self._time = made("job", rule.job), made("time", rule.time)
        fields = {name: made(name, part) for name, part in rule.fields.items()}
        self._viewers = [made("viewers", part) for part in rule.viewers]
        self._tags = [(tag, made(f"tags.{tag}", part)) for tag, part in rule.tags.items()]
        self._by_type = {
            name: [(field, member_of(field), get) for field, get in fields.items() if field in had]
            for name, had in FIELDS.items()
        }
        parts = {"subject": self._job, "time": self._time}
        parts |= {member_of(field): get for field, get in fields.items()}
        #: By the name of an event's member, the columns that it comes from.
        self._columns = {member: part.columns for member, part in parts.items()}

    def applies(self, values: Values) -> bool:
        """Tell whether a row is such an event."""
        return all(condition(values) for condition in self._conditions)

    def event(self, values: Values) -> Made:
        """Make the event of a row.

        Raises:
            Fault: It can't be made.
        """
        type_ = self._type or self._type_of(values)
        job = self._job.needed(values)
        at = self._time.needed(values)
        assert isinstance(job, str)
        assert isinstance(at, datetime)
        data: dict[str, object] = {}
        created = type_ == "job.created"
        for field, member, get in self._by_type[type_]:
            value = get(values)
            if value is not None:
                data[member] = value
            elif created and field in ("job_type", "owner"):
                raise get.fault("expected a value, found none")
        if self._viewers and created:
            data["viewers"] = self._viewers_of(values)
        if self._tags:
            tags = {tag: get(values) for tag, get in self._tags}
            data["tags"] = {tag: text for tag, text in tags.items() if text is not None}
        return self._made(type_, job, at, data, values)

    def _type_of(self, values: Values) -> str:
        name = full_type(str(self._type_field.needed(values)))
        if name not in FIELDS:
            raise self._type_field.fault(str(wrong("an event type, as created", name)))
        return name

    def _viewers_of(self, values: Values) -> list[str]:
        found: list[str] = []
        for get in self._viewers:
            texts = get(values)
            if isinstance(texts, list):
                found += texts
        return found

    def _made(
        self, type_: str, job: str, at: datetime, data: dict[str, object], values: Values
    ) -> Made:
        try:
            if self._identity is None:
                identity = [microseconds(at), data.get("attempt")]
            else:
                identity = [values[slot] for slot in self._identity]
            key = _encoder.encode([self._source, self._name, type_, job, identity])
            event = {
                "specversion": "1.0",
                "id": f"{self._name}-{blake2b(key, digest_size=_ID_BYTES).hexdigest()}",
                "source": self._source,
                "type": type_,
                "subject": job,
                "time": at,
                "data": data,
            }
            value = _encoder.encode(event)
            decode(value)
        except EventError as error:
            raise Fault(f"event {self._name!r}: {error}", self._blamed(error)) from None
        except (ValueError, OverflowError, TypeError, RecursionError) as error:
            raise Fault(f"event {self._name!r}: {error}") from None
        return Made(job, type_, value)

    def _blamed(self, error: EventError) -> str:
        """Return the columns of the member that an error is about, if it is about one."""
        place = _PLACE.search(error.found or "")
        if place is None and error.path[:1] != ("data",):
            return ""
        member = place[1] if place is not None else str(error.path[1])
        return self._columns.get(member, "")


def member_of(field: str) -> str:
    """Return the member of an event's data that a field of the mapping is."""
    first, *rest = field.split("_")
    return first + "".join(word.title() for word in rest)


def _getter(part: Part, slots: dict[str, int]) -> _Get:
    columns = [slots[column] for column in part.columns]
    if part.whole:
        (slot,) = columns
        return lambda values: values[slot]
    if not part.pieces:
        constant = part.constant
        return lambda _values: constant
    first, texts = part.pieces[0], part.pieces[2::2]

    def filled(values: Values) -> str | None:
        found = [first]
        for slot, text in zip(columns, texts, strict=True):
            value = values[slot]
            if value is None:
                return None
            found += (as_text(value), text)
        return "".join(found)

    return filled


def _condition(condition: Condition, slots: dict[str, int]) -> Callable[[Values], bool]:
    slot, texts, negated = slots[condition.column], condition.texts, condition.negated
    if condition.null is not None:
        null = condition.null
        return lambda values: (values[slot] is None) == null

    def has(values: Values) -> bool:
        value = values[slot]
        if value is None or isinstance(value, list | dict):
            return negated
        try:
            return (as_text(value) in texts) != negated
        except ValueError as error:
            raise Fault(str(error), condition.column) from None

    return has
