"""A small TCP proxy that stands between two processes and breaks what passes, as a network does.

Kafka's clients learn a broker's address from its answers. With `broker`, its port is written over
by the proxy's own in what the broker says: both are four bytes behind the same host, so nothing
else moves. So one broker serves many links at once, each broken by itself, and knows nothing of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import struct
from dataclasses import dataclass
from typing import Final, Literal, Self

HOST: Final = "127.0.0.1"
_CHUNK: Final = 1 << 16
#: Bytes of an address that are taken for the begin of one.
_SURELY_AN_ADDRESS: Final = 4

Way = Literal["to_server", "to_client"]
#: What a proxy can do to a link beside passing on.
FAULTS: Final = ("delay", "cut", "half-open", "stall", "reset-after", "refuse")


@dataclass(frozen=True)
class Fault:
    """What is wrong with a link.

    Attributes:
        kind: `delay`: each piece comes later. `cut`: every connection is reset, new ones are
            passed on. `half-open`: one way is swallowed without a word. `stall`: connections are
            accepted, nothing passes. `reset-after`: each connection is reset after some bytes.
            `refuse`: nobody listens, connections there are reset.
        seconds: By how much pieces are late.
        way: Which way is swallowed.
        bytes: After how many bytes a connection is reset.
    """

    kind: str = "pass"
    seconds: float = 0.0
    way: Way = "to_server"
    bytes: int = 0


def drawn(kind: str, draw: random.Random) -> Fault:
    """Return a fault of a kind, the rest of it drawn."""
    ways: tuple[Way, ...] = ("to_server", "to_client")
    return Fault(
        kind,
        seconds=draw.uniform(0.05, 0.4),
        way=draw.choice(ways),
        bytes=draw.choice((1, 7, 100, 5_000, 50_000)),
    )


class _Connection:
    """One client's connection and ours to the server."""

    def __init__(self, proxy: Proxy, client: asyncio.StreamWriter) -> None:
        self._proxy = proxy
        self.writers = [client]
        self.passed = 0
        #: Whether something was swallowed: it can't be made whole any more.
        self.broken = False

    async def pump(
        self, way: Way, source: asyncio.StreamReader, sink: asyncio.StreamWriter
    ) -> None:
        """Pass on what comes one way, as the link's fault has it."""
        held = b""
        while some := await source.read(_CHUNK):
            fault = await self._proxy.gate()
            if fault.kind == "half-open" and fault.way == way:
                self.broken = True
                self._proxy.swallowed += len(some)
                continue
            if fault.kind == "delay":
                await asyncio.sleep(fault.seconds)
                await self._proxy.gate()
            if way == "to_client":
                some, held = self._proxy.rewritten(held + some)
            if fault.kind == "reset-after":
                some = some[: max(fault.bytes - self.passed, 0)]
            sink.write(some)
            self.passed += len(some)
            if fault.kind == "reset-after" and self.passed >= fault.bytes:
                self.reset()
                return
            await sink.drain()
        if held:
            sink.write(held)
        with contextlib.suppress(OSError, RuntimeError):
            sink.write_eof()

    def reset(self) -> None:
        """End it as a reset."""
        for writer in self.writers:
            sock = writer.get_extra_info("socket")
            if sock is not None:
                with contextlib.suppress(OSError):
                    # Linger 0: the other end gets RST, not FIN.
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()


class Proxy:
    """Listens at a port of its own, and passes on to a server's.

    Args:
        name: Of the link, for reports.
        port: The server's, on loopback.
        broker: Whether the server is a Kafka, whose port is written over in its answers.
        own: Where to listen; 0: a free port.
    """

    def __init__(self, name: str, port: int, *, broker: bool = False, own: int = 0) -> None:
        self.name = name
        self.target = port
        self.port = own
        self._broker = broker
        self._fault = Fault()
        self._open = asyncio.Event()
        self._open.set()
        self._server: asyncio.Server | None = None
        self._connections: set[_Connection] = set()
        #: How many connections there were.
        self.accepted = 0
        #: How many bytes were swallowed.
        self.swallowed = 0
        self._pattern = self._by = b""

    @property
    def address(self) -> str:
        """Where it listens, as `host:port`."""
        return f"{HOST}:{self.port}"

    async def start(self) -> Self:
        """Listen."""
        self._server = await asyncio.start_server(self._serve, HOST, self.port, limit=_CHUNK)
        self.port = self._server.sockets[0].getsockname()[1]
        if self._broker:
            self._pattern = HOST.encode() + struct.pack(">i", self.target)
            self._by = HOST.encode() + struct.pack(">i", self.port)
        return self

    async def stop(self) -> None:
        """Listen no more and end all connections."""
        self._open.set()
        if self._server is not None:
            self._server.close()
            self._server = None
        self._reset_all()

    async def apply(self, fault: Fault) -> None:
        """Break the link from now on; `heal` mends it."""
        self._fault = fault
        if fault.kind == "stall":
            self._open.clear()
        else:
            self._open.set()
        if fault.kind == "refuse" and self._server is not None:
            self._server.close()
            self._server = None
        if fault.kind in ("cut", "refuse"):
            self._reset_all()

    async def heal(self) -> None:
        """Pass on again. A connection of which something was swallowed is reset."""
        self._fault = Fault()
        if self._server is None:
            await self.start()
        self._open.set()
        for connection in [*self._connections]:
            if connection.broken:
                connection.reset()

    async def gate(self) -> Fault:
        """Wait while the link stalls; return what is wrong with it then."""
        while not self._open.is_set():
            await self._open.wait()
        return self._fault

    def rewritten(self, data: bytes) -> tuple[bytes, bytes]:
        """Return what may go on, and what may be the begin of an address and has to wait."""
        if not self._pattern:
            return data, b""
        data = data.replace(self._pattern, self._by)
        # Fewer are mostly the end of an answer, for which somebody waits.
        for size in range(min(len(self._pattern) - 1, len(data)), _SURELY_AN_ADDRESS - 1, -1):
            if data.endswith(self._pattern[:size]):
                return data[:-size], data[-size:]
        return data, b""

    def _reset_all(self) -> None:
        for connection in [*self._connections]:
            connection.reset()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        connection = _Connection(self, writer)
        self._connections.add(connection)
        try:
            await self.gate()
            from_server, to_server = await asyncio.open_connection(HOST, self.target, limit=_CHUNK)
            connection.writers.append(to_server)
            async with asyncio.TaskGroup() as ways:
                ways.create_task(connection.pump("to_server", reader, to_server))
                ways.create_task(connection.pump("to_client", from_server, writer))
        except* (OSError, asyncio.IncompleteReadError):
            connection.reset()
        finally:
            self._connections.discard(connection)
            for one in connection.writers:
                one.close()
