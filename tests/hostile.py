"""Batches as a hostile client writes them: odd forms of every codec, numbers at their edges.

A batch is made byte by byte, and sent as it is: no client's producer can be asked for these. What
Kafka's broker refuses it refuses; what it takes has to be read, or buried.
"""

from __future__ import annotations

import gzip
import io
import os
import struct
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

import cramjam
from aiokafka import AIOKafkaProducer
from aiokafka.errors import BrokerResponseError
from aiokafka.record.util import calc_crc32c, encode_varint
from backports import zstd
from xxhash import xxh32_intdigest

NONE, GZIP, SNAPPY, LZ4, ZSTD = range(5)
MIB: Final = 1 << 20
NOW: Final = 1_790_000_000_000
#: The most that a signed number of 64 bits can be.
MOST: Final = 2**63 - 1


class Odd(NamedTuple):
    """A record, with what a producer counts itself."""

    key: bytes | None = None
    value: bytes | None = None
    headers: Sequence[tuple[bytes, bytes | None]] = ()
    delta: int = 0
    offset: int | None = None
    attributes: int = 0


def _number(value: int) -> bytes:
    found = bytearray()
    encode_varint(value, found.append)
    return bytes(found)


def _counted(content: bytes | None) -> bytes:
    return _number(-1) if content is None else _number(len(content)) + content


def packed(records: Sequence[Odd]) -> bytes:
    """Return records as they lie in a batch without a codec."""
    found = bytearray()
    for number, record in enumerate(records):
        offset = number if record.offset is None else record.offset
        body = bytes([record.attributes]) + _number(record.delta) + _number(offset)
        body += _counted(record.key) + _counted(record.value) + _number(len(record.headers))
        body += b"".join(_counted(name) + _counted(value) for name, value in record.headers)
        found += _number(len(body)) + body
    return bytes(found)


def batch(
    content: bytes,
    count: int,
    codec: int = NONE,
    *,
    first: int = NOW,
    latest: int | None = None,
    base: int = 0,
) -> bytes:
    """Return a batch.

    Args:
        content: Its records, packed with the codec.
        count: How many it says that these are.
        codec: Of Kafka's.
        first: The timestamp that the records' deltas are added to, in milliseconds.
        latest: The latest of them, as the batch says.
        base: Its first offset.
    """
    latest = first if latest is None else latest
    rest = struct.pack(">hiqqqhii", codec, count - 1, first, latest, -1, -1, -1, count) + content
    head = struct.pack(">qiibI", base, len(rest) + 9, -1, 2, calc_crc32c(rest))
    return head + rest


def lz4_frame(*blocks: bytes, flags: int = 0x60, largest: int = 0x70, behind: bytes = b"") -> bytes:
    """Return a frame of lz4 with blocks, that says more or less about itself."""
    head = bytes([flags, largest]) + bytes(8 if flags & 0x08 else 0)
    frame = b"\x04\x22\x4d\x18" + head + bytes([xxh32_intdigest(head) >> 8 & 0xFF])
    for content in blocks:
        block = bytes(cramjam.lz4.compress_block(content, store_size=False))
        frame += struct.pack("<I", len(block)) + block
        if flags & 0x10:
            frame += struct.pack("<I", xxh32_intdigest(block))
    frame += bytes(4)
    if flags & 0x04:
        checksum = 0
        for content in blocks:
            checksum ^= xxh32_intdigest(content)
        frame += struct.pack("<I", checksum)
    return frame + behind


def xerial(*blocks: bytes, versions: tuple[int, int] = (1, 1), behind: bytes = b"") -> bytes:
    """Return the framing that Java's snappy has."""
    frame = b"\x82SNAPPY\x00" + struct.pack(">ii", *versions)
    for content in blocks:
        block = bytes(cramjam.snappy.compress_raw(content))
        frame += struct.pack(">i", len(block)) + block
    return frame + behind


def unsized(content: bytes) -> bytes:
    """Return a frame of zstd that does not say how much is in it."""
    compressor = zstd.ZstdCompressor()
    return (
        compressor.compress(content[:10]) + compressor.compress(content[10:]) + compressor.flush()
    )


