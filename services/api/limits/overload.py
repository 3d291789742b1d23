"""Problems for requests beyond what a caller, or all callers together, may use."""

from __future__ import annotations

from services.api.problems.problems import (
    BUSY,
    READ_TOO_LONG,
    TOO_MANY_BYTES,
    TOO_MANY_READS,
    Problem,
)


def too_many_reads(most: int) -> Problem:
    """The caller has as many long reads as allowed."""
    return Problem(
        TOO_MANY_READS,
        f"You have {most} long reads waiting, as many as allowed. Send one after the other.",
        headers={"Retry-After": "1"},
    )


def too_many_proofs(most: int) -> Problem:
    """As many positions of the caller as allowed wait to be looked up in the log."""
    return Problem(
        TOO_MANY_READS,
        f"{most} positions that you sent are being looked up in the log, as many as allowed. Send "
        "one after the other.",
        headers={"Retry-After": "1"},
    )


def too_many_bytes(most: int) -> Problem:
    """The caller has not read the answers that were sent to them."""
    return Problem(
        TOO_MANY_BYTES,
        f"At most {most} bytes of the answers to you may be unread. Read them first.",
        headers={"Retry-After": "1"},
    )


def busy() -> Problem:
    """The process has as many requests waiting as allowed, for all callers together."""
    return Problem(
        BUSY,
        "As many requests as allowed are waiting for an answer. Ask again.",
        headers={"Retry-After": "2"},
    )


def read_too_long(seconds: float) -> Problem:
    """One read takes longer than allowed."""
    return Problem(
        READ_TOO_LONG,
        f"This read takes more than {seconds:g} seconds, the most that is allowed. Ask for less: a "
        "shorter range of dates, fewer types, a smaller page.",
        headers={"Retry-After": "10"},
    )
