"""`POST /events`: CloudEvents 1.0 in structured, batched and binary mode.

Source: CloudEvents 1.0.2, "HTTP Protocol Binding" and "JSON Batch Format".
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Final, Literal
from urllib.parse import unquote

import msgspec
import orjson
from aiohttp import web
from msgspec import Meta, Struct
from msgspec.structs import fields, replace

from jobtrail.client.results import BatchWritten, EventVerdict, Written
from jobtrail.errors import EventError
from jobtrail.events import EVENT_TYPES, TYPE_NAMES, Event, decode
from jobtrail.position import format_position, parse_position
from jobtrail.tokens import WRITE
from services.api.answers import answer
from services.api.auth import Identity
from services.api.endpoint import Answer, Endpoint, Form, Link, Parameter
from services.api.freshness import POSITION
from services.api.problems import (
    FOREIGN_SOURCE,
    LOG_UNAVAILABLE,
    Fault,
    foreign_source,
    invalid,
    unsupported_form,
)
from services.api.reading import read_all
from services.api.requests import NoQuery, read_query
from services.api.service import Service

STRUCTURED: Final = "application/cloudevents+json"
BATCHED: Final = "application/cloudevents-batch+json"
BINARY: Final = "application/json"
#: The most events of a batch.
MAX_BATCH: Final = 5_000
#: The verdict on an event that the caller's key is not for.
_FOREIGN: Final = "foreign-source"
_FOREIGN_DETAIL: Final = "Your API key is bound to other sources."
_PREFIX: Final = "ce-"
_batch: Final = msgspec.json.Decoder(list[msgspec.Raw])


async def ingest(service: Service, request: web.Request, identity: Identity) -> web.StreamResponse:
    """Append events to the log; answer when Kafka has acknowledged them.

    In CloudEvents' structured, batched or binary mode. What was answered with an error may be in
    the log all the same: send it again, an event that is there already changes nothing.
    """
    read_query(NoQuery, request.rel_url.raw_query_string)
    form = request.content_type
    if form == BATCHED:
        return await _write_batch(service, await read_all(service, request), identity)
    if form == STRUCTURED:
        value = await read_all(service, request)
    elif form == BINARY and "ce-specversion" in request.headers:
        value = _from_binary(request, await read_all(service, request))
    else:
        raise unsupported_form((STRUCTURED, BATCHED, f"{BINARY} with ce- headers"))
    try:
        event = decode(value)
    except EventError as error:
        raise invalid([Fault("pointer", "", str(error))]) from None
    if not identity.may_write(event.source):
        raise foreign_source([Fault("pointer", "/source", _FOREIGN_DETAIL)])
    (position,) = await service.ingest.write([(event.subject, value)])
    return answer(Written(event.id, position), {POSITION: position})


async def _write_batch(service: Service, body: bytes, identity: Identity) -> web.StreamResponse:
    """Give every event its own verdict: 200 for all, 207 for some, 400 or 403 for none."""
    values = _split(body)
    verdicts: list[EventVerdict] = []
    accepted: list[tuple[str, bytes]] = []
    for value in values:
        try:
            event = decode(value)
        except EventError as error:
            verdicts.append(EventVerdict(False, reason=error.reason, detail=str(error)))
        else:
            if identity.may_write(event.source):
                verdicts.append(EventVerdict(True, id=event.id))
                accepted.append((event.subject, value))
            else:
                verdicts.append(EventVerdict(False, reason=_FOREIGN, detail=_FOREIGN_DETAIL))
    if not accepted:
        faults = [Fault("pointer", f"/{n}", str(v.detail)) for n, v in enumerate(verdicts)]
        if faults and all(verdict.reason == _FOREIGN for verdict in verdicts):
            raise foreign_source(faults)
        raise invalid(faults or [Fault("pointer", "", "The batch has no events.")])
    positions = await service.ingest.write(accepted)
    reached: dict[int, int] = {}
    for position in positions:
        for partition, offset in parse_position(position).items():
            reached[partition] = max(reached.get(partition, 0), offset)
    each = iter(positions)
    verdicts = [replace(v, position=next(each)) if v.accepted else v for v in verdicts]
    whole = format_position(reached)
    response = answer(BatchWritten(verdicts, whole), {POSITION: whole})
    if len(accepted) < len(verdicts):
        response.set_status(207)
    return response


def _split(body: bytes) -> list[bytes]:
    try:
        raws = _batch.decode(body)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise invalid([Fault("pointer", "", f"Expected a JSON array of events: {error}")]) from None
    if len(raws) > MAX_BATCH:
        detail = f"A batch has {MAX_BATCH} events at most; found {len(raws)}."
        raise invalid([Fault("pointer", "", detail)])
    return [bytes(raw) for raw in raws]


def _from_binary(request: web.Request, body: bytes) -> bytes:
    """Put an event together whose attributes are headers and whose data is the body."""
    event: dict[str, Any] = {
        name[len(_PREFIX) :].lower(): unquote(value)
        for name, value in request.headers.items()
        if name.lower().startswith(_PREFIX)
    }
    event["datacontenttype"] = BINARY
    if body:
        try:
            orjson.loads(body)
        except orjson.JSONDecodeError as error:
            raise invalid([Fault("pointer", "", f"The data is not JSON: {error}.")]) from None
        event["data"] = orjson.Fragment(body)
    return orjson.dumps(event)


def _field_types(kind: type[Struct]) -> dict[str, Any]:
    return {field.encode_name: field.type for field in fields(kind)}


def _attributes() -> Iterator[Parameter]:
    """Yield the headers of binary mode: the attributes that all events share."""
    types = {**_field_types(EVENT_TYPES[0]), "type": Literal[TYPE_NAMES]}
    for name, shape in types.items():
        if name not in ("data", "datacontenttype"):
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
            "All of it is in the log.",
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
    problems=(LOG_UNAVAILABLE, FOREIGN_SOURCE),
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
    headers=tuple(_attributes()),
)
