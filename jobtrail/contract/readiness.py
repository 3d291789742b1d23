"""Why a service is not ready, from the answer of `/readyz`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


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
