"""Job events: CloudEvents 1.0 in structured JSON mode, decoded into typed structs.

An event's type name and its fields are a storage format: the log keeps them for ever, so they may
only be added to. The golden files in tests/unit/golden have one of each.

Source of the envelope: CloudEvents 1.0.2, "JSON Event Format".
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from datetime import MAXYEAR, MINYEAR, UTC, datetime, timedelta
from typing import Annotated, ClassVar, Final, Literal, TypeAlias

import msgspec
from msgspec import Meta, Raw, Struct, field

from jobtrail.core.errors import EventError
from jobtrail.core.nesting import check_nesting, may_be_deep
from jobtrail.core.readable import (
    Path,
    big_number,
    may_have_big_numbers,
    not_json_error,
    path_text,
    unportable_error,
    unwritable_error,
)
from jobtrail.core.source_binding import ATTRIBUTE, MAX_CHARACTERS, MAX_SOURCES
from jobtrail.core.states import State

#: The most bytes of `output` and of `error`, as JSON.
MAX_PAYLOAD_BYTES: Final = 64 * 1024
#: The most bytes of an event: far below Kafka's default `message.max.bytes` of 1 MiB.
MAX_EVENT_BYTES: Final = 192 * 1024
#: The most characters of a name, such as a job's id, and the most bytes of one in UTF-8.
MAX_NAME: Final = 256
MAX_NAME_BYTES: Final = 4 * MAX_NAME
#: The most tags of one job.
MAX_TAGS: Final = 32

#: The rule of `_check_text` as an ECMA-262 pattern, for schemas.
NO_CONTROL_CHARACTERS: Final = r"^[^\x00-\x1f\x7f-\x9f]*$"

# Control characters are checked by `_check_text`, which most events can skip.
_PLAIN: Final = {"pattern": NO_CONTROL_CHARACTERS}
Name = Annotated[str, Meta(min_length=1, max_length=MAX_NAME, extra_json_schema=_PLAIN)]
Principal = Annotated[str, Meta(max_length=262, pattern=r"^(?:user|group):[^\x00-\x1f\x7f-\x9f]+$")]
Tag = Annotated[str, Meta(max_length=256, extra_json_schema=_PLAIN)]
Tags = Annotated[dict[Name, Tag], Meta(max_length=MAX_TAGS)]
Attempt = Annotated[int, Meta(ge=0, le=2**31 - 1)]
Text = Annotated[str, Meta(max_length=4096)]
Sources = Annotated[str, Meta(min_length=1, max_length=MAX_CHARACTERS, extra_json_schema=_PLAIN)]
Instant = Annotated[datetime, Meta(tz=True)]
#: The characters of a name of a media type, RFC 6838.
_NAMED: Final = r"[A-Za-z0-9!#$&^_.+-]+"
_JSON_TYPE: Final = rf"^{_NAMED}/(?:{_NAMED}\+)?[Jj][Ss][Oo][Nn][ \t]*(?:;[\x20-\x7e\t]*)?$"
_IS_JSON_TYPE: Final = re.compile(_JSON_TYPE)
# Checked by `is_json_type`: the decoder would take as long for it as for the rest of the event.
JsonType = Annotated[str, Meta(max_length=256, extra_json_schema={"pattern": _JSON_TYPE})]


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
    #: Sources whose senders may work on the job, beside the one that created it.
    writers: Annotated[tuple[Name, ...], Meta(max_length=MAX_SOURCES)] = ()


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
    #: Any media type of JSON (RFC 6839), with parameters or without; the data are JSON either way.
    datacontenttype: JsonType | None = None
    #: Bytes are no data of a job: an event that has them is refused, and nothing of it is lost.
    data_base64: None = None
    #: What the sender is bound to (`core.source_binding`); None for one who may do anything.
    bound_to: Sources | None = field(default=None, name=ATTRIBUTE)


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
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)


def is_json_type(text: str | None) -> bool:
    """Tell whether a media type is one of JSON; none at all is."""
    return text is None or text == "application/json" or _IS_JSON_TYPE.search(text) is not None


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
        check_nesting(value)
    try:
        # The encoding is checked for all bytes: msgspec passes raw output on unchecked.
        plain or value.decode()
        event = _decoder.decode(value)
    except UnicodeDecodeError as error:
        raise EventError("The event is not UTF-8.", reason="not-utf-8", found=str(error)) from None
    except msgspec.ValidationError as error:
        raise EventError(
            "The event breaks the schema.", reason="invalid", found=str(error)
        ) from None
    except (msgspec.DecodeError, RecursionError) as error:
        raise not_json_error(value, str(error)) from None
    if may_have_big_numbers(value) and (big := big_number(value)) is not None:
        raise unportable_error(big)
    time = event.time
    if time is not None and not is_utc_year(time.year):
        raise _untellable(time)
    if not is_json_type(event.datacontenttype):
        raise EventError(
            "The event's data are not JSON.",
            reason="invalid",
            expected="a `datacontenttype` of JSON, as application/json or application/vnd.x+json",
            found=repr(event.datacontenttype),
        )
    if not plain:
        _check_text(event)
    if len(value) > MAX_PAYLOAD_BYTES:
        _check_payload(event, "output")
        _check_payload(event, "error")
    return event


def _untellable(time: datetime) -> EventError:
    return EventError(
        "The event's time can't be told in UTC by everyone.",
        reason="invalid",
        path=("time",),
        where="time",
        expected=f"a year from {MINYEAR + 1} to {MAXYEAR - 1}",
        found=time.isoformat(),
    )


def decode_lines(values: bytes) -> list[Event]:
    """Decode many values at once; the caller makes the other checks of `decode`.

    Args:
        values: One value a line.

    Returns:
        The events; not as many as lines where a value takes several lines, or none.

    Raises:
        msgspec.MsgspecError: One breaks the schema, or is not JSON.
    """
    return _decoder.decode_lines(values)


def is_plain(text: bytes) -> bool:
    """Tell whether JSON can have no control character, neither raw nor escaped."""
    return text.isascii() and b"\\" not in text and b"\x7f" not in text


def is_utc_year(year: int) -> bool:
    """Tell whether any time of a local year is within the calendar also in UTC."""
    return MINYEAR < year < MAXYEAR


def _check_text(event: Event) -> None:
    """Refuse control characters in names.

    PostgreSQL can't store U+0000, the others only deceive readers. JSON allows them only escaped,
    or beyond ASCII: an event with neither has none.
    """
    for path, text in _names(event):
        if _CONTROL.search(text):
            raise EventError(
                "A name in the event has a control character.",
                reason="invalid",
                path=path,
                where=path_text(path),
                expected="no characters U+0000 to U+001F or U+007F to U+009F",
                found=repr(text[:80]),
            )


def _names(event: Event) -> Iterator[tuple[Path, str]]:
    """Yield the names in an event, with their paths."""
    data = event.data
    yield from ((("id",), event.id), (("source",), event.source), (("subject",), event.subject))
    yield (ATTRIBUTE,), event.bound_to or ""
    for name, text in (data.tags or {}).items():
        yield ("data", "tags", name), name
        yield ("data", "tags", name), text
    if isinstance(data, CreatedData):
        yield ("data", "jobType"), data.job_type
        yield ("data", "owner"), data.owner
        yield ("data", "bulkId"), data.bulk_id or ""
        for number, viewer in enumerate(data.viewers):
            yield ("data", "viewers", number), viewer
        for number, writer in enumerate(data.writers):
            yield ("data", "writers", number), writer


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

    Raises:
        EventError: It has a value that JSON can't represent, such as half a surrogate pair.
    """
    try:
        value = _encoder.encode(event)
    except (TypeError, ValueError, msgspec.MsgspecError, RecursionError) as error:
        raise unwritable_error(event, (), str(error)) from None
    if type(event) is Progress and not math.isfinite(event.data.progress or 0):
        # It became a null.
        raise unwritable_error(event, (), "a number that is none")
    return value


def microseconds(instant: datetime) -> int:
    """Return an aware instant in microseconds since 1970-01-01T00:00:00Z."""
    return (instant - _EPOCH) // _MICROSECOND


def from_microseconds(value: int) -> datetime:
    """Return the instant, in UTC, that is `value` microseconds after 1970-01-01T00:00:00Z."""
    return _EPOCH + timedelta(microseconds=value)
