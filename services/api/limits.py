"""How long the service is patient with what. Not settings: clients rely on these figures."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Patience:
    """Seconds. Tests make them shorter."""

    #: Between two signs of life of a wait whose answer is not there yet: no proxy cuts it.
    sign_of_life: float = 15.0
    #: How long an id that is unknown holds a wait, its first event may still be under way.
    unknown: float = 5.0
    #: How long a read waits for the projections to hold what its client wrote.
    position: float = 5.0
    #: How long the body of a request may take to arrive.
    body: float = 10.0
    #: Between two looks at the projections' checkpoints while somebody needs to know them.
    look: float = 0.05
    #: The same while a request is waiting for them.
    eager_look: float = 0.005
    #: Between two attempts to reach the log.
    reconnect: float = 1.0
    #: How long after its last answer the log counts as there; after twice as long, the tail
    #: connects anew.
    silence: float = 5.0
