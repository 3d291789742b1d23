"""Which events a row of pg-boss proves, and what the fold makes of them, told once or again."""

from __future__ import annotations

import dataclasses
from typing import Any, Final

import pytest

from jobtrail.core.events import Event, decode, encode, microseconds
from jobtrail.core.fold import fold
from jobtrail.core.job import Job, Place
from jobtrail.core.states import State
from jobtrail.core.trail import Verdict, read_trail
from jobtrail.integrations.pgboss.mapping import (
    MAX_UNSEEN_RETRIES,
    Labels,
    Past,
    PgBossRow,
    changes,
)

LABELS: Final = Labels("//pg-boss/db/pgboss", "nobody")
T: Final = 1_790_000_000_000_000


def row(state: str, **values: Any) -> PgBossRow:
    """Return a row; instants are seconds after its creation."""
    for name in ("started_on", "completed_on", "due_on", "read_at"):
        if values.get(name) is not None:
            values[name] = T + values[name] * 1_000_000
    known: dict[str, Any] = {
        "id": "cefb58a0-cd71-11ec-8e29-81c20d280994",
        "queue": "mail",
        "priority": 0,
        "attempt": 0,
        "created_on": T,
        "started_on": None,
        "completed_on": None,
        "due_on": T,
        "delay": 0,
        "output": None,
        "owner": None,
        "bulk_id": None,
        "read_at": T + 10**12,
    }
    return PgBossRow(**{**known, **values, "state": State(state)})


@dataclasses.dataclass
class Log:
    """The events of one job as bridges write them, and the job that is folded of them."""

    job: Job | None = None
    events: int = 0
    verdicts: list[Verdict] = dataclasses.field(default_factory=list)

    def add(self, events: list[Event]) -> list[str]:
        told = []
        for event in events:
            event = decode(encode(event))
            place = Place(0, self.events, T)
            self.job, verdict = fold(self.job, event, place)
            self.events += 1
            self.verdicts.append(verdict)
            if verdict is Verdict.APPLIED:
                seconds = (microseconds(event.time) - T) / 10**6 if event.time else None
                told.append(f"{event.__struct_config__.tag}.{event.data.attempt}@{seconds:g}")
        return told


def told(*rows: PgBossRow) -> tuple[list[str], Log]:
    """Let a bridge read rows of one job one after the other; return what was applied."""
    log, past, applied = Log(), None, list[str]()
    for each in rows:
        events, past = changes(each, past, LABELS)
        applied += log.add(events)
    assert set(log.verdicts) <= {Verdict.APPLIED, Verdict.DUPLICATE}
    assert log.job is not None
    assert log.job.state is rows[-1].state
    return applied, log


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        (row("created"), ["created.0@0"]),
        (row("active", started_on=2), ["created.0@0", "active.0@2"]),
        (
            row("completed", started_on=2, completed_on=5),
            ["created.0@0", "active.0@2", "completed.0@5"],
        ),
        (
            row("failed", started_on=9, completed_on=11, attempt=2),
            ["created.0@0", "active.0@9", "retry.0@9", "active.1@9", "retry.1@9", "active.2@9",
             "failed.2@11"],
        ),
        (
            row("retry", started_on=2, due_on=35, delay=30),
            ["created.0@0", "active.0@2", "retry.0@5"],
        ),
        (
            row("retry", started_on=2, due_on=35, delay=None, read_at=7),
            ["created.0@0", "active.0@2", "retry.0@7"],
        ),
        (row("cancelled", completed_on=4), ["created.0@0", "cancelled.0@4"]),
        (
            row("expired", started_on=2, completed_on=5),
            ["created.0@0", "active.0@2", "expired.0@5"],
        ),
        # v10 and v11: somebody ordered the retry of a failed job.
        (
            row("retry", started_on=2, completed_on=5, read_at=8),
            ["created.0@0", "active.0@2", "failed.0@5", "retry.0@8"],
        ),
        # Failed by its id, never started.
        (row("retry", due_on=3, delay=0), ["created.0@0", "retry.0@3"]),
        # Cancelled and resumed, both unseen.
        (
            row("created", started_on=2, read_at=9),
            ["created.0@0", "active.0@2", "cancelled.0@9", "created.0@9"],
        ),
    ],
)  # fmt: skip
def test_a_row_proves_its_history(seen: PgBossRow, expected: list[str]) -> None:
    applied, log = told(seen)
    assert applied == [f"job.{what}" for what in expected]
    again, _ = changes(seen, None, LABELS)
    assert log.add(again) == []


def test_what_was_seen_on_the_way_is_told_once() -> None:
    applied, _ = told(
        row("created"),
        row("active", started_on=2),
        row("retry", started_on=2, due_on=3),
        row("active", started_on=4, attempt=1, output=b'{"reason":"busy"}'),
        row("completed", started_on=4, completed_on=6, attempt=1),
    )
    assert applied == [
        "job.created.0@0", "job.active.0@2", "job.retry.0@3", "job.active.1@4", "job.completed.1@6",
    ]  # fmt: skip


