"""The fold in columns, for jobs whose every event was applied.

Each rule of `jobtrail.core.fold` stands here as an operation on whole columns. That a job's every
event is applied is found out in the same way: as long as all before an event were, what the job was
before it is known, and so is whether it is applied. Jobs of which one event is not, and a few kinds
that are rare, are left to `folding_events`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from jobtrail.core.events import EVENT_TYPES, TYPE_NAMES
from jobtrail.core.source_binding import unpack_sources
from jobtrail.core.states import ENDED, STATES, Rule, State
from jobtrail.core.states import TRANSITIONS as ALLOWED
from jobtrail.replay.folding.gathering import hashes
from jobtrail.replay.folding.parts import (
    MAX_ATTEMPT,
    Flags,
    Folding,
    Numbers,
    instants,
    states,
)
from jobtrail.replay.schemas import JOBS, TRANSITIONS

_KINDS: Final = {name.removeprefix("job."): code for code, name in enumerate(TYPE_NAMES)}
_TYPES: Final = pa.array(TYPE_NAMES, pa.string())
_CREATED: Final = _KINDS["created"]
_PROGRESS: Final = _KINDS["progress"]
_UNNAMED: Final = -1
_NONE: Final = -1
_NEVER, _ALWAYS, _HIGHER = 0, 1, 2


def _rule(state: State, target: State | None) -> int:
    if target is None:
        return _NEVER if state in ENDED else _ALWAYS
    rule = ALLOWED[state].get(target)
    return _NEVER if rule is None else _ALWAYS if rule is Rule.ALWAYS else _HIGHER


# The state that each type of event sets; progress at a job's beginning claims the least.
_STATE_OF: Final = np.array([STATES.index(kind.state or State.CREATED) for kind in EVENT_TYPES])
_RULES: Final = np.array([[_rule(s, kind.state) for kind in EVENT_TYPES] for s in STATES])
_IS_ENDED: Final = np.array([state in ENDED for state in STATES])


@dataclass(frozen=True)
class _Sorted:
    """Events, each job's together and in log order; all arrays are in that order.

    Attributes:
        events: As they were gathered.
        rows: For each event its row in `events`.
        job: For each event the number of its job.
        first: For each job its first event.
        last: For each job its last event.
        kind: The event's type, as its code.
        time: Microseconds since 1970.
        named: The attempt that it names, or `_UNNAMED`.
    """

    events: pa.RecordBatch
    rows: Numbers
    job: Numbers
    first: Numbers
    last: Numbers
    kind: Numbers
    time: Numbers
    named: Numbers

    @cached_property
    def numbers(self) -> Numbers:
        """The number of each event."""
        return np.arange(len(self.rows))

    @cached_property
    def begins(self) -> Flags:
        """Which events are their job's first."""
        found = np.zeros(len(self.rows), np.bool_)
        found[self.first] = True
        return found

    def latest(self, wanted: Flags) -> Numbers:
        """Return for each event the last wanted one up to it, of whatever job; or `_NONE`."""
        return np.maximum.accumulate(np.where(wanted, self.numbers, _NONE))

    def latest_of(self, wanted: Flags, last: Numbers) -> Numbers:
        """Return for each job its last wanted event up to event `last`; or `_NONE`."""
        found = self.latest(wanted)[last]
        return np.where(found >= self.first, found, _NONE)

    def earliest_of(self, wanted: Flags, last: Numbers) -> Numbers:
        """Return for each job its first wanted event up to event `last`; or `_NONE`."""
        size = len(self.rows)
        found = np.minimum.accumulate(np.where(wanted, self.numbers, size)[::-1])[::-1][self.first]
        return np.where(found <= last, found, _NONE)

    def values(self, column: str, numbers: Numbers) -> pa.Array:
        """Return a column's values at some events; null for `_NONE`."""
        rows = pa.array(self.rows[numbers], mask=numbers == _NONE)
        return self.events.column(column).take(rows)

    def times(self, numbers: Numbers) -> pa.Array:
        """Return the times of some events; null for `_NONE`."""
        return instants(self.time[numbers], numbers == _NONE)


@dataclass(frozen=True)
class _History:
    """What each event makes of its job, if all before it were applied.

    Attributes:
        state: The job's state after it.
        attempt: The job's attempt after it.
        applied: Whether it is applied, if all before it were.
    """

    state: Numbers
    attempt: Numbers
    applied: Flags


def fold_plain(events: pa.RecordBatch, when: int | None) -> tuple[Folding, pa.RecordBatch]:
    """Fold those jobs whose every event is applied.

    Args:
        events: The whole of some jobs, in log order; at least one event.
        when: The instant, in microseconds since 1970; None: the end.

    Returns:
        These jobs, and the events of all others, each job's together and in log order.
    """
    found = _sort(events)
    history = _history(found)
    plain = _plain(found, history)
    others = events.take(pa.array(found.rows[~plain[found.job]]))
    last = found.last
    if when is not None:
        # The first event that is later ends the job for us; times need not be in order.
        later = found.time > when
        found_later = found.earliest_of(later, last)
        last = np.where(found_later == _NONE, last, found_later - 1)
        plain = plain & (last >= found.first)
    return _tables(found, history, np.flatnonzero(plain), last), others


