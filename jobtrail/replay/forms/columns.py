"""What records of known forms say, as Arrow columns."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from jobtrail.core import events as ev
from jobtrail.core.fold import FIRST, LAST
from jobtrail.replay.forms.learning import Form, form_of
from jobtrail.replay.forms.reading import Flags, Match, Numbers, Values
from jobtrail.replay.schemas import EVENTS

_NAMES: Final = pa.array(ev.TYPE_NAMES, pa.string())
_CREATED: Final = ev.EVENT_TYPES.index(ev.Created)
_NOT: Final = -1
_INSTANT: Final = EVENTS.field("time").type
#: What stands where in an instant in UTC, by bytes from its begin: `2026-11-23T13:00:00Z`.
_PUNCTUATION: Final = {4: "-", 7: "-", 10: "T", 13: ":", 16: ":"}
_SECONDS: Final = len("2026-11-23T13:00:00Z")
#: How `details` begin, by the type's code.
_DETAILS: Final = pa.array(
    [
        {ev.Active: '{"worker":', ev.Progress: '{"message":'}.get(k, '{"reason":')
        for k in ev.EVENT_TYPES
    ]
)
_TEXTS: Final = ("id", "source", "job_type", "owner", "bulk_id", "error", "output", "bound_to")
#: How many forms are known at a time, how many records of a batch are looked at for further ones,
#: and of a whole log.
_FORMS: Final = 64
_LOOKED_AT: Final = 64
_LOOKS: Final = 2_048


class Forms:
    """The forms that were learned of a log so far."""

    def __init__(self) -> None:
        self._by_quotes: dict[int, list[Form]] = {}
        self._known: set[Form] = set()
        self._looks = _LOOKS

    def learn(self, value: bytes, event: ev.Event) -> None:
        """Learn the form of a record that the decoder took."""
        form = form_of(value, event)
        if form is not None and form not in self._known and len(self._known) < _FORMS:
            self._known.add(form)
            self._by_quotes.setdefault(form.quotes, []).append(form)

    def wanted(self, parsed: int) -> range:
        """Return which of so many parsed records to learn from: some, and none in the end."""
        chosen = range(0, parsed, max(1, parsed // _LOOKED_AT))[: min(_LOOKED_AT, self._looks)]
        self._looks -= len(chosen)
        return chosen

    def matches(self, values: Values) -> list[Match]:
        """Return the records of known forms, each once."""
        found = []
        free = np.ones(len(values.counts), np.bool_)
        for quotes, forms in self._by_quotes.items():
            rows = np.flatnonzero(values.counts == quotes)
            for form in forms:
                if not len(rows):
                    break
                match = Match(form, values, rows)
                if len(match.rows):
                    found.append(match)
                    free[match.rows] = False
                    rows = rows[free[rows]]
        return found


class Read(NamedTuple):
    """What was read of some records."""

    #: For each record, whether it is an event of a known form.
    known: Flags
    #: Of `schemas.EVENTS`, but for what is said by a record's place; rows mean nothing where
    #: nothing is known.
    columns: dict[str, pa.Array]


def read(records: pa.RecordBatch, doubtful: Flags, forms: Forms) -> Read:
    """Read those records that are of a known form.

    Args:
        records: Of `schemas.RECORDS`.
        doubtful: Which of them are not to be looked at.
        forms: What is known.
    """
    values = Values(records.column("value"), doubtful)
    matches = forms.matches(values)
    places = _Places(values, len(records), matches)
    kinds = places.kinds()
    known = kinds != _NOT
    subjects = places.texts("subject")
    same = pc.equal(subjects.cast(pa.binary()), records.column("key"))
    known &= same.fill_null(False).to_numpy(zero_copy_only=False)
    codes = pa.array(kinds, mask=kinds == _NOT)
    columns = {
        **{name: places.texts(name) for name in _TEXTS},
        "type": _NAMES.take(codes),
        "time": _times(places, known),
        "attempt": places.figures("attempt", np.int32),
        "progress": places.figures("progress", np.float64),
        "viewers": places.named("viewers", kinds == _CREATED),
        "writers": places.named("writers", kinds == _CREATED),
        "tags": places.tags(),
        "details": _details(places, codes),
    }
    return Read(known, columns)


class _Places:
    """Where what is in the records, by columns."""

    def __init__(self, values: Values, size: int, matches: list[Match]) -> None:
        self.values = values
        self._size = size
        self._matches = matches
        self._begins: dict[str, Numbers] = {}
        self._ends: dict[str, Numbers] = {}
        for match in matches:
            for text in match.form.texts:
                if text.role not in ("", "tags", "viewers", "writers"):
                    self._put(
                        text.role,
                        match.rows,
                        match.anchor(text.quote) + 1,
                        match.anchor(text.quote + 1),
                    )
            for role, (first, begin), (last, end) in match.form.spans:
                self._put(role, match.rows, match.anchor(first) + begin, match.anchor(last) + end)

    def _put(self, role: str, rows: Numbers, begins: Numbers, ends: Numbers) -> None:
        if role not in self._begins:
            self._begins[role] = np.full(self._size, _NOT)
            self._ends[role] = np.full(self._size, _NOT)
        self._begins[role][rows] = begins
        self._ends[role][rows] = ends

    def of(self, role: str) -> tuple[Numbers, Numbers, Numbers]:
        """Return the rows that say something, and where it begins and ends."""
        if role not in self._begins:
            nothing = np.empty(0, np.int64)
            return nothing, nothing, nothing
        rows = np.flatnonzero(self._begins[role] != _NOT)
        return rows, self._begins[role][rows], self._ends[role][rows]

    def kinds(self) -> Numbers:
        """Return the codes of types; `_NOT` where there is none."""
        found = np.full(self._size, _NOT)
        rows, begins, ends = self.of("type")
        if len(rows):
            told = pc.index_in(self.values.texts(begins, ends), _NAMES).fill_null(_NOT).to_numpy()
            found[rows] = np.where(told == _CREATED, _NOT, told)
        for match in self._matches:
            if match.form.kind is not None:
                found[match.rows] = match.form.kind
        return found

    def texts(self, role: str, around: int = 0) -> pa.Array:
        """Return a column of texts, with so many bytes round each; null where there is none."""
        rows, begins, ends = self.of(role)
        if not len(rows):
            return pa.nulls(self._size, pa.string())
        return self.spread(self.values.texts(begins - around, ends + around), rows)

    def spread(self, found: pa.Array, rows: Numbers) -> pa.Array:
        """Return a column with these values in these rows, and nulls in the others."""
        if len(rows) == self._size:
            return found
        source = np.zeros(self._size, np.int64)
        missing = np.ones(self._size, np.bool_)
        source[rows], missing[rows] = np.arange(len(rows)), False
        return found.take(pa.array(source, mask=missing))

    def figures(self, role: str, kind: Any) -> pa.Array:
        """Return a column of numbers."""
        found = np.zeros(self._size, kind)
        missing = np.ones(self._size, np.bool_)
        for match in self._matches:
            for number, figures in zip(match.form.numbers, match.numbers, strict=True):
                if number.role == role:
                    found[match.rows], missing[match.rows] = figures, False
        return pa.array(found, mask=missing)

    def tags(self) -> pa.Array:
        """Return the tags of each record as pairs."""
        tagged = [match for match in self._matches if match.form.tags is not None]
        kind = EVENTS.field("tags").type
        if not tagged:
            return pa.nulls(self._size, kind)
        offsets, texts, rows_of = self._lists("tags", tagged)
        names = [name for match in tagged for name in match.form.tags or ()]
        codes = np.empty(len(texts), np.int64)
        before = 0
        for places in rows_of:
            codes[places] = np.arange(before, before + places.shape[1])
            before += places.shape[1]
        keys = pa.array(names, pa.string()).take(pa.array(codes))
        return pa.MapArray.from_arrays(offsets, keys, texts, kind)

    def named(self, role: str, created: Flags) -> pa.Array:
        """Return the viewers or the writers of each record that may name some."""
        if not created.any():
            return pa.nulls(self._size, EVENTS.field(role).type)
        offsets, texts, _ = self._lists(
            role, [match for match in self._matches if match.form.kind == _CREATED]
        )
        return pa.ListArray.from_arrays(offsets, texts)

    def _lists(self, role: str, matches: list[Match]) -> tuple[pa.Array, pa.Array, list[Any]]:
        """Return offsets and texts of lists, and for each match where its texts came to be."""
        said = [[text for text in match.form.texts if text.role == role] for match in matches]
        counts = np.full(self._size, _NOT)
        for match, texts in zip(matches, said, strict=True):
            counts[match.rows] = len(texts)
        offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(np.maximum(counts, 0))])
        begins = np.empty(offsets[-1], np.int64)
        ends = np.empty(offsets[-1], np.int64)
        found = []
        for match, texts in zip(matches, said, strict=True):
            places = offsets[match.rows][:, None] + np.arange(len(texts))
            for column, text in enumerate(texts):
                begins[places[:, column]] = match.anchor(text.quote) + 1
                ends[places[:, column]] = match.anchor(text.quote + 1)
            found.append(places)
        missing = np.append(counts == _NOT, False)
        return (
            pa.array(offsets.astype(np.int32), mask=missing),
            self.values.texts(begins, ends),
            found,
        )


def _times(places: _Places, known: Flags) -> pa.Array:
    """Return the instants that records name; what is none makes its record unknown."""
    rows, begins, ends = places.of("time")
    if not len(rows):
        return pa.nulls(len(known), _INSTANT)
    content = places.values.content
    sizes = ends - begins
    fine = (sizes == _SECONDS) | (
        (sizes > _SECONDS + 1) & (content[begins + _SECONDS - 1] == ord("."))
    )
    fine &= content[ends - 1] == ord("Z")
    for place, byte in _PUNCTUATION.items():
        fine &= content[begins + place] == ord(byte)
    known[rows[~fine]] = False
    rows = rows[fine]
    try:
        found = places.values.texts(begins[fine], ends[fine]).cast(_INSTANT)
    except pa.ArrowInvalid:
        known[rows] = False
        return pa.nulls(len(known), _INSTANT)
    moments = found.cast(pa.int64()).to_numpy()
    known[rows[(moments < FIRST) | (moments > LAST)]] = False
    return places.spread(found, rows)


def _details(places: _Places, codes: pa.Array) -> pa.Array:
    texts = places.texts("details", around=1)
    if texts.null_count == len(texts):
        return texts
    return pc.binary_join_element_wise(_DETAILS.take(codes), texts, "}", "")
