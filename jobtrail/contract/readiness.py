"""Why a process is not ready, in the words that `/readyz` of the API and of a projector has."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

LOG_SILENT: Final = "The log does not answer."
DRAINING: Final = "It is draining: it was told to stop, and ends soon."


def named(partitions: Iterable[int]) -> str:
    """Return partitions in words, as `partitions 0, 3`."""
    numbers = sorted(partitions)
    return f"partition{'s' if len(numbers) > 1 else ''} {', '.join(map(str, numbers))}"


def stopped_at_holes(stopped: Mapping[int, str]) -> list[str]:
    """Return in words which partitions are not folded any further.

    Args:
        stopped: Why, by partition.
    """
    by_reason: dict[str, list[int]] = {}
    for partition, why in stopped.items():
        by_reason.setdefault(why, []).append(partition)
    return [f"{named(some)}: {why}" for why, some in sorted(by_reason.items())]


def silent(seconds: Mapping[int, float]) -> list[str]:
    """Return in words of which partitions there is no heartbeat of a projector.

    Args:
        seconds: For how long, by partition; infinite for never. None where it is empty.
    """
    if not seconds:
        return []
    worst = max(seconds.values())
    since = "yet" if worst == float("inf") else f"for {worst:.0f} s"
    return [f"{named(seconds)}: no heartbeat of a projector {since}."]


def without_progress(seconds: Mapping[int, float]) -> list[str]:
    """Return in words which partitions have events to apply and stay where they are.

    Args:
        seconds: For how long, by partition. None where it is empty.
    """
    if not seconds:
        return []
    worst = max(seconds.values())
    return [f"{named(seconds)}: no progress for {worst:.0f} s, with events to apply."]


def reasons_of(health: Any) -> list[str]:
    """Return the reasons why a service is not ready, a sentence each.

    Args:
        health: The answer of `/readyz`; any JSON, since a service of another version, or another
            program, may have answered.
    """
    if not isinstance(health, Mapping):
        return []
    reasons = health.get("reasons")
    if isinstance(reasons, list) and reasons:
        return [str(reason) for reason in reasons]
    reasons = []
    for name, part in health.items():
        if not isinstance(part, Mapping) or part.get("up") is not False:
            continue
        why = part.get("detail") or part.get("reason")
        recovering = part.get("recovering")
        if not why and isinstance(recovering, list) and recovering:
            why = f"partitions {', '.join(map(str, recovering))} are being folded again"
        reasons.append(f"{name}: {why}" if why else f"{name} is not up")
    if not reasons and health.get("detail"):
        reasons.append(str(health["detail"]))
    return reasons