def _sort(events: pa.RecordBatch) -> _Sorted:
    size = events.num_rows
    codes = events.column("job_id").dictionary_encode().indices.to_numpy()
    # Sorting one number is several times as fast as an argument sort that is stable.
    keys = np.sort(codes.astype(np.int64) << 32 | np.arange(size))
    rows, job = keys & 0xFFFFFFFF, keys >> 32
    first = np.flatnonzero(np.diff(job, prepend=-1))
    kinds = pc.index_in(events.column("type"), value_set=_TYPES).to_numpy()
    return _Sorted(
        events=events,
        rows=rows,
        job=job,
        first=first,
        last=np.append(first[1:], size) - 1,
        kind=kinds[rows].astype(np.int64),
        time=events.column("time").cast(pa.int64()).to_numpy()[rows],
        named=events.column("attempt").fill_null(_UNNAMED).to_numpy()[rows].astype(np.int64),
    )


def _history(found: _Sorted) -> _History:
    """Work out states, attempts and verdicts as if every event were applied."""
    sets_state = (found.kind != _PROGRESS) | found.begins
    state = _STATE_OF[found.kind[found.latest(sets_state)]]
    before = np.roll(state, 1)
    # An event that names no attempt counts as the current one, active after retry as the next.
    following = (
        ~found.begins
        & (found.named == _UNNAMED)
        & (before == STATES.index(State.RETRY))
        & (found.kind == _KINDS["active"])
    )
    counted = np.cumsum(following)
    base = found.latest((found.named != _UNNAMED) | found.begins)
    attempt = np.maximum(found.named[base], 0) + counted - counted[base]
    attempt_before = np.roll(attempt, 1)
    rule = _RULES[before, found.kind]
    applied = (
        (attempt >= attempt_before)
        & ((rule == _ALWAYS) | ((rule == _HIGHER) & (attempt > attempt_before)))
        # What a job is and whose may be told once, at its beginning: what else there is, is rare.
        & (found.kind != _CREATED)
    ) | found.begins
    return _History(state, attempt, applied)


def _plain(found: _Sorted, history: _History) -> Flags:
    """Tell of each job whether all of its events are applied, and nothing is rare about it."""
    plain = np.ones(len(found.first), np.bool_)
    plain[found.job[~history.applied]] = False
    plain[found.job[_foreign(found)]] = False
    # Two events with one id: what only looks like it is left to the fold too, and does no harm.
    ids = hashes(found.events.column("id"))[found.rows]
    marked = ids ^ (found.job.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15))
    in_order = np.sort(marked)
    twice = in_order[1:][in_order[1:] == in_order[:-1]]
    if len(twice):
        plain[found.job[np.isin(marked, twice)]] = False
    # Tags that two events give are merged by the fold.
    tagged = np.bincount(found.job[_lengths(found.events.column("tags"))[found.rows] > 0])
    plain[np.flatnonzero(tagged > 1)] = False
    return plain


