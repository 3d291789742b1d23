"""Whether Kafka answers, by the smallest request that it has to process."""

from __future__ import annotations

import asyncio
import struct
from typing import Final

#: Seconds that one answer may take; another is asked for soon.
_WITHIN: Final = 5.0
#: A request for the versions of the protocol: length, key, version, correlation, no client id.
#: It needs no right, and no broker refuses it.
_QUESTION: Final = struct.pack(">ihhih", 10, 18, 0, 1, -1)
_HEAD: Final = struct.Struct(">ii")


async def answers(address: str) -> bool:
    """Tell whether a Kafka answers at `host:port`.

    A connection alone proves nothing: the kernel accepts it for a process that hangs, too.
    """
    host, _, port = address.rpartition(":")
    try:
        async with asyncio.timeout(_WITHIN):
            reader, writer = await asyncio.open_connection(host, int(port))
            try:
                writer.write(_QUESTION)
                _, correlation = _HEAD.unpack(await reader.readexactly(_HEAD.size))
            finally:
                writer.close()
    except (OSError, TimeoutError, asyncio.IncompleteReadError):
        return False
    return bool(correlation == 1)
