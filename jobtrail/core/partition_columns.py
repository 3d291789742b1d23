"""Which partitions keys belong to, for many keys at once: `jobtrail.core.partitions` in columns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, TypeAlias

import numpy as np

from jobtrail.core.events import MAX_NAME_BYTES
from jobtrail.core.partitions import partition_of, partition_of_key

_SEED: Final = 0x9747B28C
_FACTOR: Final = np.uint32(0x5BD1E995)

_Hashes: TypeAlias = np.ndarray[tuple[int], np.dtype[np.uint32]]
_Numbers: TypeAlias = np.ndarray[tuple[int], np.dtype[np.int64]]
_Bytes: TypeAlias = np.ndarray[tuple[int], np.dtype[np.uint8]]


#: Up to this many keys, or keys of one length, are hashed one by one, which is faster than numpy:
#: else keys of very many lengths would take long.
_FEW: Final = 16


def partitions_of(keys: Sequence[bytes], partitions: int) -> list[int]:
    """Return the partition of each key in a log of `partitions` partitions.

    Args:
        keys: Job ids in UTF-8.
        partitions: How many there are.
    """
    if len(keys) <= _FEW:
        return [partition_of(key.decode(), partitions) for key in keys]
    ends = np.cumsum(np.fromiter(map(len, keys), np.int64, len(keys)))
    content = np.frombuffer(b"".join(keys), np.uint8)
    found: list[int] = partitions_within(content, np.append(0, ends), partitions).tolist()
    return found


def partitions_within(content: _Bytes, begins: _Numbers, partitions: int) -> _Numbers:
    """Return the partition of each key in an array.

    Args:
        content: The keys, concatenated.
        begins: Where each begins, and where the last one ends.
        partitions: How many there are.

    Returns:
        -1 for a key that is longer than any job's id: it may have megabytes.
    """
    lengths = np.diff(begins)
    found = np.full(len(lengths), -1, np.int64)
    for length, count in zip(*np.unique(lengths, return_counts=True), strict=True):
        if length > MAX_NAME_BYTES:
            break
        rows = np.flatnonzero(lengths == length)
        if count <= _FEW:
            for row in rows:
                key = content[begins[row] : begins[row + 1]].tobytes()
                found[row] = partition_of_key(key, partitions)
            continue
        # Keys of one length take the same steps, each of which is taken for all of them together.
        places = begins[rows][:, None] + np.arange(length)
        hashes = _murmur2(content[places], int(length)) & np.uint32(0x7FFFFFFF)
        found[rows] = hashes.astype(np.int64) % partitions
    return found


def _murmur2(keys: np.ndarray[tuple[int, int], np.dtype[np.uint8]], length: int) -> _Hashes:
    """Return Kafka's hash of keys of one length; unsigned numbers wrap round as they have to."""
    tail = length & 3
    blocks = np.ascontiguousarray(keys[:, : length - tail])
    words = blocks.view("<u4").astype(np.uint32, copy=False)
    mixed: _Hashes = np.full(len(keys), _SEED ^ length, np.uint32)
    for column in range(words.shape[1]):
        scrambled = words[:, column] * _FACTOR
        mixed = mixed * _FACTOR ^ (scrambled ^ scrambled >> np.uint32(24)) * _FACTOR
    if tail:
        rest = np.zeros(len(keys), np.uint32)
        for place in range(tail):
            rest |= keys[:, length - tail + place].astype(np.uint32) << np.uint32(8 * place)
        mixed = (mixed ^ rest) * _FACTOR
    mixed = (mixed ^ mixed >> np.uint32(13)) * _FACTOR
    return mixed ^ mixed >> np.uint32(15)
