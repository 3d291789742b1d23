"""Knowing what every job is doing: events, the fold, producers, and the clients of the service."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jobtrail.produce.job_producer import JobProducer
    from jobtrail.produce.sync_producer import SyncJobProducer

__all__ = ["JobProducer", "SyncJobProducer"]


def __getattr__(name: str) -> Any:
    """Import what is asked for only then: Kafka's client takes a tenth of a second."""
    if name == "JobProducer":
        from jobtrail.produce.job_producer import JobProducer

        return JobProducer
    if name == "SyncJobProducer":
        from jobtrail.produce.sync_producer import SyncJobProducer

        return SyncJobProducer
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
