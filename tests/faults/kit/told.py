"""What clients were told, held against the fold: the feed's events, and states in answers."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from typing import Any, Final

from tests.faults.kit.model import ENTRY, Event, Job, Model, named

#: What a record is to a listener: nothing, may be told, has to be told.
_NOT, _MAY, _MUST = range(3)
#: The type of a job that is not known yet.
_NO_TYPE: Final = -1


class Told:
    """Takes down of each record who has to be told of it, while the model folds."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._types: dict[str, int] = {}
        #: Per partition, of the records that may be told: offset, number of the job's type, duty.
        self._offsets: dict[int, array[int]] = {}
        self._kinds: dict[int, array[int]] = {}
        self._duties: dict[int, bytearray] = {}
        for partition in range(model.partitions):
            self._offsets[partition] = array("q")
            self._kinds[partition] = array("i")
            self._duties[partition] = bytearray()

    def take(self, partition: int, offset: int, result: tuple[Job, str, Event] | None) -> None:
        """Take down a record that the model has taken."""
        if result is None:
            return
        job, verdict, event = result
        if verdict == "applied":
            duty = _MUST
        elif verdict == "late" and event.type == "job.created":
            duty = _MAY
        else:
            return
        kind = _NO_TYPE
        if job.kind is not None:
            kind = self._types.setdefault(job.kind, len(self._types))
        self._offsets[partition].append(offset)
        self._kinds[partition].append(kind)
        self._duties[partition].append(duty)

    def ends(self) -> dict[int, int]:
        """Return per partition the offset behind the last record that the model took."""
        return self._model.position

    def check_feed(self, clients: Any, report: Any) -> None:
        """Look for gaps, and for events that a listener had no business with."""
        for listener in clients.listeners:
            wanted = None if listener.job_type is None else self._types.get(listener.job_type, -2)
            until = listener.position()
            for partition, begin in listener.begin.items():
                # What was told last may be beyond the position that its id named.
                told = listener.told.get(partition, ())
                end = max(until.get(partition, begin), told[-1] + 1 if told else 0)
                self._check_partition(listener.name, wanted, partition, (begin, end), told, report)

    def _check_partition(
        self,
        name: str,
        wanted: int | None,
        partition: int,
        bounds: tuple[int, int],
        told: Any,
        report: Any,
    ) -> None:
        offsets, kinds = self._offsets[partition], self._kinds[partition]
        duties = self._duties[partition]
        at = bisect_left(offsets, bounds[0])
        left = set(told)
        end = min(bounds[1], self._model.position[partition])
        while at < len(offsets) and offsets[at] < end:
            offset, kind, duty = offsets[at], kinds[at], duties[at]
            at += 1
            if wanted is not None and kind == _NO_TYPE:
                left.discard(offset)
            elif wanted is None or kind == wanted:
                if offset in left:
                    left.remove(offset)
                elif duty == _MUST:
                    report.note(report.feed, "feed-gap", f"{name}: {partition}:{offset}")
        for offset in left:
            if offset < end:
                report.note(report.feed, "feed-wrong", f"{name}: {partition}:{offset}")

    def check_seen(self, clients: Any, report: Any) -> None:
        """Follow each client through its jobs' lives: it never sees one go back."""
        #: Per client and job the number of the event behind which it was seen last.
        reached: dict[tuple[str, str], int] = {}
        for seen in clients.seen:
            job = self._model.jobs.get(seen.job)
            if job is None:
                report.note(report.seen, "seen-unknown", f"{seen.client}: {seen.job}")
                continue
            trail = job.trail
            count = len(trail) // ENTRY
            at = reached.get((seen.client, seen.job), 1)
            while at < count and trail[at * ENTRY] < seen.least:
                at += 1
            first = at
            while at <= count and named(trail[(at - 1) * ENTRY + 2])[1] != seen.state:
                at += 1
            if at > count:
                states = [named(trail[n * ENTRY + 2])[1] for n in range(count)]
                words = f"{seen.client}: {seen.job} {seen.state} behind event {first} of {states}"
                report.note(report.seen, "seen-back", words)
            else:
                reached[seen.client, seen.job] = at
