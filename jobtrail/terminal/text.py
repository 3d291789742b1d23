"""Everything is printed through this module, which makes text from outside safe for terminals.

A terminal interprets some characters as commands: it changes its title, writes to the clipboard,
overwrites earlier output. Other characters reverse the order of a line, or are invisible. Events,
records, servers and logs may contain any of them, and the author of a job must not be able to
deceive its readers. So all output, ours too, goes through here, and such characters are shown as
escapes.

JSON stays the same JSON: there the same characters get JSON's own escapes.
"""

from __future__ import annotations

import logging
import re
import sys
import traceback
import unicodedata
from collections.abc import Iterable
from types import TracebackType
from typing import Any, Final, TextIO

#: Characters that count as letters or marks and show nothing, or change the one before: Unicode's
#: Default_Ignorable_Code_Point (DerivedCoreProperties.txt) beside its controls and formats.
_UNSEEN: Final = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2065\u3164\ufe00-\ufe0f\uffa0"
    "\ufff0-\ufff8\U000e0000-\U000e0fff]"
)
_SHORT: Final = {"\n": r"\n", "\r": r"\r", "\t": r"\t"}


def visible(text: str) -> str:
    r"""Return a text, safe for a terminal, as one line.

    Controls (C0, DEL, C1), characters that change the direction of writing, others that can't be
    seen, and halves of surrogate pairs become escapes: `\x1b`, `\u202e`, `\n`.
    """
    if text.isprintable() and (text.isascii() or not _UNSEEN.search(text)):
        return text
    return "".join(char if _is_seen(char) else _escape(char) for char in text)


def visible_lines(text: str) -> str:
    """Return the same of a text whose line feeds are ours."""
    return "\n".join(map(visible, text.split("\n")))


def visible_json(content: bytes) -> bytes:
    """Return the same JSON, safe for a terminal.

    Args:
        content: One value or several, in UTF-8.
    """
    if content.isascii() and b"\x7f" not in content and b"\r" not in content:
        return content
    # Outside of strings JSON has no such character except a carriage return, which means nothing.
    text = content.decode("utf-8", "surrogatepass").replace("\r", " ")
    if all(map(_is_seen, text.replace("\n", "").replace("\t", ""))):
        return text.encode()
    return "".join(c if c in "\n\t" or _is_seen(c) else _json_escape(c) for c in text).encode()


def _is_seen(char: str) -> bool:
    if not char.isprintable():
        return unicodedata.category(char) == "Zs"
    return not _UNSEEN.match(char)


def _escape(char: str) -> str:
    number = ord(char)
    if number > 0xFFFF:
        return f"\\U{number:08x}"
    return _SHORT.get(char) or (f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}")


def _json_escape(char: str) -> str:
    units = char.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at : at + 2].hex()}" for at in range(0, len(units), 2))


def out(line: str) -> None:
    """Print a line of a result on standard output."""
    _write(sys.stdout, visible(line))


def out_json(content: bytes) -> None:
    """Print JSON on standard output."""
    _write(sys.stdout, visible_json(content).decode())


def out_json_lines(lines: Iterable[bytes]) -> None:
    """Print JSON on standard output; each piece has its own line end."""
    sys.stdout.buffer.writelines(map(visible_json, lines))
    sys.stdout.buffer.flush()


def err(line: str) -> None:
    """Print a line of progress or a message on standard error."""
    _write(sys.stderr, visible(line))


def err_part(text: str) -> None:
    """Print a part of another process's standard error, on lines of its own."""
    sys.stderr.write(visible_lines(text))
    sys.stderr.flush()


def complain(error: object, before: str = "") -> None:
    """Print an error on standard error, its further lines indented, so that none looks new.

    Args:
        error: What went wrong.
        before: A prefix, such as `error: `.
    """
    first, *others = str(error).split("\n")
    _write(sys.stderr, visible(before + first))
    for line in others:
        _write(sys.stderr, f"  {visible(line.strip())}")


def _write(stream: TextIO, text: str) -> None:
    try:
        stream.write(f"{text}\n")
    except UnicodeEncodeError:
        encoding = stream.encoding or "ascii"
        stream.write(f"{text.encode(encoding, 'backslashreplace').decode(encoding)}\n")
    stream.flush()


class VisibleFormatter(logging.Formatter):
    """Formats log records: a message is one line, whatever it quotes."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        """Return the line of a record."""
        return visible(super().formatMessage(record))

    def formatException(self, ei: Any) -> str:  # noqa: N802
        """Return an exception with its trace."""
        return visible_lines(super().formatException(ei))

    def formatStack(self, stack_info: str) -> str:  # noqa: N802
        """Return a trace."""
        return visible_lines(super().formatStack(stack_info))


def guard_terminal() -> None:
    """Print warnings and uncaught errors safely, too."""
    if logging.lastResort is not None:
        logging.lastResort.setFormatter(VisibleFormatter())
    sys.excepthook = _print_uncaught


def _print_uncaught(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    text = "".join(traceback.format_exception(kind, error, trace))
    _write(sys.stderr, visible_lines(text.rstrip("\n")))
