"""What a valid event of the log is, written once more from the documents.

JSON is read by the standard library; nothing of the product is used.
"""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from json.decoder import scanstring  # type: ignore[attr-defined]
from typing import Any, Final, NamedTuple
from urllib.parse import unquote

TYPES: Final = (
    "job.created", "job.active", "job.progress", "job.retry",
    "job.completed", "job.failed", "job.cancelled", "job.expired",
)  # fmt: skip
MAX_EVENT: Final = 192 * 1024
MAX_PAYLOAD: Final = 64 * 1024
MAX_TAGS: Final = 32
MAX_WRITERS: Final = 32
MAX_DEPTH: Final = 256
MAX_DIGITS: Final = 4300
_CONTROL: Final = re.compile("[\x00-\x1f\x7f-\x9f]")
_PRINCIPAL: Final = re.compile("^(user|group):[^\x00-\x1f\x7f-\x9f]+$")
_INSTANT: Final = re.compile(
    r"^\d{4}-\d{2}-\d{2}[Tt ]\d{2}:\d{2}:\d{2}([.]\d+)?([Zz]|[+-]\d{2}:?\d{2})$"
)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_SPACE: Final = " \t\r\n"


class Invalid(Exception):
    """The record is no valid event."""


class Event(NamedTuple):
    """What the fold needs of an event."""

    id: str
    subject: str
    type: str
    #: Microseconds since 1970; None: the record's timestamp counts.
    time: int | None
    data: dict[str, Any]
    #: `output` and `error` byte for byte as they came.
    output: bytes | None
    error: bytes | None
    source: str = ""
    #: The sources of which its sender may be; empty for one who may be any.
    senders: frozenset[str] = frozenset()
    #: What it is known by where its sender has no part in its job.
    apart: str = ""


def _need(holds: object, what: str) -> None:
    if not holds:
        raise Invalid(what)


def _is_json_type(content: Any) -> bool:
    if not isinstance(content, str) or len(content) > 256:
        return False
    kind = content.partition(";")[0].rstrip(" \t").lower()
    return re.fullmatch(r"[a-z0-9!#$&^_.+-]+/([a-z0-9!#$&^_.+-]+[+])?json", kind) is not None


def _refuse(name: str) -> Any:
    raise Invalid(f"{name} is no JSON")


def _whole(text: str) -> int:
    _need(len(text) <= MAX_DIGITS, "an integer of too many digits")
    return int(text)


def _number(text: str) -> float:
    value = float(text)
    _need(abs(value) != float("inf"), "a number beyond a double")
    return value


_DECODER: Final = json.JSONDecoder(parse_constant=_refuse, parse_int=_whole, parse_float=_number)


def _name(value: object, most: int = 256, least: int = 1) -> None:
    _need(isinstance(value, str) and least <= len(value) <= most, "a name of another length")
    _need(not _CONTROL.search(value), "a control character")  # type: ignore[arg-type]


def _optional_text(value: object) -> None:
    _need(value is None or (isinstance(value, str) and len(value) <= 4096), "a text")


def _instant(value: object) -> int:
    _need(isinstance(value, str) and _INSTANT.match(value), "an instant")
    try:
        instant = datetime.fromisoformat(str(value).upper())
    except ValueError as error:
        raise Invalid(str(error)) from None
    _need(2 <= instant.year <= 9998, "a year that not all can tell")
    return (instant - _EPOCH) // _MICROSECOND


def decode(value: bytes | None) -> Event:
    """Read the value of a record; raise `Invalid` where it is no valid event."""
    _need(value, "no value")
    assert value is not None
    _need(len(value) <= MAX_EVENT, "too large")
    try:
        text = value.decode()
        start = len(text) - len(text.lstrip(_SPACE))
        body, end = _DECODER.raw_decode(text, start)
    except (ValueError, RecursionError) as error:
        raise Invalid(str(error)) from None
    _need(not text[end:].strip(_SPACE), "more than one value")
    _need(isinstance(body, dict), "no object")
    if value.count(b"{") + value.count(b"[") > MAX_DEPTH:
        _need(_depth(body) <= MAX_DEPTH, "nested too deep")
    return _event(body, text, start)


def _depth(body: object) -> int:
    deepest, level = 0, [body]
    while level:
        below: list[object] = []
        for one in level:
            if isinstance(one, dict):
                below += one.values()
            elif isinstance(one, list):
                below += one
        deepest += any(isinstance(one, dict | list) for one in level)
        level = below
    return deepest


