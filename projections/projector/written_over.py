"""Over how many partitions a log was written, as far as its keys tell.

Adding partitions to a topic changes where the events of a job belong, and leaves those that are
there where they are. By the new number they would all lie wrong and count as no events, though each
of them was valid. So before a store is made, the oldest keys are looked at.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from jobtrail.core.decoding import ids_of
from jobtrail.core.partitions import partition_of

#: Keys that have to lie wrong before another number is looked for: a few may be of a producer that
#: places them in its own way.
_SUSPICIOUS: Final = 8
#: Of a hundred keys in the partitions that a smaller number has, so many have to lie right by it.
_MOST: Final = 90


def partitions_written_over(records: Mapping[int, Iterable[Any]], partitions: int) -> int:
    """Return over how many partitions a log was written.

    Args:
        records: Of each partition the oldest.
        partitions: How many it has.

    Returns:
        A smaller number, if nearly all keys in the partitions that it has lie right by it and many
        do not by the one that is; else the one that is.
    """
    ids = {p: set(ids_of(record.key for record in some).values()) for p, some in records.items()}
    wrong = sum(partition_of(job_id, partitions) != p for p, some in ids.items() for job_id in some)
    if wrong < _SUSPICIOUS:
        return partitions
    for fewer in range(partitions - 1, 0, -1):
        looked = [(p, job_id) for p in ids if p < fewer for job_id in ids[p]]
        right = sum(partition_of(job_id, fewer) == p for p, job_id in looked)
        if looked and right * 100 >= _MOST * len(looked):
            return fewer
    return partitions
