"""Verifies that the log is still the one that the projections and the tail have read.

A log can lose its end and grow again, be created again, or be restored from a backup. Then its
offsets name other records, and what was read before does not apply to it. Partitions that were
folded from a replaced log count as recovering until they are folded again, and positions of a
replaced log are refused.
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

#: The errors that a question to the log may raise.
FAILURES: Final = (KafkaError, LogUnavailable, OSError, TimeoutError)
#: Seconds between two checks of the projections: normally, and while they are of another log.
_EVERY: Final = 5.0
_SOON: Final = 0.25
#: Seconds in which the log has to answer while a request waits.
_WITHIN: Final = 5.0
_FOREIGN: Final = (
    "The projections were folded from another log than the present one; they are being folded "
    "again."
)


def is_own_cancellation() -> bool:
    """Tell whether a caught CancelledError is aiokafka's own: nobody cancelled this task."""
    task = asyncio.current_task()
    return task is not None and not task.cancelling()


class LogVerifier:
    """Compares the log with what was read of it.

    Args:
        topic: The topic of the log.
        client: Keyword arguments for aiokafka: servers and security.
        buffer: The records that the tail has read.
        timeouts: When to reconnect.
    """

    def __init__(
        self, topic: str, client: Mapping[str, Any], buffer: Buffer, timeouts: Timeouts
    ) -> None:
        self._topic = topic
        self._client = client
        self._buffer = buffer
        self._timeouts = timeouts
        self._log: Log | None = None
        self._connected = asyncio.Event()
        self._wanted = asyncio.Event()
        #: By partition, why its projections are not of this log.
        self._reasons: dict[int, str] = {}
        self._foreign_excluded: tuple[Watermark | None, Watermark | None] = (None, None)
        #: `BREAKS.count` before the last proof that the log is the one that the tail has read.
        self._verified = BREAKS.count
        self._verifying = asyncio.Lock()
        #: How often the tail found that the log was replaced.
        self.replacements = 0

    # --- the projections

    def exclude_foreign(self, watermark: Watermark) -> Watermark:
        """Return a watermark in which partitions of another log count as recovering."""
        if not self._reasons:
            return watermark
        before, result = self._foreign_excluded
        if before is not watermark or result is None:
            result = watermark._replace(
                recovering=watermark.recovering | self._reasons.keys(),
                stopped={**watermark.stopped, **self._reasons},
            )
            self._foreign_excluded = (watermark, result)
        return result

    async def run(self, store: Store) -> None:
        """Check the projections from time to time, and after each call of `check_soon`."""
        while True:
            try:
                await self._watch(store)
            except FAILURES as error:
                logger.warning("action=witness_retry %r", error)
            except Exception:
                logger.exception("action=witness_failed")
            except asyncio.CancelledError:
                if not is_own_cancellation():
                    raise
                logger.warning("action=witness_retry cancelled from within")
            await asyncio.sleep(self._timeouts.reconnect)

    async def _watch(self, store: Store) -> None:
        """Check for as long as one connection lasts."""
        try:
            async with Log(self._topic, self._client) as log:
                self._log = log
                self._connected.set()
                while True:
                    await self._check(log, store)
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

    def check_soon(self) -> None:
        """Ask for a check soon: the log may have been replaced."""
        self._wanted.set()

    async def _check(self, log: Log, store: Store) -> None:
        try:
            with store.snapshot(allow_recovering=True) as snapshot:
                watermark, partitions = snapshot.watermark, store.partitions
        except Problem:
            return
        if log.partitions != partitions:
            sentence = (
                f"The log has {log.partitions} partitions and the projections were folded over "
                f"{partitions}: the projector's messages say what to do."
            )
            self._set(dict.fromkeys(watermark.position, sentence))
            return
        read = {p: Read(offset, watermark.last.get(p)) for p, offset in watermark.position.items()}
        found = await log.differences(read)
        for partition, difference in found.items():
            if partition not in self._reasons:
                logger.error("action=other_log partition=%d The log: %s", partition, difference)
        self._set(dict.fromkeys(found, _FOREIGN))

    def _set(self, reasons: dict[int, str]) -> None:
        if reasons != self._reasons:
            self._reasons = reasons
            self._foreign_excluded = (None, None)

    # --- the tail

    async def log(self) -> Log:
        """Return the connection by which questions are asked.

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
        """Return the partitions whose log is not the one that the tail has read, with the reason.

        Raises:
            KafkaError: The log does not answer; likewise the others of `FAILURES`.
        """
        found = await (await self.log()).differences(read)
        for partition, difference in found.items():
            logger.error("action=tail_other_log partition=%d The log: %s", partition, difference)
        if found:
            self.replacements += 1
            self.check_soon()
        return found

    def note_verified(self, breaks: int) -> None:
        """Note that the tail's log was still the same after `breaks` connections had broken."""
        self._verified = max(self._verified, breaks)

    @property
    def is_verified(self) -> bool:
        """Whether no connection has broken since the log was last verified."""
        return self._verified == BREAKS.count

    # --- reads by offset

    async def check_unchanged(self, replacements: int) -> None:
        """Check that the log was not replaced while it was read.

        Args:
            replacements: The value of `replacements` before the read.

        Raises:
            Problem: 503 where it was replaced, or that can't be told in time.
        """
        await self.verify()
        if replacements != self.replacements:
            raise recovering("The log was replaced while it was read.")

    async def verify(self) -> None:
        """Verify the log, unless it is verified already.

        If it was replaced, `is_verified` is still false afterwards, until the tail has begun again.

        Raises:
            Problem: 503 where the log does not answer in time.
        """
        if self.is_verified:
            return
        replacements = self.replacements
        try:
            # Once for all requests; each waits for at most one answer.
            async with asyncio.timeout(_WITHIN), self._verifying:
                if replacements == self.replacements:
                    await self._verify_now()
        except FAILURES as error:
            raise _unverified(error) from None
        except asyncio.CancelledError as error:
            if not is_own_cancellation():
                raise
            raise _unverified(error) from None

    async def _verify_now(self) -> None:
        breaks = BREAKS.count
        if self._verified < breaks and not await self.changed(self._buffer.read()):
            self.note_verified(breaks)


def _unverified(error: BaseException) -> Problem:
    return log_unavailable(f"asking whether it is the same one: {error!r}")
