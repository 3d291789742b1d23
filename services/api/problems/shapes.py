"""The shapes of answers that only operators and generic clients read: health, and problems.

Those of jobs are in `jobtrail.contract.results`, which clients decode them with.
"""

from __future__ import annotations

from msgspec import UNSET, Struct, UnsetType


class Alive(Struct, frozen=True):
    """The process lives."""

    alive: bool


class LogHealth(Struct, frozen=True, rename="camel"):
    """Whether the log answers."""

    up: bool
    #: Since its last answer; null where there was none yet.
    silent_seconds: float | None


class ProjectionsHealth(Struct, frozen=True, rename="camel", kw_only=True):
    """Whether the projections can be read, and how far they are."""

    up: bool
    #: The partitions that are being folded again.
    recovering: tuple[int, ...] = ()
    position: str | None = None
    lag_seconds: float | None = None
    #: Up to where the log was last found to be the one that was folded.
    proven: str | None = None
    #: For how long the partition that is worst off has had events to apply and has not moved.
    still_seconds: float | None = None
    #: How long ago a projector last said that it lives, of the worst partition; null for never.
    silent_seconds: float | None = None
    #: What is wrong; null where they can be read.
    detail: str | None = None


class TailHealth(Struct, frozen=True, rename="camel"):
    """Whether the live end of the log is followed, and how far behind it."""

    up: bool
    position: str
    lag_records: int
    buffered_bytes: int


class Readiness(Struct, frozen=True):
    """Whether everything is up that an answer takes."""

    ready: bool
    #: What is wrong, in words; empty where nothing is.
    reasons: tuple[str, ...]
    log: LogHealth
    projections: ProjectionsHealth
    tail: TailHealth


class FaultDetails(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One thing that is wrong with a request, and where: in a parameter or in the body."""

    #: Of the query, or a header.
    parameter: str | UnsetType = UNSET
    #: RFC 6901, into the body.
    pointer: str | UnsetType = UNSET
    detail: str


class ProblemDetails(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What went wrong, as RFC 9457 has it."""

    type: str
    title: str
    status: int
    detail: str
    errors: tuple[FaultDetails, ...] = ()


class NotReadyDetails(ProblemDetails, frozen=True, kw_only=True, omit_defaults=True):
    """What went wrong, and which part of the service is not up."""

    ready: bool
    reasons: tuple[str, ...]
    log: LogHealth
    projections: ProjectionsHealth
    tail: TailHealth