def _event(body: dict[str, Any], text: str, start: int) -> Event:
    _need(body.get("specversion") == "1.0", "another specversion")
    kind = body.get("type")
    _need(kind in TYPES, "another type")
    for name in ("id", "source", "subject"):
        _name(body.get(name))
    content = body.get("datacontenttype")
    _need(content is None or _is_json_type(content), "another content type")
    _need(body.get("data_base64") is None, "bytes for data")
    said = body.get("time")
    time = None if said is None else _instant(said)
    data = body.get("data", {})
    _need(isinstance(data, dict), "no data")
    _check_data(str(kind), data)
    output = error = None
    if "output" in data and kind in ("job.completed", "job.failed"):
        output = _raw(text, start, "output")
    if "error" in data and kind in ("job.retry", "job.failed"):
        error = _raw(text, start, "error")
    for raw in (output, error):
        _need(raw is None or len(raw) <= MAX_PAYLOAD, "a payload that is too large")
    bound = body.get("jobtrailsources")
    senders: frozenset[str] = frozenset()
    apart = ""
    if bound is not None:
        _name(bound, most=MAX_WRITERS * 769)
        senders = frozenset(unquote(name) for name in bound.split(" "))
        apart = f"{bound}\n{body['id']}"
    return Event(
        body["id"], body["subject"], str(kind), time, data, output, error, body["source"],
        senders, apart,
    )  # fmt: skip


def _check_data(kind: str, data: dict[str, Any]) -> None:
    attempt = data.get("attempt")
    if attempt is not None:
        _need(type(attempt) is int and 0 <= attempt < 2**31, "no attempt")
    tags = data.get("tags")
    if tags is not None:
        _need(isinstance(tags, dict) and len(tags) <= MAX_TAGS, "no tags")
        for name, tag in tags.items():
            _name(name)
            _name(tag, least=0)
    if kind == "job.created":
        _check_created(data)
    elif kind == "job.progress":
        progress = data.get("progress")
        if progress is not None:
            _need(type(progress) in (int, float) and 0 <= progress <= 1, "no progress")
        _optional_text(data.get("message"))
    elif kind == "job.active":
        _optional_text(data.get("worker"))
    elif kind == "job.retry" and data.get("retryAt") is not None:
        _instant(data["retryAt"])
    elif kind in ("job.cancelled", "job.expired"):
        _optional_text(data.get("reason"))


def _check_created(data: dict[str, Any]) -> None:
    _name(data.get("jobType"))
    _name(data.get("owner"))
    if data.get("bulkId") is not None:
        _name(data["bulkId"])
    viewers = data.get("viewers", [])
    _need(isinstance(viewers, list) and len(viewers) <= 256, "no viewers")
    for viewer in viewers:
        _need(isinstance(viewer, str) and len(viewer) <= 262, "no viewer")
        _need(_PRINCIPAL.match(viewer), "no viewer")
    writers = data.get("writers", [])
    _need(isinstance(writers, list) and len(writers) <= MAX_WRITERS, "no writers")
    for writer in writers:
        _name(writer)


def _raw(text: str, start: int, name: str) -> bytes:
    """Return the text of a member of `data`, as it came; of two of a name, the last."""
    at, _ = _members(text, start)["data"]
    low, high = _members(text, at)[name]
    return text[low:high].encode()


def _members(text: str, start: int) -> dict[str, tuple[int, int]]:
    """Return where the value of each member of the object at `start` lies."""
    found: dict[str, tuple[int, int]] = {}
    at = _skip(text, start + 1)
    while text[at] != "}":
        name, at = scanstring(text, at + 1)
        at = _skip(text, _skip(text, at) + 1)
        _, end = _DECODER.raw_decode(text, at)
        found[name] = (at, end)
        at = _skip(text, end)
        if text[at] == ",":
            at = _skip(text, at + 1)
    return found


def _skip(text: str, at: int) -> int:
    while text[at] in _SPACE:
        at += 1
    return at


def partition_of(key: bytes, partitions: int) -> int:
    """Return the partition of a key: Kafka's murmur2, as its documentation has it."""
    mask, m = 0xFFFFFFFF, 0x5BD1E995
    h = 0x9747B28C ^ len(key)
    whole = len(key) // 4 * 4
    for at in range(0, whole, 4):
        k = int.from_bytes(key[at : at + 4], "little") * m & mask
        k = (k ^ (k >> 24)) * m & mask
        h = (h * m & mask) ^ k
    if key[whole:]:
        h = (h ^ int.from_bytes(key[whole:], "little")) * m & mask
    h = (h ^ (h >> 13)) * m & mask
    return ((h ^ (h >> 15)) & 0x7FFFFFFF) % partitions