@pytest.mark.parametrize("taken_up_as", [0, 1])
def test_a_job_cancelled_after_its_start_is_resumed(taken_up_as: int) -> None:
    """Version 9 does not count when it takes it up again, later ones do."""
    applied, _ = told(
        row("active", started_on=2),
        row("cancelled", started_on=2, completed_on=3),
        row("created", started_on=2, read_at=4),
        row("active", started_on=5, attempt=taken_up_as),
        row("cancelled", started_on=5, completed_on=6, attempt=taken_up_as),
        row("active", started_on=7, attempt=2 * taken_up_as),
        row("completed", started_on=7, completed_on=8, attempt=2 * taken_up_as),
    )
    assert applied == [
        "job.created.0@0",
        "job.active.0@2",
        "job.cancelled.0@3",
        "job.created.0@4",
        f"job.active.{taken_up_as}@5",
        f"job.cancelled.{taken_up_as}@6",
        f"job.created.{taken_up_as}@7",
        f"job.active.{2 * taken_up_as}@7",
        f"job.completed.{2 * taken_up_as}@8",
    ]


def test_a_job_cancelled_before_its_start_is_resumed() -> None:
    applied, _ = told(
        row("created"),
        row("cancelled", completed_on=3),
        row("cancelled", completed_on=5),
        row("completed", started_on=7, completed_on=8),
    )
    assert applied == [
        "job.created.0@0", "job.cancelled.0@3", "job.created.0@5", "job.cancelled.0@5",
        "job.created.0@7", "job.active.0@7", "job.completed.0@8",
    ]  # fmt: skip


LIVES: Final = [
    [
        row("created"),
        row("active", started_on=2),
        row("cancelled", started_on=2, completed_on=3),
        row("created", started_on=2),
        row("active", started_on=5, attempt=1),
        row("retry", started_on=5, attempt=1, due_on=6),
        row("active", started_on=7, attempt=2),
        row("failed", started_on=7, completed_on=9, attempt=2),
        row("retry", started_on=7, attempt=2, due_on=10),
        row("completed", started_on=11, completed_on=12, attempt=3),
    ],
    [
        row("created"),
        row("cancelled", completed_on=3),
        row("created"),
        row("active", started_on=5),
        row("retry", started_on=5, due_on=6),
        row("active", started_on=7, attempt=1),
        row("expired", started_on=7, completed_on=9, attempt=1),
    ],
]


@pytest.mark.parametrize("life", LIVES)
def test_a_bridge_that_knows_nothing_changes_nothing(life: list[PgBossRow]) -> None:
    """After any of the rows: nothing that it tells is applied, whatever it did not see."""
    log, past = Log(), None
    for seen in life:
        events, past = changes(seen, past, LABELS)
        log.add(events)
        assert log.job is not None
        assert log.job.state is seen.state
        assert log.add(changes(seen, None, LABELS)[0]) == []


@pytest.mark.parametrize("life", LIVES)
def test_any_rows_may_go_by_unseen(life: list[PgBossRow]) -> None:
    """But for a resumption of a job whose cancellation was told: that is remembered."""
    for missing in range(2 ** (len(life) - 1)):
        seen = [r for n, r in enumerate(life) if n == len(life) - 1 or not missing >> n & 1]
        log, past = Log(), None
        for each in seen:
            events, past = changes(each, past, LABELS)
            log.add(events)
            assert log.job is not None
            assert log.job.state is each.state, (each, [e[3:] for e in read_trail(log.job.trail)])


def test_what_a_job_is_told_as() -> None:
    described = row(
        "completed", priority=5, owner="alice", bulk_id="b-17", output=b'{"rows": 41}',
        completed_on=5,
    )  # fmt: skip
    _, log = told(described)
    job = log.job
    assert job is not None
    assert (job.job_type, job.owner, job.bulk_id) == ("mail", "alice", "b-17")
    assert job.tags == {"queue": "mail", "priority": "5"}
    assert job.output == b'{"rows": 41}'
    for owner in (None, "", "x" * 257, "a\u0007"):
        _, log = told(row("created", owner=owner, bulk_id=owner))
        assert log.job is not None
        assert (log.job.owner, log.job.bulk_id) == ("nobody", None)


def test_of_very_many_unseen_retries_the_latest_are_told() -> None:
    events, past = changes(row("active", attempt=10**6, started_on=5), None, LABELS)
    assert len(events) == 2 * MAX_UNSEEN_RETRIES + 2
    assert past is None
    _, log = told(row("active", attempt=10**6, started_on=5))
    assert log.job is not None
    assert log.job.attempt == 10**6


def test_the_past_is_forgotten_by_nobody() -> None:
    _, past = changes(row("cancelled", completed_on=3), None, LABELS)
    assert isinstance(past, Past)
    assert past.resumed is None
    _, resumed = changes(row("created"), past, LABELS)
    assert resumed is not None
    assert resumed.resumed == past.latest
