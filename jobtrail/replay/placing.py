"""Which partitions keys belong to, for many keys at once: `jobtrail.partitions` in columns."""

from __future__ import annotations

from typing import Final, TypeAlias

import numpy as np
import pyarrow as pa

_SEED: Final = 0x9747B28C
_FACTOR: Final = np.uint32(0x5BD1E995)

_Hashes: TypeAlias = np.ndarray[tuple[int], np.dtype[np.uint32]]
_Numbers: TypeAlias = np.ndarray[tuple[int], np.dtype[np.int64]]


def partitions_of(keys: pa.BinaryArray, partitions: int) -> _Numbers:
    """Return the partition of each key in a log of `partitions` partitions.

    Args:
        keys: The keys; what is returned for a null has no meaning.
        partitions: How many there are.
    """
    _, offsets, data = keys.buffers()
    begins = np.frombuffer(offsets, np.int32)[keys.offset : keys.offset + len(keys) + 1]
    content = np.frombuffer(data, np.uint8) if data is not None else np.empty(0, np.uint8)
    lengths = np.diff(begins)
    hashes = np.empty(len(keys), np.uint32)
    # Keys of one length take the same steps, each of which is taken for all of them together.
    for length in np.unique(lengths):
        rows = np.flatnonzero(lengths == length)
        places = begins[rows][:, None] + np.arange(length)
        hashes[rows] = _murmur2(content[places], int(length))
    return (hashes & np.uint32(0x7FFFFFFF)).astype(np.int64) % partitions


def _murmur2(keys: np.ndarray[tuple[int, int], np.dtype[np.uint8]], length: int) -> _Hashes:
    """Return Kafka's hash of keys of one length; unsigned numbers wrap round as they have to."""
    tail = length & 3
    whole = np.ascontiguousarray(keys[:, : length - tail])
    words = whole.view("<u4").astype(np.uint32, copy=False)
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
