"""Checks that the log continues where it was folded to: the same log, with no records missing.

Offsets may be missing for good reasons. Those that the broker's batches account for are part of a
`Group`. The others are a beginning of the log that has moved (retention, deleted records) and a
topic that is compacted, or was. Anything else is a hole: records that were acknowledged are lost,
or are damaged on the broker's disk, as the checksum of their batch shows.
A hole stops only its partition, until an operator decides to go on after it.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Final, Protocol

from jobtrail.core.errors import FencedError, LogChanged, LogGapError
from jobtrail.log.questions import Read
from projections.ports.write import Checkpoint

logger = logging.getLogger(__name__)

#: The command that skips a hole, for messages.
SKIP: Final = "jobtrail skip --partition {} --to {}"


class LogLook(Protocol):
    """What is used of the log: see `jobtrail.log.questions.Log`."""

    @property
    def partitions(self) -> int:
        """How many partitions it has, as of the last `refresh`."""

    async def refresh(self) -> None:
        """Ask how many partitions it has now."""

    async def begins(self) -> dict[int, int]:
        """Return the first offset of each partition."""

    async def ends(self) -> dict[int, int]:
        """Return the offset after the last committed record of each partition."""

    async def is_compacted(self) -> bool:
        """Tell whether its topic is compacted."""

    async def differences(self, read: Mapping[int, Read]) -> dict[int, str]:
        """Return the partitions whose log is another one than was read, with the reasons."""

    async def accounted_from(self, partition: int, offset: int) -> int:
        """Return the first offset from there on that a batch accounts for."""


class Continuity:
    """Checks whether fetched records continue what was folded.

    Args:
        log: The log.
        partitions: How many partitions it had when the store was made.
    """

    def __init__(self, log: LogLook, partitions: int) -> None:
        self._log = log
        self._partitions = partitions
        #: Per partition the offset before which the log was found to be the one that was folded.
        self.proved: dict[int, int] = {}
        #: Per partition what was proven last: it is proven again together with what came since.
        self._before: dict[int, Read] = {}
        #: Why partitions are not folded any further.
        self.stopped: dict[int, str] = {}

    def forget(self) -> None:
        """Forget what was proven: the store may have been changed by others."""
        self._before.clear()
        self.stopped.clear()

    async def check_partitions(self, *, now: bool = False) -> None:
        """Check that the log has as many partitions as when the store was made.

        Args:
            now: Whether to ask the broker first, not to use the last answer.

        Raises:
            LogChanged: It has not. Events are where another number of partitions has put them, so
                none may be judged.
        """
        if now:
            await self._log.refresh()
        check_partitions(self._log.partitions, self._partitions)

    async def differences(self, read: Mapping[int, Read]) -> dict[int, str]:
        """Prove that the log is the one that was read, now and at the last proof.

        Args:
            read: Per partition how far it was read.

        Returns:
            The partitions whose log is another one, with the difference.
        """
        before = {p: self._before[p] for p in read if p in self._before}
        found = await self._log.differences(before)
        found |= await self._log.differences({p: r for p, r in read.items() if p not in found})
        for partition, at in read.items():
            if partition not in found:
                self._before[partition] = at
                self.proved[partition] = at.next_offset
        return found

    async def lost_ends(self, checkpoints: Mapping[int, Checkpoint]) -> dict[int, int]:
        """Return the ends of partitions whose reads wait for an offset after the end.

        Args:
            checkpoints: Those of partitions whose log was just proven to be the right one.
        """
        awaited = {p: at.recover_to for p, at in checkpoints.items() if at.is_recovering}
        ends = await self._log.ends() if awaited else {}
        lost = {p: ends[p] for p, until in awaited.items() if ends.get(p, until) < until}
        for partition, end in lost.items():
            logger.warning(
                "action=log_ends_earlier partition=%d The log ends at offset %d now; it was to be "
                "folded up to %d before reads are answered. They wait for no more than there is.",
                partition,
                end,
                awaited[partition],
            )
        return lost

    def note_moved_beginning(self, partition: int, begin: int, end: int) -> None:
        """Report that the log begins later now: the records before that were deleted."""
        logger.warning(
            "action=log_begins_later partition=%d The log begins at offset %d now; offsets from %d "
            "on were deleted before they were folded. They are passed over.",
            partition,
            end,
            begin,
        )

    async def accounts_for(
        self, partition: int, begin: int, end: int, *, rotten: bool = False
    ) -> bool:
        """Tell whether offsets that no batch covers are missing for a good reason.

        Otherwise the partition is stopped, and that is logged once.

        Args:
            partition: The partition.
            begin: The first missing offset.
            end: The first offset after them.
            rotten: Whether a batch is there whose checksum is wrong.

        Raises:
            FencedError: The log has them: they have to be delivered again.
        """
        log_begins = (await self._log.begins()).get(partition, 0)
        if log_begins > begin:
            self.note_moved_beginning(partition, begin, log_begins)
            begin = log_begins
        if begin >= end:
            return True
        if await self._log.accounted_from(partition, begin) < end:
            raise FencedError(
                "Records are to be delivered again.",
                where=f"partition {partition}",
                expected=f"offset {begin}",
                found=f"offset {end}",
            )
        if not rotten and await self._log.is_compacted():
            logger.info("action=log_compacted partition=%d begin=%d end=%d", partition, begin, end)
            return True
        error = LogGapError(
            f"Records of the log are {'damaged' if rotten else 'missing'}.",
            where=f"partition {partition}",
            expected=f"a record, or a reason why there is none, at offset {begin}",
            found=f"{'a wrong checksum' if rotten else 'nothing'} before offset {end}",
            hint="Only this partition has stopped. Restore the log's segments, or go on after "
            f"the hole with `{SKIP.format(partition, end)}`.",
        )
        self.stopped[partition] = str(error)
        logger.critical("action=log_hole %s", error)
        return False


def check_partitions(found: int, expected: int) -> None:
    """Check that the log has as many partitions as the store was folded over.

    Raises:
        LogChanged: It has not.
    """
    if found == expected:
        return
    raise LogChanged(
        "The log has another number of partitions than the store was folded over, so the events of "
        "one job would lie in several.",
        expected=f"{expected} partitions",
        found=f"{found}",
        hint="Copy the log into a new topic with the number that you want: `jobtrail log copy "
        "--to-topic NAME --partitions N`; then set JOBTRAIL_TOPIC, JOBTRAIL_PARTITIONS and a new "
        "JOBTRAIL_STORE. See docs/broker.md.",
    )
