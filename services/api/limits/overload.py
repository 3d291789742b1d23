"""What is said where a caller, or all of them together, ask for more than is shared out."""

from __future__ import annotations

from services.api.problems.problems import (
    BUSY,
    READ_TOO_LONG,
    TOO_MANY_BYTES,
    TOO_MANY_READS,
    Problem,
)


def too_many_reads(most: int) -> Problem:
    """A caller has as many long reads waiting as they may."""
    return Problem(
        TOO_MANY_READS,
        f"As many of your long reads are waiting as may: {most}. Ask for one after the other.",
        headers={"Retry-After": "1"},
    )


def too_many_proofs(most: int) -> Problem:
    """As many positions of a caller as may wait to be proven by the log."""
    return Problem(
        TOO_MANY_READS,
        f"As many positions that you sent are being looked up in the log as may: {most}. Send one "
        "after the other.",
        headers={"Retry-After": "1"},
    )


def too_many_bytes(most: int) -> Problem:
    """A caller has not read the answers that are under way to them."""
    return Problem(
        TOO_MANY_BYTES,
        f"Of the answers under way to you, {most} bytes at most may be unread. Read them first.",
        headers={"Retry-After": "1"},
    )


def busy() -> Problem:
    """The process has as much to do as it may, for all callers together."""
    return Problem(
        BUSY,
        "As much is waiting to be answered as may. Ask again.",
        headers={"Retry-After": "2"},
    )


def read_too_long(seconds: float) -> Problem:
    """One read takes longer than any may."""
    return Problem(
        READ_TOO_LONG,
        f"It takes more than the {seconds:g} seconds that one read may take. Ask for less: a "
        "shorter range of dates, fewer types, a smaller page.",
        headers={"Retry-After": "10"},
    )
