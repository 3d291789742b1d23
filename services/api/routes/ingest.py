"""`POST /events`: CloudEvents 1.0 in structured, batched and binary mode.

Source: CloudEvents 1.0.2, "HTTP Protocol Binding" and "JSON Batch Format".
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, Any, Final, Literal
from urllib.parse import unquote_to_bytes

import msgspec
import orjson
from aiohttp import hdrs, web
from msgspec import Meta, Struct
from msgspec.structs import fields, replace

from jobtrail.access.tokens import WRITE
from jobtrail.contract.results import BatchWritten, EventVerdict, Written
from jobtrail.core.errors import EventError
from jobtrail.core.events import EVENT_TYPES, TYPE_NAMES, Event, decode, is_json_type
from jobtrail.core.position import Position, format_position, join_positions
from jobtrail.core.readable import check_value, items_of, pointer_of
from jobtrail.core.source_binding import ATTRIBUTE, pack_sources, stamp
from services.api.access.auth import Identity
from services.api.http.answers import answer
from services.api.http.requests import NoQuery, read_query
from services.api.problems.problems import (
    FOREIGN_SOURCE,
    LOG_UNAVAILABLE,
    TOO_MANY_BYTES,
    RequestFault,
    foreign_source,
    invalid,
    unsupported_form,
)
from services.api.reads import freshness
from services.api.reads.freshness import POSITION, read_position
from services.api.routes.reach import read_all
from services.api.service import Service
from services.api.serving.endpoint import Answer, Endpoint, Form, Link, Parameter

STRUCTURED: Final = "application/cloudevents+json"
BATCHED: Final = "application/cloudevents-batch+json"
BINARY: Final = "application/json"
#: The most events of a batch.
MAX_BATCH: Final = 5_000
#: The verdict on an event of a source that the caller's key is not bound to.
_FOREIGN: Final = "foreign-source"
_FOREIGN_DETAIL: Final = "Your API key is bound to other sources."
_PREFIX: Final = "ce-"
#: Attributes that no header may set, since they are in the body.
_BODY: Final = frozenset({"data", "data_base64", "datacontenttype"})
#: A quoted string, and an escaped character in it (RFC 9110, 5.6.4).
_QUOTED: Final = re.compile(r'"((?:[^"\\]|\\.)*)"')
_ESCAPED: Final = re.compile(r"\\(.)")
_batch: Final = msgspec.json.Decoder(list[msgspec.Raw])


async def ingest(service: Service, request: web.Request, identity: Identity) -> web.StreamResponse:
    """Append events to the log; answer when Kafka has acknowledged them.

    In CloudEvents' structured, batched or binary mode. Events that were answered with an error may
    be in the log all the same. Send them again: one that is in the log already changes nothing.

    The position of the answer includes the request's position: a client that always sends back the
    last position that it got reads everything that it wrote.
    """
    read_query(NoQuery, request.rel_url.raw_query_string)
    header = request.headers.get(POSITION)
    before = Position() if header is None else read_position(header)
    form = _form(request)
    if form == BATCHED:
        # Only before anything is written.
        service.outgoing.check(identity.caller.user)
        return await _write_batch(service, await read_all(service, request), identity, before)
    value = await read_all(service, request)
    try:
        if form == BINARY:
            value = _from_binary(request, value)
        event = decode(value)
    except EventError as error:
        # In binary mode the body is the data alone.
        path = error.path[1:] if form == BINARY and error.path[:1] == ("data",) else error.path
        raise invalid([RequestFault("pointer", pointer_of(path), str(error))]) from None
    if not identity.may_write(event.source):
        raise foreign_source([RequestFault("pointer", "/source", _FOREIGN_DETAIL)])
    try:
        value = _bound(value, identity)
    except EventError as error:
        raise invalid([RequestFault("pointer", "", str(error))]) from None
    (position,) = await service.ingest.write([(event.subject, value)])
    reached = format_position(join_positions((before, position)))
    return answer(Written(event.id, format_position(position)), {POSITION: reached})


async def _write_batch(
    service: Service, body: bytes, identity: Identity, before: Position
) -> web.StreamResponse:
    """Answer with a verdict on each event: 200 for all, 207 for some, 400 or 403 for none."""
    values = _split(body)
    verdicts: list[EventVerdict] = []
    places: list[str] = []
    accepted: list[tuple[str, bytes]] = []
    for number, value in enumerate(values):
        places.append(f"/{number}")
        try:
            event = decode(value)
            if identity.may_write(event.source):
                value = _bound(value, identity)
        except EventError as error:
            places[-1] += pointer_of(error.path)
            verdicts.append(EventVerdict(False, reason=error.reason, detail=str(error)))
        else:
            if identity.may_write(event.source):
                verdicts.append(EventVerdict(True, id=event.id))
                accepted.append((event.subject, value))
            else:
                verdicts.append(EventVerdict(False, reason=_FOREIGN, detail=_FOREIGN_DETAIL))
    if not accepted:
        faults = [
            RequestFault("pointer", place, str(verdict.detail))
            for place, verdict in zip(places, verdicts, strict=True)
        ]
        if faults and all(verdict.reason == _FOREIGN for verdict in verdicts):
            raise foreign_source(faults)
        raise invalid(faults or [RequestFault("pointer", "", "The batch has no events.")])
    positions = await service.ingest.write(accepted)
    written = join_positions(positions)
    each = map(format_position, positions)
    verdicts = [replace(v, position=next(each)) if v.accepted else v for v in verdicts]
    reached = format_position(join_positions((before, written)))
    response = answer(BatchWritten(verdicts, format_position(written)), {POSITION: reached})
    if len(accepted) < len(verdicts):
        response.set_status(207)
    return response


def _bound(value: bytes, identity: Identity) -> bytes:
    """Return an event with the sources that its sender is bound to, which the fold checks.

    They replace whatever the sender has written in that attribute. A sender that is bound to
    nothing may set it, since it only takes rights away.

    Raises:
        EventError: It is too large with them.
    """
    if identity.sources is None:
        return value
    signed = stamp(value, pack_sources(identity.sources))
    decode(signed)
    return signed


def _split(body: bytes) -> list[bytes]:
    try:
        values = list(map(bytes, _batch.decode(body)))
    except (msgspec.MsgspecError, RecursionError) as error:
        # One event that can't be decoded must not make the whole batch fail.
        found = items_of(body)
        if found is None:
            detail = f"Expected a JSON array of events: {error}"
            raise invalid([RequestFault("pointer", "", detail)]) from None
        values = found
    if len(values) > MAX_BATCH:
        detail = f"A batch has {MAX_BATCH} events at most; found {len(values)}."
        raise invalid([RequestFault("pointer", "", detail)])
    return values


def _form(request: web.Request) -> str:
    """Return the mode of a request by its content type; `BINARY` for all types of binary mode.

    Raises:
        Problem: 415 where it is in no mode, or its JSON is not in UTF-8.
    """
    form = request.content_type
    if (request.charset or "utf-8").lower() in ("utf-8", "utf8", "us-ascii"):
        if form in (STRUCTURED, BATCHED):
            return form
        if is_json_type(form) and "ce-specversion" in request.headers:
            return BINARY
    raise unsupported_form((STRUCTURED, BATCHED, f"{BINARY} with ce- headers, all in UTF-8"))


def _from_binary(request: web.Request, body: bytes) -> bytes:
    """Build an event from attributes in headers and data in the body."""
    event: dict[str, Any] = {}
    faults = []
    for header, value in request.headers.items():
        name = header.lower()
        if not name.startswith(_PREFIX):
            continue
        attribute = name.removeprefix(_PREFIX)
        try:
            if attribute in event:
                raise ValueError("it is given more than once")
            if attribute in _BODY:
                raise ValueError("an event's data is the body")
            event[attribute] = text_of(value)
        except ValueError as error:
            faults.append(RequestFault("parameter", name, f"This is no attribute: {error}."))
    content_type = request.headers[hdrs.CONTENT_TYPE]
    try:
        # Quoted values of its parameters may contain any bytes.
        content_type.encode()
    except UnicodeEncodeError:
        faults.append(RequestFault("parameter", "content-type", "It is not UTF-8."))
    if faults:
        raise invalid(faults)
    event["datacontenttype"] = content_type
    if body:
        # Checked to be one JSON value, so that it can't add members to the event.
        check_value(body)
        event["data"] = orjson.Fragment(body)
    return orjson.dumps(event)


def text_of(value: str) -> str:
    """Return the attribute that a header encodes.

    Double quotes and the backslashes of escapes are removed; then percent-encoding is decoded once.
    Source: CloudEvents 1.0.2, HTTP Protocol Binding, 3.1.3.2.

    Args:
        value: As aiohttp decodes it, with surrogates for bytes that are not UTF-8.

    Raises:
        ValueError: It is not UTF-8, or a double quote is not closed.
    """
    if '"' in value:
        outside = _QUOTED.sub("", value)
        if '"' in outside:
            raise ValueError("a double quote is not closed")
        value = _QUOTED.sub(lambda quoted: _ESCAPED.sub(r"\1", quoted[1]), value)
    try:
        return unquote_to_bytes(value.encode("utf-8", "surrogateescape")).decode()
    except UnicodeDecodeError:
        raise ValueError("it is not UTF-8") from None


def _field_types(kind: type[Struct]) -> dict[str, Any]:
    return {field.encode_name: field.type for field in fields(kind)}


def _attributes() -> Iterator[Parameter]:
    """Yield the headers of binary mode: the attributes that all events share."""
    types = {**_field_types(EVENT_TYPES[0]), "type": Literal[TYPE_NAMES]}
    for name, shape in types.items():
        if name not in (*_BODY, ATTRIBUTE):
            detail = f"The event's `{name}`, in binary mode only; percent-encoded beyond ASCII."
            yield Parameter(f"{_PREFIX}{name}", detail, shape)


_WRITTEN: Final = {POSITION: f"$response.header.{POSITION}"}
ENDPOINT: Final = Endpoint(
    "POST",
    "/events",
    "ingest",
    ingest,
    NoQuery,
    permission=WRITE,
    answers=(
        Answer(
            "All events are in the log.",
            (Written, BatchWritten),
            headers=(POSITION,),
            links={
                "job": Link("job", {"id": "$request.body#/subject", **_WRITTEN}),
                "history": Link("history", {"id": "$request.body#/subject", **_WRITTEN}),
                "statuses": Link(
                    "statuses", _WRITTEN, {"jobIds": ["$request.body#/subject"], "wait": 0}
                ),
                "first": Link("job", {"id": "$request.body#/0/subject", **_WRITTEN}),
                "search": Link("search", _WRITTEN),
                "summary": Link("summary", _WRITTEN),
            },
        ),
        Answer(
            "Some of the batch is in the log; each event has its own verdict.",
            BatchWritten,
            status=207,
            headers=(POSITION,),
        ),
    ),
    problems=(LOG_UNAVAILABLE, FOREIGN_SOURCE, TOO_MANY_BYTES),
    forms=(
        Form(STRUCTURED, "One event.", Event),
        Form(
            BATCHED,
            "Events, of which each gets its own verdict.",
            Annotated[list[Event], Meta(min_length=1, max_length=MAX_BATCH)],
        ),
        Form(
            BINARY,
            "The data of one event whose attributes are in headers.",
            tuple(dict.fromkeys(_field_types(kind)["data"] for kind in EVENT_TYPES)),
        ),
    ),
    headers=(
        Parameter(POSITION, "The position of the answer includes this one.", freshness.Position),
        *_attributes(),
    ),
)
