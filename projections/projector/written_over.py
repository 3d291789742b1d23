"""Over how many partitions a log was written, derived from its keys.

Adding partitions to a topic changes the partition of a job, but does not move the events that are
there. By the new number most of them would be in the wrong partition and count as invalid, though
each was valid. So before a store is made, the oldest keys are checked.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from jobtrail.core.decoding import ids_of
from jobtrail.core.partitions import partition_of

#: Keys that have to be in the wrong partition before another number is tried: a few may be of a
#: producer with a partitioner of its own.
_SUSPICIOUS: Final = 8
#: Percentage of the keys that have to be in the right partition by a smaller number.
_MOST: Final = 90


def partitions_written_over(records: Mapping[int, Iterable[Any]], partitions: int) -> int:
    """Return over how many partitions a log was written.

    Args:
        records: The oldest records of each partition.
        partitions: How many partitions it has.

    Returns:
        A smaller number, if nearly all keys in its partitions are right by that number and many
        are wrong by the current one; else the current one.
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
