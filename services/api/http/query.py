"""The query string, in every form that clients of this API use for arrays.

An array is repeated (`jobType=a&jobType=b`), separated by commas (`jobType=a,b`) or marked
(`jobType[]=a`). Values are split at commas before percent-decoding, so that `%2C` is always data,
and only in arrays, so that a comma in a scalar is data too.
"""

from __future__ import annotations

from collections.abc import Set
from urllib.parse import unquote_to_bytes

from services.api.problems.problems import RequestFault

Parameters = dict[str, str | list[str]]


def parse_query(raw: str, arrays: Set[str]) -> tuple[Parameters, list[RequestFault]]:
    """Parse a query string.

    Args:
        raw: As it was sent, without the question mark.
        arrays: The names of the parameters that are arrays.

    Returns:
        Each parameter once, arrays as lists; and the faults of the query's form. A scalar that is
        given twice is a fault, and has its first value.
    """
    found: Parameters = {}
    faults: list[RequestFault] = []
    for pair in raw.split("&") if raw else ():
        if not pair:
            continue
        raw_name, _, raw_value = pair.partition("=")
        name = _decode(raw_name)
        if name is None:
            faults.append(RequestFault("parameter", raw_name[:80], "The name is not UTF-8."))
            continue
        if name.endswith("[]") and name[:-2] in arrays:
            name = name[:-2]
        parts = raw_value.split(",") if name in arrays else [raw_value]
        values = [value for part in parts if (value := _decode(part)) is not None]
        if len(values) != len(parts):
            faults.append(RequestFault("parameter", name, "The value is not UTF-8."))
        elif name in arrays:
            earlier = found.setdefault(name, [])
            assert isinstance(earlier, list)
            earlier.extend(values)
        elif name in found:
            faults.append(RequestFault("parameter", name, "It can be given only once."))
        else:
            found[name] = values[0]
    return found, faults


def _decode(text: str) -> str | None:
    """Decode percent- and plus-coding; return None if the result is not UTF-8."""
    if text.isascii() and "%" not in text:
        return text.replace("+", " ") if "+" in text else text
    try:
        # The HTTP parser decodes bytes that are not UTF-8 as surrogates.
        raw = text.replace("+", " ").encode("utf-8", "surrogateescape")
        return unquote_to_bytes(raw).decode()
    except UnicodeError:
        return None
