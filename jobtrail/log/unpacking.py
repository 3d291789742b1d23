"""Decompressing a batch's records piece by piece, up to a limit.

13 KB can be 300 MiB of records. And the libraries' own decompressors refuse what Kafka's broker,
which decompresses every batch to check it, has accepted: bytes after the end of gzip's data,
several streams in a row, headers of another version. So here each codec is read as Kafka's Java
does, in
pieces: https://github.com/apache/kafka, `org.apache.kafka.common.compress`.
"""

from __future__ import annotations

import struct
import sys
import zlib
from collections.abc import Callable, Iterator
from typing import Final

import cramjam
from xxhash import xxh32_intdigest

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

#: Bytes that are decompressed at a time: about a millisecond.
PIECE: Final = 1024 * 1024
#: The attributes of a batch: https://kafka.apache.org/documentation/#recordbatch
NAMES: Final = {0: "none", 1: "gzip", 2: "snappy", 3: "lz4", 4: "zstd"}
#: Streams in one batch at most: 10 bytes make one, and each takes 10 microseconds.
_STREAMS: Final = 10_000

_GZIP: Final = b"\x1f\x8b\x08"
#: zlib reads one gzip member with this window, and checks its trailer.
_GZIP_WINDOW: Final = 16 + zlib.MAX_WBITS
_FED: Final = 16 * 1024
_ZSTD_SKIPPED: Final = frozenset(bytes((low, 0x2A, 0x4D, 0x18)) for low in range(0x50, 0x60))
_ZSTD_LENGTH: Final = struct.Struct("<4xI")
_XERIAL: Final = b"\x82SNAPPY\x00"
#: The version, and the oldest one that can read it.
_XERIAL_VERSIONS: Final = struct.Struct(">8xii")
_XERIAL_LENGTH: Final = struct.Struct(">i")
#: Where one stream follows another, its header stands in the place of a length.
_XERIAL_NEXT: Final = _XERIAL_LENGTH.unpack(_XERIAL[:4])[0]
_LZ4: Final = b"\x04\x22\x4d\x18"
_LZ4_LENGTH: Final = struct.Struct("<I")
#: The most bytes that one byte can expand to:
#: https://github.com/lz4/lz4/blob/dev/doc/lz4_Block_format.md
_LZ4_RATIO: Final = 255
_LZ4_STORED: Final = 1 << 31
_LZ4_BLOCK_BYTES: Final = {4: 1 << 16, 5: 1 << 18, 6: 1 << 20, 7: 1 << 22}


class Unpackable(Exception):
    """Bytes that can't be decompressed; the text has the reason."""


class TooLarge(Exception):
    """Bytes that unpack to more than the bound."""


def unpack(codec: int, data: memoryview, limit: int) -> Iterator[bytes]:
    """Unpack the records of a batch, piece by piece.

    Args:
        codec: As in `NAMES`, not 0.
        data: The batch after its header.
        limit: The most bytes after decompression.

    Yields:
        The next piece; of zlib and zstd `PIECE` bytes at most, of the others one block.

    Raises:
        Unpackable: The bytes are not valid for the codec, or Kafka has no such codec.
        TooLarge: There is more than the limit.
    """
    try:
        pieces = _CODECS[codec]
    except KeyError:
        raise Unpackable(f"Kafka has no codec {codec}") from None
    left = limit
    try:
        for piece in pieces(data, limit):
            left -= len(piece)
            if left < 0:
                raise TooLarge
            yield piece
    except (zlib.error, zstd.ZstdError, cramjam.DecompressionError, struct.error) as error:
        raise Unpackable(f"{type(error).__name__}: {error}") from None


def _begins(data: memoryview, at: int, magic: bytes) -> bool:
    return bytes(data[at : at + len(magic)]) == magic


def _gunzip(data: memoryview, _limit: int) -> Iterator[bytes]:
    """Unpack consecutive members; other bytes after a member are ignored."""
    at = streams = 0
    while at == 0 or _begins(data, at, _GZIP):
        streams = _one_more(streams)
        member = zlib.decompressobj(_GZIP_WINDOW)
        begin, came = at, False
        fed: bytes | memoryview = b""
        while not member.eof:
            if not fed:
                # Little at a time: unused input is copied.
                fed = data[at : at + _FED]
                at += len(fed)
            try:
                if not fed:
                    raise zlib.error("it ends within")
                piece = member.decompress(fed, PIECE)
            except zlib.error:
                if came or begin == 0:
                    raise
                # It only resembles the beginning of another.
                return
            fed = member.unconsumed_tail
            came = came or bool(piece)
            yield piece
        at -= len(member.unused_data)


