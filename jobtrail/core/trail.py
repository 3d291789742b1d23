"""A job's trail: its entries packed, and what of it lies before the last of them.

The fold appends to the last entries, fewer than `CHUNK_ENTRIES`, and seals them when they are as
many: so an event costs the same however many its job had before. What is sealed is asked for one
thing only: whether it has an event of an id.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from struct import Struct as Layout
from typing import Final, Protocol

#: Key of the event's id, offset, time, state, type * 16 + verdict: 26 bytes, little endian.
TRAIL_LAYOUT: Final = Layout("<8sqqBB")
ENTRY_BYTES: Final = TRAIL_LAYOUT.size
#: A chunk lies by itself, in memory as in a store: with each event fewer entries than this are
#: copied and written.
CHUNK_ENTRIES: Final = 64
CHUNK_BYTES: Final = CHUNK_ENTRIES * ENTRY_BYTES
_KEY_BYTES: Final = 8
#: Keys of a bucket, on average, from which on there are more buckets, and how many times as many.
_FULL: Final = 32
_MORE: Final = 4
#: Entries that are kept in memory before it is looked whether a store has them by now.
MANY: Final = 16 * CHUNK_ENTRIES


def trail_has(trail: bytes, key: bytes) -> bool:
    """Tell whether packed entries hold an event with this key."""
    return _has(trail, key, ENTRY_BYTES)


def _has(content: bytes | bytearray, key: bytes, width: int) -> bool:
    at = content.find(key)
    while at >= 0:
        if at % width == 0:
            return True
        at = content.find(key, at + 1)
    return False


def keys_of(trail: bytes) -> list[bytes]:
    """Return the keys of packed entries, in order."""
    return [key for key, *_ in TRAIL_LAYOUT.iter_unpack(trail)]


class Earlier(Protocol):
    """The entries of a trail that come before the last ones: whole chunks."""

    @property
    def entries(self) -> int:
        """How many there are."""

    def has(self, key: bytes) -> bool:
        """Tell whether an event with this key is among them."""

    def with_chunk(self, chunk: bytes) -> Earlier:
        """Return these entries and a chunk more; this object stays what it is."""

    def kept(self) -> bytes:
        """Return those that are in memory, packed: the last ones of them."""


class _Store:
    """Chunks, and the keys in them by a hash that nobody can work out."""

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
            # Python's hash of bytes has a seed of the process: no ids can be made that all go into
            # one bucket.
            buckets[hash(key) & mask] += key

    def _spread(self) -> None:
        former = self._buckets
        self._buckets = [bytearray() for _ in range(_MORE * len(former))]
        for bucket in former:
            content = bytes(bucket)
            self._put(content[at : at + _KEY_BYTES] for at in range(0, len(content), _KEY_BYTES))

    def has(self, key: bytes) -> bool:
        return _has(self._buckets[hash(key) & (len(self._buckets) - 1)], key, _KEY_BYTES)


class Chunks:
    """Earlier entries that are all in memory: 26 bytes each, and about 12 for its key.

    What is made of one by `with_chunk` shares its chunks, so that nothing is copied as long as
    each is gone on from once.

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
        return self._own().has(key)

    def with_chunk(self, chunk: bytes) -> Chunks:
        """Return these entries and a chunk more; this object stays what it is."""
        store = self._own()
        store.append(chunk)
        more = Chunks.__new__(Chunks)
        more._store, more._count = store, self._count + 1
        return more

    def kept(self) -> bytes:
        """Return them, packed."""
        return b"".join(self._store.chunks[: self._count])

    def since(self, offset: int) -> Chunks:
        """Return those chunks of which any entry lies at an offset of the log or behind it."""
        chunks = self._store.chunks[: self._count]
        last = CHUNK_BYTES - ENTRY_BYTES
        while chunks and TRAIL_LAYOUT.unpack_from(chunks[-1], last)[1] >= offset:
            chunks.pop()
        return Chunks(self._store.chunks[len(chunks) : self._count])

    def _own(self) -> _Store:
        """Return a store with these chunks and no others."""
        if len(self._store.chunks) != self._count:
            # Somebody has gone on from here, and now somebody else does.
            self._store = _Store(self._store.chunks[: self._count])
        return self._store

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Chunks) and self.kept() == other.kept()

    def __hash__(self) -> int:
        return hash((self._count, self.kept()[-ENTRY_BYTES:]))

    def __repr__(self) -> str:
        return f"Chunks(entries={self.entries})"


class Elsewhere:
    """Earlier entries of which the first lie in a store, which is asked for single keys.

    Args:
        stored: How many lie there.
        answers: By key whether it is among them: of the events that are to be folded next.
        added: What was sealed since.
    """

    __slots__ = ("_added", "_answers", "stored")

    def __init__(
        self,
        stored: int,
        answers: Mapping[bytes, bool] | None = None,
        added: Chunks | None = None,
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
        known = self._answers.get(key)
        if known is None:
            raise LookupError(f"the store was not asked for the key {key.hex()} of an event")
        return known or (self._added is not None and self._added.has(key))

    def with_chunk(self, chunk: bytes) -> Elsewhere:
        """Return these entries and a chunk more; this object stays what it is."""
        added = Chunks() if self._added is None else self._added
        return Elsewhere(self.stored, self._answers, added.with_chunk(chunk))

    def kept(self) -> bytes:
        """Return what was sealed since, packed."""
        return b"" if self._added is None else self._added.kept()

    def told(self, answers: Mapping[bytes, bool], *, reaching: int | None = None) -> Elsewhere:
        """Return the same entries with what the store says of the events that are next.

        Args:
            answers: By key whether the store has it.
            reaching: Up to which offset the store has all entries by now, where it has moved on:
                those need not be kept.
        """
        stored, added = self.stored, self._added
        if added is not None and reaching is not None and added.entries > MANY:
            rest = added.since(reaching)
            stored += added.entries - rest.entries
            added = rest
        return Elsewhere(stored, answers, added)

    def __repr__(self) -> str:
        return f"Elsewhere(stored={self.stored}, entries={self.entries})"
