"""How deep arrays and objects of an event may be nested in each other."""

from __future__ import annotations

import re
from typing import Final

from jobtrail.core.errors import EventError
from jobtrail.core.readable import path_at, path_text

#: A fixed bound, since every reader of the log has to refuse the same events, whatever the depth of
#: its stack.
MAX_NESTING: Final = 256
#: Every bracket is closed: fewer bytes can't be nested deeper.
SHALLOW_BYTES: Final = 2 * MAX_NESTING
# Brackets, and strings so that brackets in them are passed over. A string that is not closed goes
# to the end: else every quote in it would begin another search.
_BRACKETS: Final = re.compile(rb'"(?:[^"\\]|\\.)*"?|[\[\]{}]', re.DOTALL)


def may_be_deep(value: bytes) -> bool:
    """Tell whether a value has enough brackets to be nested too deep."""
    return len(value) > SHALLOW_BYTES and value.count(b"[") + value.count(b"{") > MAX_NESTING


def check_nesting(value: bytes) -> None:
    """Refuse JSON that is nested deeper than `MAX_NESTING`.

    Args:
        value: JSON, or what may be it.

    Raises:
        EventError: It is; where is in the message.
    """
    depth = 0
    for found in _BRACKETS.finditer(value):
        bracket = found[0]
        if bracket in (b"[", b"{"):
            depth += 1
            if depth > MAX_NESTING:
                path = path_at(value, found.start() - 1)
                raise EventError(
                    "The event is nested too deep.",
                    reason="invalid",
                    path=path,
                    where=path_text(path),
                    expected=f"at most {MAX_NESTING} arrays and objects in each other",
                )
        elif bracket in (b"]", b"}"):
            depth -= 1