SKIPPED: Final = b"\x53\x2a\x4d\x18" + struct.pack("<I", 5) + b"hello"


class Case(NamedTuple):
    """A batch, and what has to become of it."""

    name: str
    data: bytes
    #: How many records are read of it; None where it is buried as a whole.
    read: int | None
    #: With which reason; empty for any.
    reason: str = ""
    #: How many of those that are read are no events.
    dead: int = 0


def codecs(event: bytes, key: bytes) -> Iterator[Case]:
    """Yield forms of each codec; each batch has three times the same event."""
    content = packed([Odd(key, event)] * 3)
    half = len(content) // 2
    first, second = content[:half], content[half:]
    member = gzip.compress
    good: list[tuple[str, int, bytes]] = [
        ("gzip", GZIP, member(content)),
        ("gzip with bytes behind", GZIP, member(content) + b"trailing"),
        ("gzip with zeros behind", GZIP, member(content) + bytes(600)),
        ("gzip with what looks like a member behind", GZIP, member(content) + b"\x1f\x8b\x08ab"),
        ("gzip in two members", GZIP, member(first) + member(second)),
        ("gzip in two members and bytes", GZIP, member(first) + member(second) + b"\x1f"),
        ("gzip with an empty member", GZIP, member(content) + member(b"")),
        ("gzip with a name", GZIP, _named_gzip(content)),
        ("gzip stored", GZIP, gzip.compress(content, 0)),
        ("snappy", SNAPPY, bytes(cramjam.snappy.compress_raw(content))),
        ("snappy of Java", SNAPPY, xerial(content)),
        ("snappy in blocks", SNAPPY, xerial(first, second)),
        ("snappy in two streams", SNAPPY, xerial(first) + xerial(second)),
        ("snappy of another version", SNAPPY, xerial(content, versions=(2, 7))),
        ("snappy with bytes behind", SNAPPY, xerial(content, behind=b"abc")),
        ("lz4", LZ4, lz4_frame(content)),
        ("lz4 in blocks", LZ4, lz4_frame(first, second)),
        ("lz4 with small blocks", LZ4, lz4_frame(content, largest=0x40)),
        ("lz4 with checksums of blocks", LZ4, lz4_frame(first, second, flags=0x70)),
        ("lz4 with a checksum", LZ4, lz4_frame(content, flags=0x64)),
        ("lz4 with a size that is wrong", LZ4, lz4_frame(content, flags=0x68)),
        ("lz4 with a frame behind", LZ4, lz4_frame(content) + lz4_frame(b"more")),
        ("lz4 with bytes behind", LZ4, lz4_frame(content, behind=b"junk")),
        ("zstd", ZSTD, zstd.compress(content)),
        ("zstd without a size", ZSTD, unsized(content)),
        ("zstd in two frames", ZSTD, zstd.compress(first) + unsized(second)),
        ("zstd with a skipped frame before", ZSTD, SKIPPED + zstd.compress(content)),
        ("zstd with skipped frames", ZSTD, zstd.compress(content) + SKIPPED * 2),
        ("zstd with an empty frame", ZSTD, zstd.compress(content) + zstd.compress(b"")),
    ]
    for name, codec, data in good:
        yield Case(name, batch(data, 3, codec), 3)


