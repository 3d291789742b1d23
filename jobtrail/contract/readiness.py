"""Why a service is not ready, in the words that `/readyz` has for it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def reasons_of(health: Any) -> list[str]:
    """Return why a service says that it is not ready, a sentence each.

    Args:
        health: What `/readyz` answered; whatever it is, since a service of another version, or
            something else, may have answered.
    """
    if not isinstance(health, Mapping):
        return []
    said = health.get("reasons")
    if isinstance(said, list) and said:
        return [str(reason) for reason in said]
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
