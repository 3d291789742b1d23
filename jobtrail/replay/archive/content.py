"""What the records of a segment are, as one hash: the same records give the same hash.

It is computed on records, not on a file: so a file can be compared with the log that it was
written from, whatever wrote the file and however it is compressed. docs/archive.md has the rule.
"""

from __future__ import annotations

import hashlib
import struct
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyarrow import compute

_NAME: Final = b"jobtrail-records-1"
#: Of each record: its own values, then what it is made of. A length of -1 stands for null.
_STREAMS: Final = (
    *("offset", "logged_at", "key length", "key", "value length", "value"),
    *("headers", "name length", "name", "content length", "content"),
)
_Numbers = npt.NDArray[np.int64]


class Content:
    """The hash of the records of one partition, fed in log order in batches of any size.

    Every column is hashed as a stream of its own, whole buffers at a time, so that the hash
    depends on the records alone and costs next to nothing.

    Args:
        partition: The partition of all of them.
    """

    def __init__(self, partition: int) -> None:
        self._partition = partition
        self._hashes = [hashlib.sha256() for _ in _STREAMS]
        self.count = 0

    def add(self, records: pa.RecordBatch) -> None:
        """Take the next records, a batch of `schemas.RECORDS`."""
        self.count += len(records)
        _, offset, logged_at, key, value, headers = records.columns
        names, contents = _headers(headers)
        parts = (
            numbers(offset).data,
            numbers(logged_at.cast(pa.int64())).data,
            lengths(key).data,
            _bytes(key),
            lengths(value).data,
            _bytes(value),
            # A record without headers has no other kind of none.
            numbers(compute.fill_null(compute.list_value_length(headers), 0)).data,
            lengths(names).data,
            _bytes(names),
            lengths(contents).data,
            _bytes(contents),
        )
        for hashed, part in zip(self._hashes, parts, strict=True):
            hashed.update(part)

    def digest(self) -> str:
        """Return the hash, as `sha256:` and hexadecimal digits."""
        whole = hashlib.sha256(_NAME + struct.pack("<iq", self._partition, self.count))
        for hashed in self._hashes:
            whole.update(hashed.digest())
        return f"sha256:{whole.hexdigest()}"


def numbers(array: pa.Array) -> _Numbers:
    """Return integers without a null as 64-bit little-endian numbers."""
    found: _Numbers = array.to_numpy(zero_copy_only=False).astype("<i8", copy=False)
    return np.ascontiguousarray(found)


def lengths(array: pa.Array) -> _Numbers:
    """Return how many bytes each value has, -1 for null."""
    return numbers(compute.fill_null(compute.binary_length(array), -1))


def sizes(records: pa.RecordBatch) -> _Numbers:
    """Return how many bytes each record holds: its key, its value and its headers."""
    _, _, _, key, value, headers = records.columns
    own: _Numbers = np.maximum(lengths(key), 0) + np.maximum(lengths(value), 0)
    names, contents = _headers(headers)
    if not len(names):
        return own
    each = np.maximum(lengths(names), 0) + np.maximum(lengths(contents), 0)
    upto = np.concatenate(([0], np.cumsum(each)))
    behind = np.cumsum(numbers(compute.fill_null(compute.list_value_length(headers), 0)))
    total: _Numbers = own + np.diff(upto[behind], prepend=0)
    return total


def _headers(headers: pa.ListArray) -> tuple[pa.BinaryArray, pa.BinaryArray]:
    """Return the names and the contents of all headers, one behind the other."""
    names, contents = headers.flatten().flatten()
    return names, contents


def _bytes(array: pa.BinaryArray) -> memoryview:
    """Return all values' bytes, one behind the other."""
    if array.null_count:
        # What lies in the buffer under a null is anyone's guess.
        array = compute.fill_null(array, b"")
    _, offsets, data = array.buffers()
    if data is None or not len(array):
        return memoryview(b"")
    places = np.frombuffer(offsets, dtype=np.int32)
    begin, end = places[array.offset], places[array.offset + len(array)]
    return memoryview(data)[begin:end]
