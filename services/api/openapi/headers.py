"""What each header of an answer means, said once."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from services.api.reads.freshness import Position

POSITION_SCHEMA: Final = msgspec.json.schema(Position)
_SECONDS: Final = {"type": "integer", "minimum": 0}

#: By name; `required` where every answer that names it has it.
HEADERS: Final[dict[str, dict[str, Any]]] = {
    "Jobtrail-Position": {
        "description": "What a read holds, or behind what was written: `partition:next` pairs. "
        "Sent back on a read, it makes that read wait until it holds it.",
        "required": True,
        "schema": POSITION_SCHEMA,
    },
    "Jobtrail-Lag": {
        "description": "By how many seconds the answer is behind the log; 0 when level with it, "
        "`unknown` while the log does not answer, or only impossible times are known.",
        "required": True,
        "schema": {"type": "string", "pattern": r"^([0-9]+(\.[0-9]+)?|unknown)$"},
    },
    "Server-Timing": {
        "description": "What the answer took, in milliseconds; absent from an answer that began "
        "before it was known.",
        "schema": {"type": "string"},
    },
    "Link": {
        "description": 'The next page, as `<...>; rel="next"`; absent on the last one.',
        "schema": {"type": "string", "pattern": '^<.+>; rel="next"$'},
    },
    "ETag": {
        "description": "Stands for the answer's content, weakly: the same for every coding. Absent "
        "from an answer that is sent while it is made.",
        "schema": {"type": "string", "pattern": '^W/"[0-9a-f]{32}"$'},
    },
    "Retry-After": {
        "description": "Seconds after which it is worth asking again.",
        "required": True,
        "schema": _SECONDS,
    },
    "WWW-Authenticate": {
        "description": "How to prove who you are.",
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
    """Return what stands for a header in an answer."""
    return {"$ref": f"#/components/headers/{name}"}
