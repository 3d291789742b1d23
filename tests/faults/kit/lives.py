"""What is said of the jobs of a load: each goes through a life that is drawn at its begin."""

from __future__ import annotations

import random
from typing import Any, Final

TYPES: Final = 48
OWNERS: Final = 200
_ENDS: Final = ("completed", "failed", "cancelled", "expired")


class Life:
    """A job on its way: what is still to be said of it."""

    __slots__ = ("at", "ends", "id", "known", "said", "steps", "type")

    def __init__(self, job_id: str, draw: random.Random) -> None:
        self.id = job_id
        self.type = f"type-{draw.randrange(TYPES):02}"
        self.steps = _steps(self.type, draw)
        self.at = 0
        self.said: list[bytes] = []
        #: Whether an event of it was acknowledged.
        self.known = False
        #: Whether, once it has ended, it stays so.
        self.ends = sum(kind in _ENDS for kind, _ in self.steps) == 1

    @property
    def ending(self) -> bool:
        """Whether its next event is its last one."""
        return self.at == len(self.steps) - 1


def _steps(job_type: str, draw: random.Random) -> list[tuple[str, dict[str, Any]]]:
    created: dict[str, Any] = {"jobType": job_type, "owner": f"owner-{draw.randrange(OWNERS)}"}
    if draw.random() < 0.3:
        created["bulkId"] = f"bulk-{draw.randrange(10**6)}"
    if draw.random() < 0.1:
        created["viewers"] = [f"group:team-{draw.randrange(20)}", "user:auditor"]
    if draw.random() < 0.3:
        created["tags"] = {"tenant": f"t-{draw.randrange(50)}", "é": "ü"}
    steps: list[tuple[str, dict[str, Any]]] = [("created", created)]
    if draw.random() < 0.02:
        # After the fact, or never.
        steps = [("active", {}), *(steps if draw.random() < 0.8 else [])]
    attempt = 0
    for _ in range(draw.choice((1, 1, 1, 2, 3))):
        if attempt:
            steps.append(("retry", {"error": {"code": attempt}}))
        told = {} if draw.random() < 0.7 else {"attempt": attempt}
        steps.append(("active", {"worker": "w-1", **told}))
        steps += [("progress", {"progress": n / 8}) for n in range(draw.randrange(6))]
        if draw.random() < 0.05 and attempt:
            steps.append(("active", {"attempt": 0}))
        attempt += 1
    kind = draw.choices(_ENDS, (80, 10, 6, 4))[0]
    outcome: dict[str, Any] = {"completed": {"output": {"rows": 41, "é": [1, None]}}}.get(kind, {})
    steps.append((kind, outcome))
    if kind != "completed" and draw.random() < 0.3:
        steps.append(("active", {"attempt": attempt + 1}))
        steps.append(("completed", {"output": "again"}))
    elif draw.random() < 0.03:
        steps[-1:-1] = [("progress", {"tags": {f"n-{n}": "" for n in range(20)}})] * 2
    return steps
