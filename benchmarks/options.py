"""What can be chosen about the figures, from the command line."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

#: Seconds without any progress after which a figure is given up.
PATIENCE: Final = 60.0


@dataclass(frozen=True)
class Options:
    """Sizes of the figures.

    Attributes:
        runs: How often each figure is measured.
        hot_events: Events of the one job of `hot_key`.
        produced: Events of `producing`.
        events: Events of `catch_up`.
        rate: Events a second while `visible` looks.
        seconds: For how long it looks.
        waits: Waits that `waits` holds.
        wakes: Jobs that it ends a second.
        held_waits: Waits that `held_waits` holds.
        jobs: Jobs of `answers`, without those of the user who has very many.
        owners: Users who own them.
        big_jobs: Jobs of the user who has very many.
        behind: Events that a projector has to catch up with while `answers_busy` asks.
        asking: Seconds for which `answers` asks for each kind of answer in each run.
        half_open: Half-open connections of `hostile`; a fifth as many send a body that drips in.
        hostile_seconds: Seconds for which it asks, before the others come and again while they
            are there.
        sized_jobs: Jobs of `size`, of two events each.
        replayed: Made-up events of `replay` and `replay_beside`; 0: those of the Google trace,
            where it is there.
        traced: Rows of the trace of `past`.
        asked_rate: Requests a second beside which `replay_beside` exports.
        beside_seconds: Seconds for which it asks in each way, in each run.
        crowd: Audiences that `unfair` lets one caller see; five times as many jobs are in a bulk of
            others. It asks at the same rate as `replay_beside`.
        unfair_seconds: Seconds for which it asks beside each kind of a greedy caller, in each run.
        ingested: Events a second that come in while `ingest` asks, at the rate of `replay_beside`.
        listeners: Who listen meanwhile, and as many waits.
        ingest_seconds: Seconds for which it asks in each way, in each run.
        back: Listeners of `coming_back`.
        missed: Events that the one who missed most has to be told; the others at least half.
        missed_rate: Events a second that come in meanwhile.
        plain_records: Events that `odd_records` sends before the odd batches.
    """

    runs: int = 3
    hot_events: int = 1_000_000
    produced: int = 100_000
    events: int = 400_000
    rate: int = 2_000
    seconds: float = 20.0
    waits: int = 1_000
    wakes: int = 200
    held_waits: int = 10_000
    jobs: int = 200_000
    owners: int = 10_000
    big_jobs: int = 20_000
    behind: int = 400_000
    asking: float = 1.5
    half_open: int = 1_000
    hostile_seconds: float = 10.0
    sized_jobs: int = 5_000_000
    replayed: int = 0
    traced: int = 1_007_362
    asked_rate: int = 200
    beside_seconds: float = 10.0
    crowd: int = 10_000
    unfair_seconds: float = 5.0
    ingested: int = 20_000
    listeners: int = 1_000
    ingest_seconds: float = 8.0
    back: int = 50
    missed: int = 120_000
    missed_rate: int = 1_000
    plain_records: int = 200


#: Sizes so small that they only show whether everything works.
QUICK: Final = Options(
    runs=1,
    hot_events=1_000,
    produced=4_000,
    events=20_000,
    rate=500,
    seconds=3.0,
    waits=100,
    wakes=100,
    held_waits=200,
    jobs=4_000,
    owners=200,
    big_jobs=2_000,
    behind=120_000,
    asking=0.5,
    half_open=100,
    hostile_seconds=1.0,
    sized_jobs=20_000,
    replayed=20_000,
    traced=20_000,
    asked_rate=50,
    beside_seconds=0.5,
    crowd=200,
    unfair_seconds=0.5,
    ingested=500,
    listeners=20,
    ingest_seconds=1.0,
    back=5,
    missed=4_000,
    missed_rate=200,
    plain_records=20,
)
