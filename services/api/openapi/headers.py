"""The description of each header of an answer."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from services.api.reads.freshness import Position

POSITION_SCHEMA: Final = msgspec.json.schema(Position)
_SECONDS: Final = {"type": "integer", "minimum": 0}

#: By name; `required` if every answer that names it has it.
HEADERS: Final[dict[str, dict[str, Any]]] = {
    "Jobtrail-Position": {
        "description": "The position of the answer in the log, or after the written events: "
        "`partition:next` pairs. Sent with a read, it makes that read wait until it is reached.",
        "required": True,
        "schema": POSITION_SCHEMA,
    },
    "Jobtrail-Lag": {
        "description": "By how many seconds the answer lags the log; 0 without a lag, `unknown` "
        "while the log does not answer, or has impossible timestamps.",
        "required": True,
        "schema": {"type": "string", "pattern": r"^([0-9]+(\.[0-9]+)?|unknown)$"},
    },
    "Server-Timing": {
        "description": "How long the answer took, in milliseconds; absent from an answer that "
        "began before its content was known.",
        "schema": {"type": "string"},
    },
    "Link": {
        "description": 'The next page, as `<...>; rel="next"`; absent on the last one.',
        "schema": {"type": "string", "pattern": '^<.+>; rel="next"$'},
    },
    "ETag": {
        "description": "Identifies the content of the answer, weakly: the same for every coding. "
        "Absent from an answer that is streamed.",
        "schema": {"type": "string", "pattern": '^W/"[0-9a-f]{32}"$'},
    },
    "Retry-After": {
        "description": "Seconds after which to ask again.",
        "required": True,
        "schema": _SECONDS,
    },
    "WWW-Authenticate": {
        "description": "How to authenticate.",
        "required": True,
        "schema": {"type": "string"},
    },
    "Allow": {
        "description": "The methods that the path has.",
        "required": True,
        "schema": {"type": "string"},
    },
}


def reference(name: str) -> dict[str, str]:
    """Return the reference to a header in an answer."""
    return {"$ref": f"#/components/headers/{name}"}
