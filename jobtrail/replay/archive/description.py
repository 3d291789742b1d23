"""What an archive of the log is made of: a description, and per segment a file and a manifest.

    archive.json                                              which log it is of
    partition-00003/<first>-<last>-<hash>.parquet             the records of a segment
    partition-00003/<first>-<last>.json                       its manifest, written last

A segment is there when its manifest is. Segments of a partition begin at multiples of a fixed
count of records, the first one where the log began; so every run makes the same ones. The
last may be shorter (`--all`): the longest segment that begins at an offset is the one that counts,
and what lies within it is deleted.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple, Self, TypeVar

import msgspec

from jobtrail.core.errors import ArchiveError
from jobtrail.replay.archive.place import ArchiveStore
from jobtrail.replay.archive.segment_files import FileSummary

_T = TypeVar("_T", bound=msgspec.Struct)
DESCRIPTION: Final = "archive.json"
_FORMAT: Final = 1
_MANIFEST: Final = re.compile(r"partition-(\d{5,})/(\d{20})-(\d{20})\.json")
_FILE: Final = re.compile(r"partition-(\d{5,})/(\d{20})-(\d{20})-[0-9a-f]{16}\.parquet")


class LogName(NamedTuple):
    """Which log: a cluster's id, as Kafka gives it, and a topic."""

    cluster: str
    topic: str


class Description(msgspec.Struct, frozen=True, kw_only=True):
    """What `archive.json` says: it never changes."""

    format: int = _FORMAT
    cluster: str
    topic: str
    partitions: int
    #: Offsets of closed segments begin at multiples of this.
    segment_records: int
    #: Where the log began when the archive was made, per partition.
    begins: tuple[int, ...]


class Span(NamedTuple):
    """A range of one partition's offsets, both ends included."""

    partition: int
    first: int
    last: int

    @property
    def length(self) -> int:
        """How many offsets it has."""
        return self.last - self.first + 1

    @property
    def manifest(self) -> str:
        """The name of its manifest."""
        return f"{self._stem}.json"

    def file(self, file_hash: str) -> str:
        """Return the name of its file: other bytes are another file, and nothing is overwritten."""
        return f"{self._stem}-{file_hash.partition(':')[2][:16]}.parquet"

    @property
    def _stem(self) -> str:
        return f"partition-{self.partition:05}/{self.first:020}-{self.last:020}"


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What a segment's manifest says."""

    format: int = _FORMAT
    partition: int
    #: Offsets, both included. Those without a record hold control records, aborted transactions,
    #: or what compaction took out: nothing is missing but in `holes`.
    first: int
    last: int
    count: int
    #: The hash of the records as they were read from the log: see docs/archive.md.
    content: str
    #: The name of the file from the archive's root, its size in bytes and its hash.
    file: str
    file_bytes: int
    file_hash: str
    #: First and last offsets of what the log had lost within the segment, in order; not said where
    #: it had lost nothing.
    holes: tuple[tuple[int, int], ...] | msgspec.UnsetType = msgspec.UNSET

    @property
    def span(self) -> Span:
        """The range of offsets."""
        return Span(self.partition, self.first, self.last)

    @property
    def held(self) -> FileSummary:
        """What is in the file."""
        return FileSummary(self.first, self.count, self.span.length - self.count)