def _one_more(streams: int) -> int:
    if streams == _STREAMS:
        raise Unpackable(f"more than {_STREAMS:,} streams in a row")
    return streams + 1


def _unzstd(data: memoryview, _limit: int) -> Iterator[bytes]:
    """Unpack consecutive frames; skippable frames are passed over."""
    at = streams = 0
    while at < len(data):
        if data[at : at + 4] in _ZSTD_SKIPPED:
            at += _ZSTD_LENGTH.size + _ZSTD_LENGTH.unpack_from(data, at)[0]
            if at > len(data):
                raise Unpackable("zstd: it ends within a frame that is skipped")
            continue
        streams = _one_more(streams)
        end = at + zstd.get_frame_size(data[at:])
        frame = zstd.ZstdDecompressor()
        fed = data[at:end]
        while not frame.eof:
            yield frame.decompress(fed, PIECE)
            fed = data[:0]
        at = end


def _unsnap(data: memoryview, limit: int) -> Iterator[bytes]:
    """Unpack raw snappy, or the framing of the Java library, also several streams in a row."""
    if len(data) < _XERIAL_VERSIONS.size or not _begins(data, 0, _XERIAL):
        yield _unsnap_block(data, limit)
        return
    _check_xerial(data)
    at, left = _XERIAL_VERSIONS.size, limit
    # Fewer bytes than a length has are ignored.
    while at + _XERIAL_LENGTH.size <= len(data):
        (length,) = _XERIAL_LENGTH.unpack_from(data, at)
        if length == _XERIAL_NEXT and _begins(data, at, _XERIAL):
            _check_xerial(data[at:])
            at += _XERIAL_VERSIONS.size
            continue
        at += _XERIAL_LENGTH.size
        if not 0 < length <= len(data) - at:
            raise Unpackable(f"snappy: a block of {length} bytes, where {len(data) - at} follow")
        piece = _unsnap_block(data[at : at + length], left)
        left -= len(piece)
        at += length
        yield piece


def _check_xerial(data: memoryview) -> None:
    version, _compatible = _XERIAL_VERSIONS.unpack_from(data)
    if version < 1:
        raise Unpackable(f"snappy: version {version} of the framing")


def _unsnap_block(data: memoryview, limit: int) -> bytes:
    # Before memory is allocated: the length comes from outside.
    if cramjam.snappy.decompress_raw_len(data) > limit:
        raise TooLarge
    return bytes(cramjam.snappy.decompress_raw(data))


def _unlz4(data: memoryview, _limit: int) -> Iterator[bytes]:
    """Unpack the blocks of one frame; what follows on it is ignored.

    https://github.com/lz4/lz4/blob/dev/doc/lz4_Frame_format.md
    """
    if not _begins(data, 0, _LZ4):
        raise Unpackable("lz4: it does not begin with a frame")
    flags, sizes = struct.unpack_from("<BB", data, len(_LZ4))
    largest = _LZ4_BLOCK_BYTES.get(sizes >> 4 & 7)
    if flags >> 6 != 1 or largest is None:
        raise Unpackable(f"lz4: a frame with the flags {flags:#04x} {sizes:#04x}")
    if not flags & 0x20:
        raise Unpackable("lz4: blocks that depend on each other, which Kafka does not have")
    at = len(_LZ4) + 2 + 8 * bool(flags & 0x08) + 4 * bool(flags & 0x01)
    if at >= len(data) or data[at] != xxh32_intdigest(data[len(_LZ4) : at]) >> 8 & 0xFF:
        raise Unpackable("lz4: the frame's header is damaged")
    at += 1
    room = memoryview(bytearray(min(largest, _LZ4_RATIO * len(data))))
    while length := _LZ4_LENGTH.unpack_from(data, at)[0]:
        at += _LZ4_LENGTH.size
        is_stored, length = length & _LZ4_STORED, length & ~_LZ4_STORED
        if length > min(largest, len(data) - at):
            raise Unpackable(f"lz4: a block of {length} bytes, where {len(data) - at} follow")
        block = data[at : at + length]
        if is_stored:
            yield bytes(block)
        else:
            yield bytes(room[: cramjam.lz4.decompress_block_into(block, room)])
        # A checksum may follow: the batch has one of its own.
        at += length + 4 * bool(flags & 0x10)


_CODECS: Final[dict[int, Callable[[memoryview, int], Iterator[bytes]]]] = {
    1: _gunzip,
    2: _unsnap,
    3: _unlz4,
    4: _unzstd,
}
