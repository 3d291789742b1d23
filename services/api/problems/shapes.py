"""The shapes of answers about health, and of problems.

The shapes of jobs are in `jobtrail.contract.results`, which clients use to decode them.
"""

from __future__ import annotations

from msgspec import UNSET, Struct, UnsetType


class Alive(Struct, frozen=True):
    """The process is alive."""

    alive: bool


class LogHealth(Struct, frozen=True, rename="camel"):
    """Whether the log answers."""

    up: bool
    #: Since its last answer; null if there was none yet.
    silent_seconds: float | None


class ProjectionsHealth(Struct, frozen=True, rename="camel", kw_only=True):
    """Whether the projections can be read, and their position."""

    up: bool
    #: The partitions that are being folded again.
    recovering: tuple[int, ...] = ()
    position: str | None = None
    lag_seconds: float | None = None
    #: Up to where the log was last verified to be the one that was folded.
    proven: str | None = None
    #: For how long a partition has had events to apply and has not moved: the longest of all.
    still_seconds: float | None = None
    #: Since the last heartbeat of a projector: the longest of all partitions; null for never.
    silent_seconds: float | None = None
    #: Why they can't be read; null if they can.
    detail: str | None = None


class TailHealth(Struct, frozen=True, rename="camel"):
    """Whether the tail follows the log, and its lag."""

    up: bool
    position: str
    lag_records: int
    buffered_bytes: int


class Readiness(Struct, frozen=True):
    """Whether everything that answers need is up."""

    ready: bool
    #: What is wrong, in words; empty if nothing is.
    reasons: tuple[str, ...]
    log: LogHealth
    projections: ProjectionsHealth
    tail: TailHealth


class FaultDetails(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One thing that is wrong with a request, in a parameter or in the body."""

    #: Of the query, or a header.
    parameter: str | UnsetType = UNSET
    #: RFC 6901, into the body.
    pointer: str | UnsetType = UNSET
    detail: str


class ProblemDetails(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Problem details (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str
    errors: tuple[FaultDetails, ...] = ()


class NotReadyDetails(ProblemDetails, frozen=True, kw_only=True, omit_defaults=True):
    """Problem details, with which part of the service is not up."""

    ready: bool
    reasons: tuple[str, ...]
    log: LogHealth
    projections: ProjectionsHealth
    tail: TailHealth
