"""Job events: CloudEvents 1.0 in structured JSON mode, decoded into typed structs.

An event's type name and its fields are a storage format: the log keeps them for ever, so they may
only be added to. The golden files in tests/unit/golden hold one of each.

Source of the envelope: CloudEvents 1.0.2, "JSON Event Format".
"""

from __future__ import annotations

import re
from datetime import MAXYEAR, MINYEAR, UTC, datetime, timedelta
from typing import Annotated, ClassVar, Final, Literal, TypeAlias

import msgspec
from msgspec import Meta, Raw, Struct, field

from jobtrail.errors import EventError
from jobtrail.states import State

#: The most bytes of `output` and of `error`, as JSON.
MAX_PAYLOAD_BYTES: Final = 64 * 1024
#: The most bytes of a whole event: far below Kafka's default `message.max.bytes` of 1 MiB.
MAX_EVENT_BYTES: Final = 192 * 1024
#: How deep arrays and objects may be nested in an event. A fixed bound, since everyone who folds
#: the log has to refuse the same events, however deep the stack is that he decodes on.
MAX_NESTING: Final = 256
#: What is opened is closed: in so many bytes nothing can be nested deeper.
SHALLOW_BYTES: Final = 2 * MAX_NESTING
#: The most tags of one job.
MAX_TAGS: Final = 32

#: What documents say of a text that `_check_text` looks at: as an ECMA-262 pattern.
NO_CONTROL_CHARACTERS: Final = r"^[^\x00-\x1f\x7f-\x9f]*$"

# Control characters are looked for by `_check_text`, which most events need not pass through.
_PLAIN: Final = {"pattern": NO_CONTROL_CHARACTERS}
Name = Annotated[str, Meta(min_length=1, max_length=256, extra_json_schema=_PLAIN)]
Principal = Annotated[str, Meta(max_length=262, pattern=r"^(?:user|group):[^\x00-\x1f\x7f-\x9f]+$")]
Tag = Annotated[str, Meta(max_length=256, extra_json_schema=_PLAIN)]
Tags = Annotated[dict[Name, Tag], Meta(max_length=MAX_TAGS)]
Attempt = Annotated[int, Meta(ge=0, le=2**31 - 1)]
Text = Annotated[str, Meta(max_length=4096)]
Instant = Annotated[datetime, Meta(tz=True)]


#: No JSON at all, where an event has none.
NOTHING: Final = Raw()


class _Data(Struct, rename="camel", kw_only=True, gc=False, omit_defaults=True):
    """What any event's data may hold."""

    attempt: Attempt | None = None
    tags: Tags | None = None


class CreatedData(_Data):
    """What a job is and whose."""

    job_type: Name
    owner: Name
    bulk_id: Name | None = None
    viewers: Annotated[tuple[Principal, ...], Meta(max_length=256)] = ()


class ActiveData(_Data):
    """Who took the job up."""

    worker: Text | None = None


class ProgressData(_Data):
    """How far the job is, 0..1."""

    progress: Annotated[float, Meta(ge=0, le=1)] | None = None
    message: Text | None = None


class RetryData(_Data):
    """Why the attempt failed and when the next one is due."""

    error: Raw = NOTHING
    retry_at: Instant | None = None

    def __post_init__(self) -> None:
        self.error = self.error or NOTHING


class CompletedData(_Data):
    """What came of the job: any JSON, given back byte for byte."""

    output: Raw = NOTHING

    def __post_init__(self) -> None:
        self.output = self.output or NOTHING


class FailedData(_Data):
    """Why the job failed, and what it leaves."""

    error: Raw = NOTHING
    output: Raw = NOTHING

    def __post_init__(self) -> None:
        self.error = self.error or NOTHING
        self.output = self.output or NOTHING


class ReasonData(_Data):
    """Why the job was ended from outside."""

    reason: Text | None = None


