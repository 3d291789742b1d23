"""Whether the log is the one that was read: by the projections, by the tail, by who has a position.

A log may lose its end and be filled again, be made again, or be restored from a copy. Then offsets
name other records, and what was read of it is of no use: partitions whose projections hold another
log are not answered for until they were folded again, and a position in another log is refused.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Any, Final

from aiokafka.errors import KafkaError

from jobtrail.core.errors import LogUnavailable
from jobtrail.log.consumers import BREAKS
from jobtrail.log.questions import Log, Read
from projections.ports.read import Watermark
from services.api.limits.limits import Timeouts
from services.api.live.buffer import Buffer
from services.api.problems.problems import Problem, log_unavailable, recovering
from services.api.store import Store

logger = logging.getLogger(__name__)

#: What may go wrong when the log is asked.
FAILURES: Final = (KafkaError, LogUnavailable, OSError, TimeoutError)
#: Seconds between two looks where nothing has happened, and while projections hold another log.
_EVERY: Final = 5.0
_SOON: Final = 0.25
#: Seconds in which the log has to answer a request that has to know.
_WITHIN: Final = 5.0
_FOREIGN: Final = (
    "The projections hold another log than the one that is there; they are being folded again."
)


def from_within() -> bool:
    """Tell whether a cancellation that was caught is one of aiokafka's own, which it lets out."""
    task = asyncio.current_task()
    return task is not None and not task.cancelling()


class Witness:
    """Compares what was read with the log.

    Args:
        topic: The log.
        client: Keyword arguments for aiokafka: servers and security.
        buffer: What the tail has.
        timeouts: When to try again.
    """

    def __init__(
        self, topic: str, client: Mapping[str, Any], buffer: Buffer, timeouts: Timeouts
    ) -> None:
        self._topic = topic
        self._client = client
        self._buffer = buffer
        self._patience = timeouts
        self._log: Log | None = None
        self._connected = asyncio.Event()
        self._wanted = asyncio.Event()
        #: Why partitions are not answered for.
        self._reasons: dict[int, str] = {}
        self._judged: tuple[Watermark | None, Watermark | None] = (None, None)
        #: After so many breaks the tail's log was the same one.
        self._trusted = BREAKS.count
        self._proving = asyncio.Lock()
        #: How often the tail has found another log than the one that it had read.
        self.others = 0

    # --- the projections

    def judge(self, held: Watermark) -> Watermark:
        """Return what projections hold, without what is of another log."""
        if not self._reasons:
            return held
        known, judged = self._judged
        if known is not held or judged is None:
            judged = held._replace(
                recovering=held.recovering | self._reasons.keys(),
                stopped={**held.stopped, **self._reasons},
            )
            self._judged = (held, judged)
        return judged

    async def run(self, store: Store) -> None:
        """Look every now and then, and whenever somebody says that it may be another log."""
        while True:
            try:
                await self._watch(store)
            except FAILURES as error:
                logger.warning("action=witness_retry %r", error)
            except Exception:
                logger.exception("action=witness_failed")
            except asyncio.CancelledError:
                if not from_within():
                    raise
                logger.warning("action=witness_retry cancelled from within")
            await asyncio.sleep(self._patience.reconnect)

    async def _watch(self, store: Store) -> None:
        """Look as long as one connection lasts."""
        try:
            async with Log(self._topic, self._client) as log:
                self._log = log
                self._connected.set()
                while True:
                    await self._look(log, store)
                    await self._pause()
        finally:
            self._log = None
            self._connected.clear()

    async def _pause(self) -> None:
        self._wanted.clear()
        try:
            async with asyncio.timeout(_SOON if self._reasons else _EVERY):
                await self._wanted.wait()
        except TimeoutError:
            pass

    def look_soon(self) -> None:
        """Say that the log may be another one."""
        self._wanted.set()

    async def _look(self, log: Log, store: Store) -> None:
        try:
            with store.snapshot(allow_recovering=True) as snapshot:
                held, partitions = snapshot.watermark, store.partitions
        except Problem:
            return
        if log.partitions != partitions:
            sentence = (
                f"The log has {log.partitions} partitions and the projections were folded over "
                f"{partitions}: the projector says how the two are brought together."
            )
            self._set(dict.fromkeys(held.position, sentence))
            return
        read = {p: Read(offset, held.last.get(p)) for p, offset in held.position.items()}
        found = await log.differences(read)
        for partition, difference in found.items():
            if partition not in self._reasons:
                logger.error("action=other_log partition=%d The log: %s", partition, difference)
        self._set(dict.fromkeys(found, _FOREIGN))

    def _set(self, reasons: dict[int, str]) -> None:
        if reasons != self._reasons:
            self._reasons = reasons
            self._judged = (None, None)

    # --- the tail

    async def log(self) -> Log:
        """Return the log to ask.

        Raises:
            OSError: It can't be reached now.
        """
        try:
            async with asyncio.timeout(_WITHIN):
                await self._connected.wait()
        except TimeoutError:
            raise OSError("the log can't be asked what it is") from None
        log = self._log
        if log is None:
            raise OSError("the log can't be asked what it is")
        return log

    async def changed(self, read: Mapping[int, Read]) -> dict[int, str]:
        """Tell of which partitions the log is not the one that the tail has read.

        Raises:
            KafkaError: The log does not answer; likewise the others of `FAILURES`.
        """
        found = await (await self.log()).differences(read)
        for partition, difference in found.items():
            logger.error("action=tail_other_log partition=%d The log: %s", partition, difference)
        if found:
            self.others += 1
            self.look_soon()
        return found

    def trust(self, breaks: int) -> None:
        """Take in that the tail's log was the same one after so many breaks."""
        self._trusted = max(self._trusted, breaks)

    @property
    def is_sure(self) -> bool:
        """Whether nothing has happened since the log was found to be the one that was read."""
        return self._trusted == BREAKS.count

    # --- what is read of it by its offsets

    async def still(self, others: int) -> None:
        """Make sure that the log is the one that it was: by the tail's last proof, or another one.

        Args:
            others: What `others` was when somebody began to read it.

        Raises:
            Problem: 503 where it is another one, or where nobody can tell in time.
        """
        await self.be_sure()
        if others != self.others:
            raise recovering("The log became another one while it was read.")

    async def be_sure(self) -> None:
        """Ask whether the log is the one that was read, where that is in doubt.

        Afterwards it may be in doubt still: where it is another one, until the tail has begun with
        that.

        Raises:
            Problem: 503 where the log does not answer in time.
        """
        if self.is_sure:
            return
        others = self.others
        try:
            # Once for all who ask, and each of them waits no longer than for one answer.
            async with asyncio.timeout(_WITHIN), self._proving:
                if others == self.others:
                    await self._prove_now()
        except FAILURES as error:
            raise _not_told(error) from None
        except asyncio.CancelledError as error:
            if not from_within():
                raise
            raise _not_told(error) from None

    async def _prove_now(self) -> None:
        breaks = BREAKS.count
        if self._trusted < breaks and not await self.changed(self._buffer.read()):
            self.trust(breaks)


def _not_told(error: BaseException) -> Problem:
    return log_unavailable(f"asking whether it is the same one: {error!r}")
