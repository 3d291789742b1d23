"""Portable JSON: finding, by path, the values that common JSON parsers refuse.

Two things are valid by JSON's grammar and yet stop parsers: a number beyond the range of a double
(JSON readers of C, Java, JavaScript and Rust refuse it, or take it for infinity; Python refuses
integers of more than 4,300 digits), and half of a surrogate pair, which is no Unicode text.

Source: RFC 8259, sections 6 and 8.2, which name both as what does not interoperate.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any, Final, NamedTuple, TypeAlias

import msgspec

from jobtrail.core.errors import EventError

#: The names and numbers of members that lead to a value, from the outside.
Path: TypeAlias = tuple[str | int, ...]

#: What stands around an exponent's `e` when signs and digits are left out: of `:1e400,` it is that.
_EXPONENT: Final = b",e,"
_AROUND: Final = bytes(
    ord(",") if chr(byte) in ":,.[]{} \t\r\n" else ord("e") if chr(byte) in "eE" else 0
    for byte in range(256)
)
_LEFT_OUT: Final = b"+-0123456789"
_HIGH_EXPONENT: Final = re.compile(rb"[eE]\+?[0-9]{3,}(?:[],}\s]|\Z)")
#: Digits from which on a number with a short exponent, or none, may be beyond a double.
_DIGITS: Final = 210
#: Only every `_STRIDE`th byte is checked: a run of `_DIGITS` has at least that many of them.
_STRIDE: Final = 16
_RUN: Final = b"\x01" * (_DIGITS // _STRIDE)
_IS_DIGIT: Final = bytes(byte in b"0123456789" for byte in range(256))
# A string that is not closed goes to the end: else each quote in it would begin another search.
_STRING: Final = rb'"[^"\\]*(?:\\.[^"\\]*)*"?'
_STRINGS_AND_NUMBERS: Final = re.compile(
    _STRING + rb"|-?[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?", re.DOTALL
)
_STRINGS_AND_MARKS: Final = re.compile(_STRING + rb"|[][{},]", re.DOTALL)
#: An escape; in group 1 where it is half of a pair.
_ESCAPE: Final = re.compile(
    rb"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"
    rb"|(u[dD][89a-fA-F][0-9a-fA-F]{2})|.)",
    re.DOTALL,
)
_SURROGATE: Final = re.compile(r"[\ud800-\udfff]")
_PLAIN_NAME: Final = re.compile(r"\w+", re.ASCII)
#: The most characters of a path, and of the value, in an error.
_LONGEST_PATH: Final = 200
_LONGEST_TOKEN: Final = 40
_DOUBLE_RANGE: Final = "a number within a double's range, up to 1.8e308"
_BOTH_HALVES: Final = "both halves of a surrogate pair"
_DOUBLE_BITS: Final = 1024
_BLANK: Final = b" \t\r\n"
_encode: Final = msgspec.json.Encoder().encode
#: Validates JSON without building objects.
_skip: Final = msgspec.json.Decoder(msgspec.Raw).decode


class Unportable(NamedTuple):
    """A value that common JSON parsers refuse."""

    path: Path
    #: The value, shortened where it is long.
    found: str


def may_have_big_numbers(text: bytes) -> bool:
    """Tell whether there may be a number beyond a double's range, in one pass over all bytes.

    Nearly all JSON has none. This costs a tenth of what decoding does, or less.

    Args:
        text: JSON, of one value or many.
    """
    if _EXPONENT in text.translate(_AROUND, _LEFT_OUT) and _HIGH_EXPONENT.search(text):
        return True
    return len(text) >= _DIGITS and _RUN in text[::_STRIDE].translate(_IS_DIGIT)


def big_number(value: bytes) -> Unportable | None:
    """Return the first number of a value that is beyond a double's range.

    Args:
        value: JSON.
    """
    for token in _STRINGS_AND_NUMBERS.finditer(value):
        if _is_big(token[0]):
            return Unportable(path_at(value, token.start()), _short(token[0].decode()))
    return None


def _is_big(token: bytes) -> bool:
    # As long as the shortest one, and none of the strings.
    return len(token) >= len("2e308") and token[0] != ord('"') and math.isinf(float(token))


def half_pair(value: bytes) -> Unportable | None:
    r"""Return the first half of a surrogate pair of a value, as `\ud800` alone is.

    Args:
        value: JSON.
    """
    for escape in _ESCAPE.finditer(value):
        if escape[1]:
            return Unportable(path_at(value, escape.start()), escape[0].decode())
    return None


def readable(content: bytes) -> bytes:
    """Return JSON with every value that parsers refuse made portable.

    A number beyond a double's range becomes a text of the same characters, half of a surrogate pair
    U+FFFD.

    Args:
        content: JSON.
    """
    content = _ESCAPE.sub(lambda escape: rb"\ufffd" if escape[1] else escape[0], content)
    return _STRINGS_AND_NUMBERS.sub(
        lambda token: b'"%b"' % token[0] if _is_big(token[0]) else token[0], content
    )


def path_at(value: bytes, place: int) -> Path:
    """Return the path of the value at a byte offset.

    Args:
        value: JSON; only the bytes up to the place are parsed.
        place: The byte offset.
    """
    path: list[str | int] = []
    # Whether the next string is a name.
    named = False
    for token in _STRINGS_AND_MARKS.finditer(value):
        if token.start() > place:
            break
        mark = token[0]
        if mark == b"{" or mark == b"[":
            named = mark == b"{"
            path.append("" if named else 0)
        elif mark == b"}" or mark == b"]":
            del path[-1:]
            named = False
        elif mark == b",":
            last = path[-1] if path else 0
            if isinstance(last, int):
                path[-1:] = [last + 1]
            else:
                named = True
        elif named:
            path[-1:] = [_name(mark)]
            named = False
    return tuple(path)


def _name(token: bytes) -> str:
    try:
        name: str = json.loads(readable(token))
    except ValueError:
        return token.decode(errors="replace").strip('"')
    return name


def path_text(path: Path) -> str:
    """Return a path as people write it, as `data.output.x[3]`; its beginning where it is long."""
    parts: list[str] = []
    for step in path:
        if isinstance(step, int):
            parts.append(f"[{step}]")
        elif _PLAIN_NAME.fullmatch(step):
            parts.append(f".{step}")
        else:
            parts.append(f"[{json.dumps(step)}]")
    text = "".join(parts).removeprefix(".")
    return text if len(text) <= _LONGEST_PATH else f"{text[:_LONGEST_PATH]}..."


def pointer_of(path: Path) -> str:
    """Return a path as a JSON pointer (RFC 6901), as `/data/output/x/3`."""
    return "".join(f"/{str(step).replace('~', '~0').replace('/', '~1')}" for step in path)


def not_json_error(value: bytes, fault: str) -> EventError:
    """Return the error that a value is not JSON; half of a pair is named if that is all.

    Args:
        value: What a decoder refused.
        fault: The decoder's message.
    """
    half = half_pair(value)
    if half is not None and _is_json(readable(value)):
        return unportable_error(half)
    return EventError("The event is not JSON.", reason="not-json", found=fault)


def check_value(content: bytes) -> None:
    """Check that bytes are one JSON value, portable or not.

    Args:
        content: The bytes.

    Raises:
        EventError: They are none, or more than one.
    """
    try:
        _skip(content)
    except RecursionError:
        return  # nested too deep, which the decoder of the event reports
    except msgspec.DecodeError as error:
        if half_pair(content) is None or not _is_json(readable(content)):
            raise EventError(
                "The data is not JSON.", reason="not-json", path=("data",), found=str(error)
            ) from None


def items_of(content: bytes) -> list[bytes] | None:
    """Return the items of a JSON array, also where some of them are not portable.

    Args:
        content: The bytes.

    Returns:
        The items; None where it is no JSON array.
    """
    content = content.strip(_BLANK)
    begin, depth = 1, 0
    found: list[bytes] = []
    for token in _STRINGS_AND_MARKS.finditer(content):
        mark = token[0]
        if mark == b"[" or mark == b"{":
            depth += 1
        elif mark == b"]" or mark == b"}":
            depth -= 1
        if depth == 0 or (depth == 1 and mark == b","):
            found.append(content[begin : token.start()])
            begin = token.end()
            if depth == 0:
                break
    if content[:1] != b"[" or content[begin - 1 :] != b"]":
        return None
    if len(found) == 1 and not found[0].strip(_BLANK):
        return []
    try:
        for item in found:
            check_value(item)
    except EventError:
        return None
    return found


def _is_json(value: bytes) -> bool:
    try:
        _skip(value)
    except (msgspec.DecodeError, RecursionError):
        return False
    return True


def unportable_error(unportable: Unportable, subject: str = "The event") -> EventError:
    """Return the error for a value that common JSON parsers refuse."""
    is_half = unportable.found.startswith("\\")
    return EventError(
        f"{subject} has JSON that common readers can't hold.",
        # Decoders take half of a pair for what is not JSON.
        reason="not-json" if is_half else "invalid",
        path=unportable.path,
        where=path_text(unportable.path) or None,
        expected=_BOTH_HALVES if is_half else _DOUBLE_RANGE,
        found=unportable.found,
    )


def json_of(value: Any, path: Path) -> msgspec.Raw:
    """Encode a Python value as portable JSON.

    Args:
        value: What to write.
        path: Which member of an event it will be, for errors.

    Raises:
        EventError: It can't be written so.
    """
    try:
        written = _encode(value)
    except (TypeError, ValueError, msgspec.MsgspecError, RecursionError) as error:
        raise unwritable_error(value, path, str(error)) from None
    # What is not a number becomes a null.
    if b"null" in written and (unportable := _unwritable(_plain(value), path)) is not None:
        raise unportable_error(unportable)
    return msgspec.Raw(written)


def unwritable_error(value: Any, path: Path, fault: str) -> EventError:
    """Return the error that a Python value can't be written as JSON, with the member to blame.

    Args:
        value: Of Python.
        path: Which member of an event it would be.
        fault: The encoder's message.
    """
    try:
        unportable = _unwritable(_plain(value), path)
    except (TypeError, ValueError, msgspec.MsgspecError, RecursionError):
        unportable = None
    if unportable is not None:
        return unportable_error(unportable)
    return EventError(
        "This can't be written as JSON.",
        reason="not-json",
        path=path,
        where=path_text(path) or None,
        found=fault,
    )


def _plain(value: Any) -> Any:
    """Return a value with dictionaries and lists in place of everything that is written so."""
    # Raw JSON is checked when the event is decoded.
    return msgspec.to_builtins(value, enc_hook=lambda _: None)


def _unwritable(value: Any, path: Path) -> Unportable | None:
    """Return the first part of a value that has no JSON, or no portable one."""
    if isinstance(value, str):
        half = _SURROGATE.search(value)
        return Unportable(path, ascii(half[0])[1:-1]) if half else None
    if isinstance(value, float):
        return None if math.isfinite(value) else Unportable(path, repr(value))
    if isinstance(value, int):
        bits = value.bit_length()
        return Unportable(path, f"an integer of {bits:,} bits") if bits > _DOUBLE_BITS else None
    if isinstance(value, dict):
        for name, member in value.items():
            within = (*path, _SURROGATE.sub("\ufffd", str(name)))
            found = _unwritable(name, within) or _unwritable(member, within)
            if found is not None:
                return found
    elif isinstance(value, list | tuple):
        for number, item in enumerate(value):
            if (found := _unwritable(item, (*path, number))) is not None:
                return found
    return None


def _short(text: str) -> str:
    if len(text) <= _LONGEST_TOKEN:
        return text
    return f"{text[:_LONGEST_TOKEN]}... ({len(text):,} characters)"