class _Event(
    Struct, kw_only=True, gc=False, tag_field="type", omit_defaults=True, repr_omit_defaults=True
):
    """The CloudEvents envelope that all events share."""

    #: The state that the event puts a job in; None where it changes no state.
    state: ClassVar[State | None]

    specversion: Literal["1.0"]
    id: Name
    source: Name
    subject: Name
    time: Instant | None = None
    datacontenttype: Literal["application/json"] | None = None


class Created(_Event, tag="job.created"):
    """The job exists: what it is, whose, who else may see it."""

    state: ClassVar[State | None] = State.CREATED
    data: CreatedData


class Active(_Event, tag="job.active"):
    """A worker took the job up."""

    state: ClassVar[State | None] = State.ACTIVE
    data: ActiveData = field(default_factory=ActiveData)


class Progress(_Event, tag="job.progress"):
    """The job is under way; changes no state."""

    state: ClassVar[State | None] = None
    data: ProgressData = field(default_factory=ProgressData)


class Retry(_Event, tag="job.retry"):
    """The attempt failed, another is due."""

    state: ClassVar[State | None] = State.RETRY
    data: RetryData = field(default_factory=RetryData)


class Completed(_Event, tag="job.completed"):
    """The job ended well."""

    state: ClassVar[State | None] = State.COMPLETED
    data: CompletedData = field(default_factory=CompletedData)


class Failed(_Event, tag="job.failed"):
    """The job ended badly."""

    state: ClassVar[State | None] = State.FAILED
    data: FailedData = field(default_factory=FailedData)


class Cancelled(_Event, tag="job.cancelled"):
    """Somebody ended the job."""

    state: ClassVar[State | None] = State.CANCELLED
    data: ReasonData = field(default_factory=ReasonData)


class Expired(_Event, tag="job.expired"):
    """The job's time ran out."""

    state: ClassVar[State | None] = State.EXPIRED
    data: ReasonData = field(default_factory=ReasonData)


Event: TypeAlias = Created | Active | Progress | Retry | Completed | Failed | Cancelled | Expired

#: The event types in the order of their codes in a job's trail: only ever append.
EVENT_TYPES: Final = (Created, Active, Progress, Retry, Completed, Failed, Cancelled, Expired)
TYPE_NAMES: Final = tuple(str(t.__struct_config__.tag) for t in EVENT_TYPES)

_decoder: Final[msgspec.json.Decoder[Event]] = msgspec.json.Decoder(Event)
_encoder: Final = msgspec.json.Encoder()
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]")
# Brackets, and strings so that brackets in them are passed over. A string that is not closed goes
# to the end: else it would be looked through again from every quote in it.
_BRACKETS: Final = re.compile(rb'"(?:[^"\\]|\\.)*"?|[\[\]{}]', re.DOTALL)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)


def decode(value: bytes | None) -> Event:
    """Decode the value of one Kafka record.

    Args:
        value: One CloudEvents JSON object in UTF-8, at most `MAX_EVENT_BYTES` long.

    Returns:
        The event, one of the eight types.

    Raises:
        EventError: It is no valid event; `reason` is `no-value`, `too-large`, `not-utf-8`,
            `not-json` or `invalid`.
    """
    if not value:
        raise EventError("The record has no value.", reason="no-value", expected="a CloudEvent")
    if len(value) > MAX_EVENT_BYTES:
        raise EventError(
            "The event is too large.",
            reason="too-large",
            expected=f"at most {MAX_EVENT_BYTES} bytes",
            found=f"{len(value)} bytes",
        )
    plain = is_plain(value)
    if may_be_deep(value):
        _check_nesting(value)
    try:
        # Output is handed on as it came, so it must be checked as a whole: msgspec skips it.
        plain or value.decode()
        event = _decoder.decode(value)
    except UnicodeDecodeError as error:
        raise EventError("The event is not UTF-8.", reason="not-utf-8", found=str(error)) from None
    except msgspec.ValidationError as error:
        raise EventError(
            "The event breaks the schema.", reason="invalid", found=str(error)
        ) from None
    except (msgspec.DecodeError, RecursionError) as error:
        raise EventError("The event is not JSON.", reason="not-json", found=str(error)) from None
    time = event.time
    if time is not None and not is_told_by_all(time.year):
        raise EventError(
            "The event's time can't be told in UTC by everyone.",
            reason="invalid",
            expected=f"a year from {MINYEAR + 1} to {MAXYEAR - 1}",
            found=time.isoformat(),
        )
    if not plain:
        _check_text(event)
    if len(value) > MAX_PAYLOAD_BYTES:
        _check_payload(event, "output")
        _check_payload(event, "error")
    return event


