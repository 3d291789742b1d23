"""`POST /events`: CloudEvents 1.0 in structured, batched and binary mode.

Source: CloudEvents 1.0.2, "HTTP Protocol Binding" and "JSON Batch Format".
"""

from __future__ import annotations

from typing import Any, Final
from urllib.parse import unquote

import msgspec
import orjson
from aiohttp import web

from jobtrail.errors import EventError
from jobtrail.events import decode
from jobtrail.tokens import WRITE
from services.api.answers import answer
from services.api.auth import Identity
from services.api.freshness import POSITION
from services.api.problems import Fault, forbidden, foreign_source, invalid, unsupported_form
from services.api.reading import read_all
from services.api.requests import NoQuery, read_query
from services.api.routes.endpoint import Endpoint
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
    """Append events to the log; answer when Kafka has acknowledged them."""
    read_query(NoQuery, request.rel_url.raw_query_string)
    if WRITE not in identity.permissions:
        raise forbidden(WRITE)
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
    return answer({"id": event.id, "position": position}, {POSITION: position})


async def _write_batch(service: Service, body: bytes, identity: Identity) -> web.StreamResponse:
    """Give every event its own verdict: 200 for all, 207 for some, 400 or 403 for none."""
    values = _split(body)
    verdicts: list[dict[str, Any]] = []
    accepted: list[tuple[str, bytes]] = []
    for value in values:
        try:
            event = decode(value)
        except EventError as error:
            verdicts.append({"accepted": False, "reason": error.reason, "detail": str(error)})
        else:
            if identity.may_write(event.source):
                verdicts.append({"accepted": True, "id": event.id})
                accepted.append((event.subject, value))
            else:
                verdicts.append({"accepted": False, "reason": _FOREIGN, "detail": _FOREIGN_DETAIL})
    if not accepted:
        faults = [Fault("pointer", f"/{n}", str(v["detail"])) for n, v in enumerate(verdicts)]
        if faults and all(verdict["reason"] == _FOREIGN for verdict in verdicts):
            raise foreign_source(faults)
        raise invalid(faults or [Fault("pointer", "", "The batch has no events.")])
    positions = iter(await service.ingest.write(accepted))
    behind: dict[str, int] = {}
    for verdict in verdicts:
        if verdict["accepted"]:
            verdict["position"] = next(positions)
            partition, offset = verdict["position"].split(":")
            behind[partition] = max(behind.get(partition, 0), int(offset))
    position = ",".join(f"{p}:{behind[p]}" for p in sorted(behind, key=int))
    response = answer({"events": verdicts, "position": position}, {POSITION: position})
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


ENDPOINT: Final = Endpoint("POST", "/events", "ingest", ingest, NoQuery)
