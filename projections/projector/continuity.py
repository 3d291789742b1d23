"""Whether the log goes on where it was left: one log, with nothing missing that should be there.

Offsets may be missing for good reasons. Those that the broker's batches account for are part of a
`Group`. What is left is a beginning of the log that has moved on (retention, deleted records) and a
topic that is compacted, or was. Anything else is a hole: records that were acknowledged are lost,
or have rotted on the broker's disk, which their batch's checksum tells.
A hole stops its partition alone, until somebody decides to go on behind it.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Final, Protocol

from jobtrail.core.errors import FencedError, LogChanged, LogGapError
from jobtrail.log.questions import Read
from projections.ports.write import Checkpoint

logger = logging.getLogger(__name__)

#: How a hole is passed over, for messages.
SKIP: Final = "jobtrail skip --partition {} --to {}"


class LogLook(Protocol):
    """What is asked of the log: see `jobtrail.log.questions.Log`."""

    @property
    def partitions(self) -> int:
        """How many partitions it has, as far as is known."""

    async def refresh(self) -> None:
        """Ask how many partitions it has now."""

    async def begins(self) -> dict[int, int]:
        """Return the first offset of each partition."""

    async def ends(self) -> dict[int, int]:
        """Return the offset behind the last committed record of each partition."""

    async def is_compacted(self) -> bool:
        """Tell whether its topic is compacted."""

    async def differences(self, read: Mapping[int, Read]) -> dict[int, str]:
        """Tell of which partitions it is not the log that somebody has read, and why."""

    async def accounted_from(self, partition: int, offset: int) -> int:
        """Return the first offset from there on that a batch accounts for."""


class Continuity:
    """Judges whether what comes follows on what was folded.

    Args:
        log: Is asked.
        partitions: How many it had when the store was made.
    """

    def __init__(self, log: LogLook, partitions: int) -> None:
        self._log = log
        self._partitions = partitions
        #: Per partition the offset before which the log was found to be the one that was folded.
        self.proved: dict[int, int] = {}
        #: Per partition what was proven the time before: what came since is of the same log only
        #: if that still stands.
        self._before: dict[int, Read] = {}
        #: Why partitions are not folded any further.
        self.stopped: dict[int, str] = {}

    def forget(self) -> None:
        """Forget what was proven of a store that may hold anything now."""
        self._before.clear()
        self.stopped.clear()

    async def check_partitions(self, *, now: bool = False) -> None:
        """Check that the log has as many partitions as when the store was made.

        Args:
            now: Whether to ask the broker first.

        Raises:
            LogChanged: It has not. Nothing may be judged by it: events lie where another number of
                partitions put them.
        """
        if now:
            await self._log.refresh()
        check_partitions(self._log.partitions, self._partitions)

    async def differences(self, read: Mapping[int, Read]) -> dict[int, str]:
        """Prove how far partitions were read, and what was proven the time before.

        Args:
            read: Per partition how far.

        Returns:
            Per partition whose log is another one, in what.
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
        """Return where partitions end of which reads wait for more than that.

        Args:
            checkpoints: Of partitions whose log was just proven to be the one that is folded.
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
        """Say that the log begins later than it was read: what lies between is gone on purpose."""
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
        """Tell whether offsets that no batch covers are missing for a reason.

        Where there is none, the partition is stopped, and it is said once.

        Args:
            partition: Where.
            begin: The first missing offset.
            end: The one behind the last.
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
            hint="Only this partition stands still. Restore the log's segments, or go on behind "
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
