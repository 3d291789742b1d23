"""A copy of a log that dies: `python -m tests.copy_dying NEW PARTITIONS AFTER`.

It kills itself with SIGKILL once so many records are sent to the new topic, most of the time in the
middle of a transaction; settings come from the environment.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from typing import Any

from aiokafka import TopicPartition

from jobtrail.log.copying import LogCopy
from jobtrail.settings import load

#: Records of a transaction.
STEP = 40


class DyingCopy(LogCopy):
    """A copy each of whose records may be the last."""

    left = 0

    async def _put(
        self, record: Any, tp: TopicPartition, batches: dict[int, Any], sent: list[Any]
    ) -> None:
        await super()._put(record, tp, batches, sent)
        self.left -= 1
        if self.left == 0:
            # What is gathered goes, so that something of it may be in the topic.
            for partition, batch in batches.items():
                await (await self._producer.send_batch(batch, self._new, partition=partition))
            os.kill(os.getpid(), signal.SIGKILL)


async def main(to: str, partitions: int, after: int) -> None:
    async with DyingCopy(load(), to, partitions, resume=True, step=STEP) as copying:
        copying.left = after
        await copying.run(lambda _: None)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
