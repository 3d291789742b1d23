"""The states of a job and the one table of transitions between them.

The seven states are those of pg-boss up to its version 9. An ended job can be taken up again, so
"ended" is a property of a state, not the end of a job's life. docs/states.md draws this table and
a test compares the two.
"""

from __future__ import annotations

from enum import StrEnum
from types import MappingProxyType
from typing import Final


class State(StrEnum):
    """Where a job is in its life. The order is that of a life, and of the columns in a store."""

    #: Created, and waiting for a worker.
    CREATED = "created"
    #: A worker runs it.
    ACTIVE = "active"
    #: An attempt failed; another one is due.
    RETRY = "retry"
    #: Ended well. Nothing follows.
    COMPLETED = "completed"
    #: Ended badly, with no attempt due. Another may still be ordered.
    FAILED = "failed"
    #: Cancelled by a user or program. It can be resumed.
    CANCELLED = "cancelled"
    #: Ended because its time ran out. pg-boss 10 and later never send it.
    EXPIRED = "expired"


class Rule(StrEnum):
    """The condition under which a transition is allowed."""

    ALWAYS = "always"
    #: Only an event of a higher attempt than the job's makes this transition.
    HIGHER_ATTEMPT = "higher attempt"


STATES: Final = tuple(State)

#: The states that end a job.
ENDED: Final = frozenset({State.COMPLETED, State.FAILED, State.CANCELLED, State.EXPIRED})

_FROM_ACTIVE = {
    State.RETRY: Rule.ALWAYS,
    State.COMPLETED: Rule.ALWAYS,
    State.FAILED: Rule.ALWAYS,
    State.CANCELLED: Rule.ALWAYS,
    State.EXPIRED: Rule.ALWAYS,
}

#: From state to state, and under which condition. What is not here is not allowed.
#: A job may be first seen in any state: its first events may be missing from the log.
TRANSITIONS: Final = MappingProxyType(
    {
        State.CREATED: {State.ACTIVE: Rule.ALWAYS, **_FROM_ACTIVE},
        State.ACTIVE: {State.ACTIVE: Rule.HIGHER_ATTEMPT, **_FROM_ACTIVE},
        State.RETRY: {
            State.ACTIVE: Rule.ALWAYS,
            State.COMPLETED: Rule.ALWAYS,
            State.FAILED: Rule.ALWAYS,
            State.CANCELLED: Rule.ALWAYS,
            State.EXPIRED: Rule.ALWAYS,
        },
        State.COMPLETED: {},
        State.FAILED: {State.RETRY: Rule.ALWAYS, State.ACTIVE: Rule.HIGHER_ATTEMPT},
        State.CANCELLED: {State.CREATED: Rule.ALWAYS, State.ACTIVE: Rule.HIGHER_ATTEMPT},
        State.EXPIRED: {State.RETRY: Rule.ALWAYS, State.ACTIVE: Rule.HIGHER_ATTEMPT},
    }
)
