"""The entries of a trail that come before its last ones.

The fold appends to the last entries, fewer than `CHUNK_ENTRIES`, and seals them as a chunk when
there are that many: so an event costs the same however many events its job had before. Sealed
entries are asked only one thing: whether they contain an event with a given key.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final, Protocol

from jobtrail.core.trail import (
    CHUNK_BYTES,
    CHUNK_ENTRIES,
    ENTRY_BYTES,
    KEY_BYTES,
    TRAIL_LAYOUT,
    find_key,
    keys_of,
)

#: Average number of keys in a bucket above which the buckets become more, and by which factor.
_FULL: Final = 32
_GROWTH: Final = 4
#: Entries kept in memory before those that the store has by now are dropped.
TRIM_ENTRIES: Final = 16 * CHUNK_ENTRIES


class Earlier(Protocol):
    """The entries of a trail that come before its last ones: complete chunks."""

    @property
    def entries(self) -> int:
        """How many there are."""

    def has(self, key: bytes) -> bool:
        """Tell whether an event with this key is among them."""

    def with_chunk(self, chunk: bytes) -> Earlier:
        """Return these entries and one more chunk; this object does not change."""

    def kept(self) -> bytes:
        """Return those that are in memory, packed: the latest ones."""


class _Store:
    """Chunks, and their keys in buckets by a hash that no sender can predict."""

    __slots__ = ("_buckets", "_keys", "chunks")

    def __init__(self, chunks: Iterable[bytes] = ()) -> None:
        self.chunks: list[bytes] = []
        self._buckets = [bytearray()]
        self._keys = 0
        for chunk in chunks:
            self.append(chunk)

    def append(self, chunk: bytes) -> None:
        self.chunks.append(chunk)
        keys = keys_of(chunk)
        self._keys += len(keys)
        if self._keys > _FULL * len(self._buckets):
            self._spread()
        self._put(keys)

    def _put(self, keys: Iterable[bytes]) -> None:
        buckets, mask = self._buckets, len(self._buckets) - 1
        for key in keys:
            # Python's hash of bytes is seeded per process: nobody can choose ids that all go into
            # one bucket.
            buckets[hash(key) & mask] += key

    def _spread(self) -> None:
        old_buckets = self._buckets
        self._buckets = [bytearray() for _ in range(_GROWTH * len(old_buckets))]
        for bucket in old_buckets:
            content = bytes(bucket)
            self._put(content[at : at + KEY_BYTES] for at in range(0, len(content), KEY_BYTES))

    def has(self, key: bytes) -> bool:
        return find_key(self._buckets[hash(key) & (len(self._buckets) - 1)], key, KEY_BYTES)


class MemoryChunks:
    """Earlier entries that are all in memory: 26 bytes each, and about 12 for its key.

    An object made by `with_chunk` shares the chunks of the one that it was made from: nothing is
    copied as long as each object is extended only once.

    Args:
        chunks: Of `CHUNK_BYTES` each.
    """

    __slots__ = ("_count", "_store")

    def __init__(self, chunks: Iterable[bytes] = ()) -> None:
        self._store = _Store(chunks)
        self._count = len(self._store.chunks)

    @property
    def entries(self) -> int:
        """How many there are."""
        return self._count * CHUNK_ENTRIES

    def has(self, key: bytes) -> bool:
        """Tell whether an event with this key is among them."""
        return self._unshared().has(key)

    def with_chunk(self, chunk: bytes) -> MemoryChunks:
        """Return these entries and one more chunk; this object does not change."""
        store = self._unshared()
        store.append(chunk)
        more = MemoryChunks.__new__(MemoryChunks)
        more._store, more._count = store, self._count + 1
        return more

    def kept(self) -> bytes:
        """Return them, packed."""
        return b"".join(self._store.chunks[: self._count])

    def since(self, offset: int) -> MemoryChunks:
        """Return the chunks with any entry at or after an offset of the log."""
        chunks = self._store.chunks[: self._count]
        last = CHUNK_BYTES - ENTRY_BYTES
        while chunks and TRAIL_LAYOUT.unpack_from(chunks[-1], last)[1] >= offset:
            chunks.pop()
        return MemoryChunks(self._store.chunks[len(chunks) : self._count])

    def _unshared(self) -> _Store:
        """Return a store with these chunks only; a copy where another object has added to it."""
        if len(self._store.chunks) != self._count:
            self._store = _Store(self._store.chunks[: self._count])
        return self._store

    def __eq__(self, other: object) -> bool:
        return isinstance(other, MemoryChunks) and self.kept() == other.kept()

    def __hash__(self) -> int:
        return hash((self._count, self.kept()[-ENTRY_BYTES:]))

    def __repr__(self) -> str:
        return f"MemoryChunks(entries={self.entries})"


class StoredEntries:
    """Earlier entries of which the first are in a store, which is asked for single keys.

    Args:
        stored: How many the store has.
        answers: By key whether the store has it, for the events that are folded next.
        added: Chunks sealed since.
    """

    __slots__ = ("_added", "_answers", "stored")

    def __init__(
        self,
        stored: int,
        answers: Mapping[bytes, bool] | None = None,
        added: MemoryChunks | None = None,
    ) -> None:
        self.stored = stored
        self._answers = answers or {}
        self._added = added

    @property
    def entries(self) -> int:
        """How many there are."""
        return self.stored + (0 if self._added is None else self._added.entries)

    def has(self, key: bytes) -> bool:
        """Tell whether an event with this key is among them.

        Raises:
            LookupError: The store was not asked for it.
        """
        stored = self._answers.get(key)
        if stored is None:
            raise LookupError(f"the store was not asked for the key {key.hex()} of an event")
        return stored or (self._added is not None and self._added.has(key))

    def with_chunk(self, chunk: bytes) -> StoredEntries:
        """Return these entries and one more chunk; this object does not change."""
        added = MemoryChunks() if self._added is None else self._added
        return StoredEntries(self.stored, self._answers, added.with_chunk(chunk))

    def kept(self) -> bytes:
        """Return the chunks sealed since, packed."""
        return b"" if self._added is None else self._added.kept()

    def with_answers(
        self, answers: Mapping[bytes, bool], *, stored_to: int | None = None
    ) -> StoredEntries:
        """Return the same entries with the store's answers for the events that come next.

        Args:
            answers: By key whether the store has it.
            stored_to: The offset before which the store has all entries by now; those need no
                memory. None where the store has not moved on.
        """
        stored, added = self.stored, self._added
        if added is not None and stored_to is not None and added.entries > TRIM_ENTRIES:
            rest = added.since(stored_to)
            stored += added.entries - rest.entries
            added = rest
        return StoredEntries(stored, answers, added)

    def __repr__(self) -> str:
        return f"StoredEntries(stored={self.stored}, entries={self.entries})"
