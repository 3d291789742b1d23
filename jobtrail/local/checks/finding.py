"""What a check of a local service found."""

from __future__ import annotations

from typing import Literal

import msgspec

Level = Literal["ok", "warning", "problem"]


class Finding(msgspec.Struct, frozen=True):
    """The result of one check."""

    #: The check's stable name.
    check: str
    #: `warning`: it works, but needs attention. `problem`: something is wrong now.
    level: Level
    found: str
    #: What to do about it; empty where nothing is to be done.
    mend: str = ""


def ok(check: str, found: str) -> Finding:
    """Return a finding without a fault."""
    return Finding(check, "ok", found)


def warning(check: str, found: str, mend: str) -> Finding:
    """Return a finding that needs attention."""
    return Finding(check, "warning", found, mend)


def problem(check: str, found: str, mend: str) -> Finding:
    """Return a finding of something that is wrong."""
    return Finding(check, "problem", found, mend)