def _foreign(found: _Sorted) -> Numbers:
    """Return the events whose senders have no part in their job, if it is as its first one said.

    Keys that senders are bound by are few, so the names are compared once for each pair.
    """
    column = found.events.column("bound_to")
    if column.null_count == len(column):
        return np.empty(0, np.int64)
    bound = np.flatnonzero(column.is_valid().to_numpy(False)[found.rows] & ~found.begins)
    bindings = found.values("bound_to", bound).dictionary_encode()
    sources = found.values("source", found.first[found.job[bound]]).dictionary_encode()
    texts, names = bindings.dictionary.to_pylist(), sources.dictionary.to_pylist()
    binding = bindings.indices.to_numpy().astype(np.int64)
    pairs, pair = np.unique(
        binding * max(len(names), 1) + sources.indices.to_numpy(), return_inverse=True
    )
    others = [
        names[number % len(names)] not in unpack_sources(texts[number // len(names)])
        for number in pairs.tolist()
    ]
    of_others = np.flatnonzero(np.array(others, np.bool_)[pair])
    jobs = found.job[bound[of_others]]
    pairs, at, pair = np.unique(
        binding[of_others] << 32 | jobs, return_index=True, return_inverse=True
    )
    writers = found.values("writers", found.first[jobs[at]]).to_pylist()
    foreign = [
        unpack_sources(texts[number >> 32]).isdisjoint(of_job or ())
        for number, of_job in zip(pairs.tolist(), writers, strict=True)
    ]
    events: Numbers = bound[of_others[np.array(foreign, np.bool_)[pair]]]
    return events


def _lengths(column: pa.Array) -> Numbers:
    """Return how many entries each list or map holds; 0 for null."""
    lengths: Numbers = np.diff(column.offsets.to_numpy()).astype(np.int64)
    return lengths if column.null_count == 0 else lengths * column.is_valid().to_numpy(False)


def _tables(found: _Sorted, history: _History, jobs: Numbers, last: Numbers) -> Folding:
    """Make the tables of some jobs, each up to its event `last`."""
    described = np.where(found.kind[found.first] == _CREATED, found.first, _NONE)[jobs]
    about = {
        name: found.values(name, described) for name in ("job_type", "owner", "bulk_id", "viewers")
    }
    about["viewers"] = _each_once(about["viewers"])
    columns = about | _moving(found, history, jobs, last)
    table = pa.RecordBatch.from_arrays([columns[name] for name in JOBS.names], schema=JOBS)
    transitions, job_of = _transitions(found, history, jobs, last)
    of_job = {name: about[name].take(pa.array(job_of)) for name in ("job_type", "owner", "bulk_id")}
    transitions |= of_job
    moves = [transitions[name] for name in TRANSITIONS.names]
    return Folding(table, pa.RecordBatch.from_arrays(moves, schema=TRANSITIONS), job_of)


def _moving(found: _Sorted, history: _History, jobs: Numbers, last: Numbers) -> dict[str, pa.Array]:
    """Return the columns of JOBS that any event may change."""
    kind, attempt = found.kind, history.attempt
    # Progress is applied to no job that has ended, so what ended one is its last event.
    ended = np.where(_IS_ENDED[history.state[last]], last, _NONE)
    judges = (kind == _KINDS["completed"]) | (kind == _KINDS["failed"]) | (kind == _KINDS["retry"])
    is_figure = (kind == _PROGRESS) & found.events.column("progress").is_valid().to_numpy(False)[
        found.rows
    ]
    figure = found.latest_of(is_figure, last)
    # A higher attempt starts again.
    current = (figure != _NONE) & (attempt[figure] == attempt[last])
    tagged = found.latest_of(_lengths(found.events.column("tags"))[found.rows] > 0, last)
    end = last[jobs]
    begin = found.first[jobs]
    return {
        "id": found.values("job_id", begin),
        "state": states(history.state[end]),
        "tags": _without_nulls(found.values("tags", tagged[jobs])),
        "created_at": found.times(begin),
        "started_at": found.times(found.earliest_of(kind == _KINDS["active"], last)[jobs]),
        "updated_at": found.times(end),
        "ended_at": found.times(ended[jobs]),
        "attempt": _attempts(attempt[end]),
        "progress": found.values("progress", np.where(current, figure, _NONE)[jobs]),
        "error": found.values("error", found.latest_of(judges, last)[jobs]),
        "output": found.values("output", ended[jobs]),
        "partition": found.values("partition", begin),
        "events": pa.array(end - begin + 1, pa.int32()),
        "ignored": pa.array(np.zeros(len(jobs), np.int32)),
    }


def _transitions(
    found: _Sorted, history: _History, jobs: Numbers, last: Numbers
) -> tuple[dict[str, pa.Array], Numbers]:
    """Return the columns of TRANSITIONS that events tell, and of each the row of its job."""
    row_of_job = np.full(len(found.first), _NONE)
    row_of_job[jobs] = np.arange(len(jobs))
    wanted = (row_of_job != _NONE)[found.job] & (found.numbers <= last[found.job])
    moves = np.flatnonzero(wanted & (found.kind != _PROGRESS))
    job_of = row_of_job[found.job[moves]]
    state, time = history.state[moves], found.time[moves]
    begins = np.diff(job_of, prepend=_NONE) != 0
    seconds = np.diff(time, prepend=0) / 1e6
    columns = {
        "job_id": found.values("job_id", moves),
        "partition": found.values("partition", moves),
        "offset": found.values("offset", moves),
        "event_id": found.values("id", moves),
        "time": instants(time),
        "from_state": states(np.roll(state, 1), begins),
        "to_state": states(state),
        "attempt": _attempts(history.attempt[moves]),
        "seconds": pa.array(seconds, pa.float64(), mask=begins),
    }
    return columns, job_of


def _attempts(values: Numbers) -> pa.Array:
    return pa.array(np.minimum(values, MAX_ATTEMPT), pa.int32())


def _without_nulls(column: pa.Array) -> pa.Array:
    """Return lists or maps with an empty one for each null."""
    if column.null_count == 0:
        return column
    if pa.types.is_map(column.type):
        return pa.MapArray.from_arrays(column.offsets, column.keys, column.items)
    return pa.ListArray.from_arrays(column.offsets, column.values)


def _each_once(viewers: pa.Array) -> pa.Array:
    """Return lists of viewers as a job has them: in order, each once; empty for null."""
    lengths = _lengths(viewers)
    if (lengths > 1).any():
        lists = [sorted(set(names or ())) for names in viewers.to_pylist()]
        return pa.array(lists, viewers.type)
    return _without_nulls(viewers)
