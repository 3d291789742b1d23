"""Server-sent events, as far as a client needs to read them.

Source: HTML Living Standard, "Server-sent events", section 9.2.6.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import NamedTuple


class Message(NamedTuple):
    """One block of a stream."""

    #: None where the block has none.
    id: str | None
    #: Empty where the block only moves the id on.
    data: bytes


async def messages(chunks: AsyncIterator[bytes]) -> AsyncIterator[Message]:
    """Yield the blocks of a stream; one that is cut off at the end is no block.

    Args:
        chunks: The stream in any pieces, with line feeds as line ends.
    """
    rest = b""
    async for chunk in chunks:
        *blocks, rest = (rest + chunk).split(b"\n\n")
        for block in blocks:
            yield _message(block)


def _message(block: bytes) -> Message:
    event_id: str | None = None
    data: list[bytes] = []
    for line in block.split(b"\n"):
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"id":
            event_id = value.decode()
        elif name == b"data":
            data.append(value)
    return Message(event_id, b"\n".join(data))
