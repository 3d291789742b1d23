"""Cells of CSV files that a spreadsheet takes for a formula, made into plain text.

A job's id or error is what somebody else wrote. A spreadsheet computes a cell that begins with
`=`, `+`, `-`, `@`, a tab or a carriage return, and a formula can start programs or send the sheet
away; so an apostrophe stands before them (OWASP, "CSV Injection"). Figures stay figures.
"""

from __future__ import annotations

import re
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

#: With the wide forms, which some spreadsheets take for the same.
_BEGINS: Final = r"^([=+\-@\t\r\n＝＋－＠])"
_PATTERN: Final = re.compile(_BEGINS)
#: What is JSON can be a negative number: that is no formula.
_NUMBER: Final = r"^-[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?$"
_JSON: Final = ("error", "output")


def guarded(value: object) -> object:
    """Return a value as it may stand in a cell."""
    if isinstance(value, str) and _PATTERN.match(value):
        return f"'{value}"
    return value


def guarded_column(name: str, column: pa.Array) -> pa.Array:
    """Return a column of texts as it may stand in cells.

    Args:
        name: Of the column.
        column: Of texts or nulls.
    """
    found = pc.replace_substring_regex(column, _BEGINS, r"'\1")
    if name in _JSON:
        found = pc.if_else(pc.match_substring_regex(column, _NUMBER), column, found)
    return found
