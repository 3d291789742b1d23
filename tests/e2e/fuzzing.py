"""What the fuzzer has to know beyond the document: what its schemas can't say.

schemathesis loads it, see schemathesis.toml. Only what fits the document is changed before it is
sent; what is meant to be refused goes as it was made.
"""

from __future__ import annotations

import json
import os
import re
from typing import Any

import msgspec
import schemathesis
from schemathesis.core.failures import AcceptedNegativeData
from schemathesis.generation import GenerationMode

from jobtrail.core.events import EVENT_TYPES
from services.api.openapi.headers import POSITION_SCHEMA

#: The environment variable that holds a position of the log that is there.
POSITION = "FUZZING_POSITION"
_HEADERS = ("Jobtrail-Position", "Last-Event-ID")
_A_POSITION = re.compile(POSITION_SCHEMA["pattern"])
_FIRST_OR_LAST_YEAR = re.compile(r"\A(?:000[01]|9999)-")
_BINARY = "application/json"
_DATA = {
    str(kind.__struct_config__.tag): next(
        field.type for field in msgspec.structs.fields(kind) if field.encode_name == "data"
    )
    for kind in EVENT_TYPES
}


@schemathesis.hook
def before_call(_context: Any, case: Any, _kwargs: Any) -> None:
    """Make a case one that is answered soon, and that means something."""
    for name in _HEADERS:
        position = case.headers.get(name)
        if isinstance(position, str) and (_is_positive(case) or _A_POSITION.fullmatch(position)):
            # Any other is waited for in vain, for 5 s.
            case.headers[name] = os.environ[POSITION]
    if isinstance(case.query, dict) and _A_POSITION.fullmatch(str(case.query.get("asOf"))):
        case.query["asOf"] = os.environ[POSITION]
    for place in (case.query, case.body):
        if isinstance(place, dict) and _is_wait(place.get("wait")):
            # 1 s now and then: a drawn one may take a day.
            place["wait"] = int(len(str(place)) % 50 == 0)
    if not _is_positive(case):
        return
    if isinstance(case.query, dict):
        # Only the service can make one.
        case.query.pop("cursor", None)
    if case.operation.path == "/events":
        case.body = _sayable(case.body)
        if case.media_type == _BINARY:
            _complete(case)


@schemathesis.hook
def filter_failure(_context: Any, failure: Any, case: Any, _response: Any) -> bool:
    """Let pass that headers of binary mode mean nothing in the other modes.

    OpenAPI can't say that a parameter goes with one content type.
    """
    if not isinstance(failure, AcceptedNegativeData) or case.media_type == _BINARY:
        return True
    data = case.meta.phase.data
    names = {data.parameter, *(mutation.parameter for mutation in data.mutations or ())} - {None}
    return not names or not all(name.startswith("ce-") for name in names)


def _is_positive(case: Any) -> bool:
    return case.meta is not None and case.meta.generation.mode is GenerationMode.POSITIVE


def _is_wait(value: Any) -> bool:
    """Tell whether the service would take this for a wait, in a query or in JSON."""
    if isinstance(value, bool) or not re.fullmatch(r"-?[0-9]+(?:\.0)?", str(value)):
        return False
    return float(value) == -1 or 1 <= float(value) <= 86_400


def _sayable(body: Any) -> Any:
    """Keep to what the document says of events in words: the years 2 to 9998, no 1.0 for a 1."""
    if isinstance(body, dict):
        return {name: _sayable(value) for name, value in body.items()}
    if isinstance(body, list):
        return [_sayable(value) for value in body]
    if isinstance(body, str):
        return _FIRST_OR_LAST_YEAR.sub("2026-", body)
    return int(body) if isinstance(body, float) and body.is_integer() else body


def _complete(case: Any) -> None:
    """Give an event in binary mode the attributes that it needs, and the type of its data."""
    needed = {"specversion": "1.0", "id": "fuzzed", "source": "//fuzzer", "subject": "fuzzed"}
    for name, value in needed.items():
        case.headers.setdefault(f"ce-{name}", value)
    for name, value in case.headers.items():
        # In a header a sender has to encode them.
        if name.startswith("ce-") and isinstance(value, str):
            case.headers[name] = value.replace('"', "%22")
    if isinstance(time := case.headers.get("ce-time"), str):
        case.headers["ce-time"] = _FIRST_OR_LAST_YEAR.sub("2026-", time)
    body = json.dumps(case.body).encode()
    types = [name for name, data in _DATA.items() if _is_read_as(body, data)]
    assert types, f"no event has data like {case.body!r}"
    case.headers["ce-type"] = types[0]


def _is_read_as(body: bytes, data: type[Any]) -> bool:
    try:
        msgspec.json.decode(body, type=data)
    except msgspec.ValidationError:
        return False
    return True