class Archive:
    """An archive's description and segments; `refresh` looks which there are.

    Args:
        store: Where it lies.
        description: What its `archive.json` says.
    """

    def __init__(self, store: ArchiveStore, description: Description) -> None:
        self.store = store
        self.description = description
        #: Every segment with a manifest, and those of them that count, in order, per partition.
        self.found: dict[int, list[Span]] = {}
        self.spans: dict[int, list[Span]] = {}
        self.refresh()

    @classmethod
    def open(cls, location: str) -> Self:
        """Open the archive in a folder or at `s3://bucket/prefix`.

        Raises:
            ArchiveError: There is none, or none that this version reads.
        """
        store = ArchiveStore.open(location)
        description = read_description(store)
        if description is None:
            raise ArchiveError(
                "There is no archive.",
                where=store.location,
                expected=DESCRIPTION,
                hint="Make one with `jobtrail archive --to`.",
            )
        return cls(store, description)

    def refresh(self) -> None:
        """Look again which segments there are."""
        found: dict[int, set[Span]] = {p: set() for p in range(self.description.partitions)}
        for name in self.store.names():
            if match := _MANIFEST.fullmatch(name):
                span = Span(*map(int, match.groups()))
                found.setdefault(span.partition, set()).add(span)
        for partition in range(self.description.partitions):
            self._set(partition, found[partition])

    def begins(self) -> dict[int, int]:
        """Return the first offset of each partition."""
        return dict(enumerate(self.description.begins))

    def ends(self) -> dict[int, int]:
        """Return the offset behind the last segment of each partition."""
        begins = self.begins()
        return {p: spans[-1].last + 1 if spans else begins[p] for p, spans in self.spans.items()}

    def manifest(self, span: Span) -> Manifest:
        """Return the manifest of a segment.

        Raises:
            FileNotFoundError: It is there no more: a longer segment took its place.
            ArchiveError: It can't be read, or is no manifest of this segment.
        """
        manifest = _decoded(self.store, span.manifest, Manifest)
        if manifest.span != span or not 0 <= manifest.count <= span.length:
            raise damaged_json(self.store, span.manifest, "what another segment has")
        return manifest

    def publish(self, manifest: Manifest) -> None:
        """Let a segment count whose file is there."""
        span = manifest.span
        self.store.write(span.manifest, _encoded(manifest))
        self._set(span.partition, {*self.found[span.partition], span})

    def forget(self, span: Span) -> None:
        """Delete a segment that lies within another: what says that it counts goes first."""
        # Else somebody was faster.
        with contextlib.suppress(FileNotFoundError):
            file = self.manifest(span).file
            self.store.delete(span.manifest)
            self.store.delete(file)
        self._set(span.partition, {*self.found[span.partition]} - {span})

    def within(self, span: Span) -> bool:
        """Tell whether a segment lies within another one that counts."""
        return any(
            other.first <= span.first and span.last <= other.last and other != span
            for other in self.spans[span.partition]
        )

    def _set(self, partition: int, found: set[Span]) -> None:
        self.found[partition] = sorted(found)
        self.spans[partition] = chain(self.description.begins[partition], found)


def chain(begin: int, found: Iterable[Span]) -> list[Span]:
    """Return the segments of a partition that count: from each offset on, the longest.

    Args:
        begin: Where the archive begins.
        found: Every segment that is there.
    """
    chosen: list[Span] = []
    for span in sorted(found, key=lambda span: (span.first, -span.last)):
        if span.first >= begin:
            chosen.append(span)
            begin = span.last + 1
    return chosen


def read_description(store: ArchiveStore) -> Description | None:
    """Return what the archive says of itself; None where there is no archive.

    Raises:
        ArchiveError: It can't be read, or this version does not know its format.
    """
    try:
        found = _decoded(store, DESCRIPTION, Description)
    except FileNotFoundError:
        return None
    if found.format != _FORMAT or len(found.begins) != found.partitions:
        raise damaged_json(store, DESCRIPTION, f"format {found.format}")
    return found


def write_description(store: ArchiveStore, description: Description) -> None:
    """Make an archive."""
    store.write(DESCRIPTION, _encoded(description))


def file_span(name: str) -> Span | None:
    """Return the segment that a file is of; None where it is no file of records."""
    match = _FILE.fullmatch(name)
    return Span(*map(int, match.groups())) if match else None


def missing(partition: int, spans: Iterable[Span], begin: int, end: int) -> list[Span]:
    """Return the ranges between two offsets that no segment holds.

    Args:
        partition: The partition.
        spans: Its segments that count, in order.
        begin: The first offset.
        end: The offset to stop before.
    """
    holes: list[Span] = []
    for span in spans:
        if span.first >= end:
            break
        if span.first > begin:
            holes.append(Span(partition, begin, span.first - 1))
        begin = max(begin, span.last + 1)
    if begin < end:
        holes.append(Span(partition, begin, end - 1))
    return holes


def differing(kept: Mapping[str, object], log: Mapping[str, object], where: str) -> None:
    """Check that an archive and a log say the same of themselves.

    Raises:
        ArchiveError: They don't: the archive is of another log.
    """
    wrong = [name for name in kept if kept[name] != log[name]]
    if wrong:
        raise ArchiveError(
            "The archive is of another log.",
            where=where,
            expected=", ".join(f"{name} {kept[name]}" for name in wrong),
            found=", ".join(f"{name} {log[name]}" for name in wrong),
            hint="Name the log that it is of, or another place for this log's archive.",
        )


def damaged_json(store: ArchiveStore, name: str, found: str) -> ArchiveError:
    """Return the error that says that a description or manifest is damaged."""
    return ArchiveError(
        "A file of the archive can't be understood.",
        where=store.place(name),
        found=found,
        hint="Put back a copy of it, or use a newer jobtrail. A manifest can also be deleted: "
        "`jobtrail archive` makes it again while the log still has its records.",
    )


def _encoded(value: msgspec.Struct) -> bytes:
    return msgspec.json.format(msgspec.json.encode(value), indent=1) + b"\n"


def _decoded(store: ArchiveStore, name: str, kind: type[_T]) -> _T:
    try:
        return msgspec.json.decode(store.read(name), type=kind)
    except msgspec.MsgspecError as error:
        raise damaged_json(store, name, str(error)) from None
