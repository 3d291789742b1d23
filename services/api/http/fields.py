"""Types of values in requests: how each is parsed, and described in the OpenAPI document."""

from __future__ import annotations

import re
from typing import Annotated, Any, Final

from pydantic import AfterValidator, BeforeValidator, Field, PlainValidator, WithJsonSchema
from pydantic_core import PydanticCustomError

from jobtrail.core.asof import Cut
from jobtrail.core.errors import UsageError
from jobtrail.core.events import MAX_TAGS, NO_CONTROL_CHARACTERS
from jobtrail.core.position import PATTERN, parse_position
from services.api.http import instants

#: The contract has no bound for offsets, but Python refuses to parse longer numbers.
_DIGITS: Final = re.compile(r"-?[0-9]{1,4000}")
_DATE_SCHEMA: Final[dict[str, Any]] = {
    "type": "string",
    "anyOf": [{"format": "date"}, {"format": "date-time"}],
    "examples": ["2026-11-23", "2026-11-23T13:00:00Z"],
}


def _no_control_characters(text: str) -> str:
    if not text.isprintable() and re.search(r"[\x00-\x1f\x7f-\x9f]", text):
        raise PydanticCustomError("text", "No control characters are allowed")
    return text


def _integer(value: Any) -> Any:
    """Parse the digits of a query as an integer; return anything else as it is."""
    if isinstance(value, str) and _DIGITS.fullmatch(value):
        return int(value)
    return value


def _integer_of_float(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _start(value: Any) -> Any:
    return _instant(value, last=False)


def _end(value: Any) -> Any:
    return _instant(value, last=True)


def _instant(value: str, *, last: bool) -> int:
    try:
        return instants.last_instant(value) if last else instants.first_instant(value)
    except (ValueError, OverflowError):
        raise PydanticCustomError(
            "date", "Input should be an ISO 8601 date or date-time, as 2026-11-23T13:00:00Z"
        ) from None


def _cut(value: str) -> Cut:
    if ":" in value and "T" not in value.upper():
        try:
            return Cut(None, parse_position(value))
        except UsageError as error:
            raise PydanticCustomError("position", "{reason}", {"reason": str(error)}) from None
    return Cut(_instant(value, last=True))


def _tag(value: Any) -> Any:
    key, colon, text = value.partition(":")
    if not key or not colon:
        raise PydanticCustomError("tag", "Input should be key:value")
    return key, text


Name = Annotated[
    str,
    Field(min_length=1, max_length=256, json_schema_extra={"pattern": NO_CONTROL_CHARACTERS}),
    AfterValidator(_no_control_characters),
]
Tag = Annotated[
    tuple[str, str],
    BeforeValidator(_tag),
    WithJsonSchema({"type": "string", "pattern": "^[^:]+:", "examples": ["tenant:acme"]}),
]
Tags = Annotated[tuple[Tag, ...], Field(max_length=MAX_TAGS)]
AsOf = Annotated[
    Cut,
    PlainValidator(_cut),
    WithJsonSchema(
        {
            "type": "string",
            "anyOf": [*_DATE_SCHEMA["anyOf"], {"pattern": PATTERN}],
            "examples": ["2026-11-23T13:00:00Z", "0:10,1:7"],
        }
    ),
]
Start = Annotated[int, BeforeValidator(_start), WithJsonSchema(_DATE_SCHEMA)]
End = Annotated[int, BeforeValidator(_end), WithJsonSchema(_DATE_SCHEMA)]
InQuery = BeforeValidator(_integer)
InJson = BeforeValidator(_integer_of_float)