def decode_lines(values: bytes) -> list[Event]:
    """Decode many values at one go: for whoever makes sure of all else that `decode` looks at.

    Args:
        values: One value a line.

    Returns:
        The events; fewer than there are lines where a value stretches over several, or over none.

    Raises:
        msgspec.MsgspecError: One breaks the schema, or is not JSON.
    """
    return _decoder.decode_lines(values)


def is_plain(text: bytes) -> bool:
    """Tell that no control character can be in JSON: neither as it is nor behind a backslash."""
    return text.isascii() and b"\\" not in text and b"\x7f" not in text


def may_be_deep(value: bytes) -> bool:
    """Tell whether a value has so many brackets that they may be nested too deep."""
    return len(value) > SHALLOW_BYTES and value.count(b"[") + value.count(b"{") > MAX_NESTING


def is_told_by_all(year: int) -> bool:
    """Tell whether everyone can tell, in UTC, an event's time in this year of its own zone."""
    return MINYEAR < year < MAXYEAR


def _check_text(event: Event) -> None:
    """Refuse control characters in what names a thing.

    U+0000 can't be held by PostgreSQL, the others only deceive readers. JSON allows them only
    behind a backslash, or beyond ASCII: an event with neither has none.
    """
    data = event.data
    texts = [event.id, event.source, event.subject]
    for name, text in (data.tags or {}).items():
        texts += (name, text)
    if isinstance(data, CreatedData):
        texts += (data.job_type, data.owner, data.bulk_id or "", *data.viewers)
    for text in texts:
        if _CONTROL.search(text):
            raise EventError(
                "A name in the event has a control character.",
                reason="invalid",
                expected="no characters U+0000 to U+001F or U+007F to U+009F",
                found=repr(text[:80]),
            )


def _check_nesting(value: bytes) -> None:
    depth = 0
    for found in _BRACKETS.finditer(value):
        bracket = found[0]
        if bracket in (b"[", b"{"):
            depth += 1
            if depth > MAX_NESTING:
                raise EventError(
                    "The event is nested too deep.",
                    reason="invalid",
                    expected=f"at most {MAX_NESTING} arrays and objects in each other",
                )
        elif bracket in (b"]", b"}"):
            depth -= 1


def _check_payload(event: Event, name: str) -> None:
    raw: Raw | None = getattr(event.data, name, None)
    if raw is not None and len(raw) > MAX_PAYLOAD_BYTES:
        raise EventError(
            f"The event's `{name}` is too large.",
            reason="too-large",
            expected=f"at most {MAX_PAYLOAD_BYTES} bytes of JSON",
            found=f"{len(raw)} bytes",
        )


def encode(event: Event) -> bytes:
    """Encode an event as the value of a Kafka record.

    Args:
        event: The event; its key in the log is `event.subject` in UTF-8.

    Returns:
        CloudEvents 1.0 structured JSON in UTF-8.
    """
    return _encoder.encode(event)


def microseconds(instant: datetime) -> int:
    """Return an aware instant as whole microseconds since 1970-01-01T00:00:00Z."""
    return (instant - _EPOCH) // _MICROSECOND


def from_microseconds(value: int) -> datetime:
    """Return the instant, in UTC, that is `value` microseconds after 1970-01-01T00:00:00Z."""
    return _EPOCH + timedelta(microseconds=value)