def broken_codecs(event: bytes, key: bytes) -> Iterator[Case]:
    """Yield batches that can't be unpacked."""
    content = packed([Odd(key, event)] * 3)
    member = gzip.compress
    bad: list[tuple[str, int, bytes]] = [
        ("gzip cut off", GZIP, member(content)[:-9]),
        ("gzip with a wrong checksum", GZIP, member(content)[:-8] + bytes(8)),
        ("no gzip", GZIP, b"nothing of the kind"),
        ("nothing", GZIP, b""),
        ("snappy that says it is 4 GB", SNAPPY, b"\xff\xff\xff\xff\x0f" + bytes(20)),
        ("snappy with a negative block", SNAPPY, xerial() + struct.pack(">i", -2) + b"ab"),
        (
            "lz4 with a damaged header",
            LZ4,
            lz4_frame(content)[:6] + b"\x00" + lz4_frame(content)[7:],
        ),
        ("lz4 with linked blocks", LZ4, lz4_frame(content, flags=0x40)),
        ("lz4 cut off", LZ4, lz4_frame(content)[:-4]),
        ("zstd cut off", ZSTD, zstd.compress(content)[:-2]),
        ("zstd with bytes behind", ZSTD, zstd.compress(content) + b"junk"),
        ("a codec of the future", 5, content),
        ("no codec at all", 7, content),
    ]
    for name, codec, data in bad:
        reason = "batch-too-large" if "4 GB" in name else "batch-unreadable"
        yield Case(name, batch(data, 3, codec), None, reason)


def zeros(size: int) -> Iterator[bytes]:
    """Yield a record whose value is that many zeros, 1 MiB at a time."""
    # Attributes, timestamp and offset; no key; the value; no headers.
    head = bytes(3) + _number(-1) + _number(size)
    yield _number(len(head) + size + 1) + head
    yield from [bytes(MIB)] * (size // MIB)
    yield b"\x00"


def headers(name: bytes, count: int, offset: int = 0) -> bytes:
    """Return a record that has nothing but so many headers of one name."""
    head = bytes(2) + _number(offset) + _number(-1) + _number(-1) + _number(count)
    rest = (_counted(name) + _number(-1)) * count
    return _number(len(head) + len(rest)) + head + rest


def bombs() -> Iterator[Case]:
    """Yield small batches that are large."""
    compressor = zstd.ZstdCompressor()
    large = b"".join([*map(compressor.compress, zeros(300 * MIB)), compressor.flush()])
    for name, data, codec in (
        ("300 MiB of zstd", large, ZSTD),
        ("40 MiB of gzip", gzip.compress(b"".join(zeros(40 * MIB)), 1), GZIP),
        ("40 MiB of lz4", lz4_frame(*zeros(40 * MIB)), LZ4),
    ):
        yield Case(name, batch(data, 1, codec), None, "batch-too-large")
    within = zstd.compress(b"".join(zeros(8 * MIB)))
    yield Case("8 MiB of zstd", batch(within, 1, ZSTD), 1, dead=1)
    for name in (b"", b"\xff"):
        content = zstd.compress(headers(name, 10_000_000))
        yield Case(
            f"ten million headers {name!r}", batch(content, 1, ZSTD), None, "batch-too-large"
        )
    content = zstd.compress(b"".join(headers(b"", 900, n) for n in range(2_000)))
    yield Case("two million headers", batch(content, 2_000, ZSTD), 2_000, dead=2_000)
    keys = [b"a" * 20 * MIB, *(b"k%d" % n for n in range(4_000))]
    content = zstd.compress(packed([Odd(key, b"junk") for key in keys]))
    yield Case("20 MiB of a key", batch(content, 4_001, ZSTD), 4_001, dead=4_001)
    keys = [bytes([n % 251]) * (n % 1_100) for n in range(4_000)]
    content = zstd.compress(packed([Odd(key, b"junk") for key in keys]))
    yield Case("keys of 1,100 lengths", batch(content, 4_000, ZSTD), 4_000, dead=4_000)
    # Of an event there is nothing in these.
    yield Case("a skipped frame", batch(SKIPPED, 1, ZSTD), None, "batch-unreadable")
    content = zstd.compress(packed([Odd()]))
    many = content + zstd.compress(b"") * 20_000
    yield Case("20,000 empty frames", batch(many, 1, ZSTD), None, "batch-unreadable")


def fields(event: bytes, key: bytes) -> Iterator[Case]:
    """Yield batches with numbers at their edges, and records with little in them."""
    for name, first, delta in (
        ("before the first year", -9_300_000_000_000_000, 0),
        ("the least", -MOST - 1, 0),
        ("the most", MOST, 0),
        ("the most by a delta", 0, MOST),
        ("the least by a delta", 0, -MOST - 1),
        ("beyond 64 bits", MOST, MOST),
        ("none", -1, 0),
        ("the year 9999", 253_402_300_799_000, 0),
    ):
        content = packed([Odd(key, event, delta=delta)] * 2)
        yield Case(f"timestamp: {name}", batch(content, 2, first=first), 2)
    for name, record in (
        ("neither key nor value", Odd()),
        ("an empty key and no value", Odd(b"")),
        ("no key and an empty value", Odd(None, b"")),
        ("no value but headers", Odd(headers=[(b"a", None), (b"", b"")])),
        ("a header that is no text", Odd(key, event, [(b"\xff", b"\xfe")])),
        (
            "a header of ours",
            Odd(None, None, [(b"jobtrail-run", b"1/2"), (b"jobtrail-place", b"")]),
        ),
        ("10,000 headers", Odd(key, None, [(b"h", None)] * 10_000)),
        ("attributes", Odd(key, event, attributes=0xFF)),
        ("a large key", Odd(os.urandom(600_000), None)),
    ):
        refused = name != "attributes"
        yield Case(f"record: {name}", batch(packed([record]), 1), 1, dead=int(refused))
    for name, offsets in (
        ("twice", (0, 0, 2)),
        ("backwards", (2, 1, 0)),
        ("beyond the end", (0, 1, 3)),
        ("before the beginning", (-1, 1, 2)),
        ("far away", (0, 1, 2**31 - 1)),
    ):
        content = packed([Odd(key, event, offset=offset) for offset in offsets])
        yield Case(f"offsets: {name}", batch(content, 3), None, "batch-unreadable")
    yield Case("a record too many", batch(packed([Odd(key, event)] * 3), 4), 3, "batch-unreadable")
    yield Case("a record that is cut", batch(packed([Odd(key, event)])[:-1], 1), None, "")


def crowds() -> Iterator[Case]:
    """Yield batches of very many records."""
    some = packed([Odd()] * 40_000)
    yield Case("40,000 records of nothing", batch(some, 40_000), 40_000, dead=40_000)
    many = packed([Odd()] * 110_000)
    yield Case("110,000 records of nothing", batch(many, 110_000), None, "batch-too-large")
    many = zstd.compress(many)
    yield Case("the same in zstd", batch(many, 110_000, ZSTD), None, "batch-too-large")
    junk = zstd.compress(packed([Odd(b"k%d" % n, b"junk") for n in range(10_000)]))
    yield Case("10,000 records of junk", batch(junk, 10_000, ZSTD), 10_000, dead=10_000)


def _named_gzip(content: bytes) -> bytes:
    found = io.BytesIO()
    with gzip.GzipFile("name", "wb", fileobj=found) as file:
        file.write(content)
    return found.getvalue()


def all_cases(event: bytes, key: bytes) -> list[Case]:
    """Return all of them."""
    return [
        *codecs(event, key),
        *broken_codecs(event, key),
        *bombs(),
        *fields(event, key),
        *crowds(),
    ]


def with_base(data: bytes, base: int) -> bytes:
    """Return a batch as the broker keeps it at an offset."""
    return struct.pack(">q", base) + data[8:]


def count_of(data: bytes) -> int:
    """Return how many records a batch says that it has."""
    count: int = struct.unpack_from(">i", data, 57)[0]
    return count


async def send(to: AIOKafkaProducer, topic: str, partition: int, data: bytes) -> int | None:
    """Send a batch as it is.

    Args:
        to: A producer that is not idempotent: it would write its number into the batch.
        topic: Where to.
        partition: Likewise.
        data: The batch.

    Returns:
        Its first offset; None where the broker refuses it.
    """
    builder = to.create_batch()
    builder._buffer, builder._closed, builder._relative_offset = bytearray(data), True, 1
    sent = await to.send_batch(builder, topic, partition=partition)
    try:
        return int((await sent).offset)
    except BrokerResponseError:
        return None
