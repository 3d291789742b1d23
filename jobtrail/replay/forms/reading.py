"""Records of known forms, read in columns: without parsing, and without an object for any of them.

What is taken here is what `jobtrail.core.decoding.accept` would take, with the same values; all
else is left to it. A property holds the one against the other.
"""

from __future__ import annotations

from typing import Any, Final, TypeAlias

import numpy as np
import pyarrow as pa

from jobtrail.core.events import MAX_PAYLOAD_BYTES
from jobtrail.replay.forms.learning import Form, Number, Same, Text

Bytes: TypeAlias = np.ndarray[tuple[int], np.dtype[np.uint8]]
Numbers: TypeAlias = np.ndarray[tuple[int], np.dtype[np.int64]]
Flags: TypeAlias = np.ndarray[tuple[int], np.dtype[np.bool_]]

_QUOTE: Final = ord('"')
_BACKSLASH: Final = ord("\\")
_DELETE: Final = 0x7F
_MAX_ATTEMPT_DIGITS: Final = 9
_PRINCIPALS: Final = ("user:", "group:")


class Values:
    """The values of some records, as the bytes that they are.

    Args:
        values: Of `schemas.RECORDS`.
        doubtful: Which of them are not to be looked at.
    """

    def __init__(self, values: pa.BinaryArray, doubtful: Flags) -> None:
        _, offsets, data = values.buffers()
        bounds = np.frombuffer(offsets, np.int32)[values.offset : values.offset + len(values) + 1]
        self.data: pa.Buffer = data
        self.content: Bytes = np.frombuffer(data, np.uint8)
        self.bounds = bounds.astype(np.int64)
        begin, end = int(self.bounds[0]), int(self.bounds[-1])
        #: Where quotes are, and for each record the number of its first one.
        self.quotes = np.flatnonzero(self.content[begin:end] == _QUOTE) + begin
        self.first = np.searchsorted(self.quotes, self.bounds)
        counts = np.diff(self.first)
        lengths = np.diff(self.bounds)
        usable = ~doubtful & (lengths <= MAX_PAYLOAD_BYTES) & self._plain(begin, end)
        #: How many quotes each record has; none where it can't be read here.
        self.counts: Numbers = np.where(usable, counts, 0)

    def _plain(self, begin: int, end: int) -> Flags:
        """Tell which are ASCII without a control character and without a backslash."""
        content = self.content[begin:end]
        if (
            len(content) == 0
            or content.min() < 0x20
            or content.max() >= _DELETE
            or b"\\" in content.tobytes()
        ):
            odd = (content < 0x20) | (content >= _DELETE) | (content == _BACKSLASH)
            before = np.searchsorted(np.flatnonzero(odd) + begin, self.bounds)
            plain: Flags = np.diff(before) == 0
            return plain
        return np.ones(len(self.bounds) - 1, np.bool_)

    def texts(self, begins: Numbers, ends: Numbers) -> pa.Array:
        """Return texts by where they begin and end, which is one behind the other."""
        size = len(begins)
        if size == 0:
            return pa.array([], pa.string())
        offsets = np.empty(2 * size, np.int32)
        offsets[::2] = begins
        offsets[1::2] = ends
        # Every second of these is what stands between two texts.
        every = pa.Array.from_buffers(
            pa.string(), 2 * size - 1, [None, pa.py_buffer(offsets), self.data]
        )
        return every.take(pa.array(np.arange(0, 2 * size, 2)))


class Match:
    """Some records of one form."""

    def __init__(self, form: Form, values: Values, rows: Numbers) -> None:
        self.form = form
        self.rows = rows
        self._values = values
        self._anchors: dict[int, Numbers] = {}
        #: The numbers in it, in the form's order.
        self.numbers: list[Numbers | np.ndarray[Any, Any]] = []
        self._narrow()

    def anchor(self, number: int) -> Numbers:
        """Return where a quote is in each record: 0 is before it, the last one behind it."""
        if number not in self._anchors:
            values, rows = self._values, self.rows
            if number == 0:
                found = values.bounds[rows] - 1
            elif number == self.form.quotes + 1:
                found = values.bounds[rows + 1]
            else:
                found = values.quotes[values.first[rows] + (number - 1)]
            self._anchors[number] = found
        return self._anchors[number]

    def _narrow(self) -> None:
        """Leave out what is not of the form."""
        for first, last, distance in self.form.distances:
            self._keep(self.anchor(last) - self.anchor(first) == distance)
        for number in self.form.numbers:
            size = self._size(number)
            self._keep((size > 0) & (size <= 16))
        for one in self.form.same:
            self._keep(self._is_same(one))
        for text in self.form.texts:
            least, most = text.limits
            size = self.anchor(text.quote + 1) - self.anchor(text.quote) - 1
            self._keep((size >= least) & (size <= most))
            if text.role == "viewers":
                self._keep(self._is_principal(text))
        fine = np.ones(len(self.rows), np.bool_)
        for number in self.form.numbers:
            figures, is_fine = self._read(number)
            self.numbers.append(figures)
            fine &= is_fine
        self._keep(fine)

    def _keep(self, wanted: Flags) -> None:
        if not wanted.all():
            self.rows = self.rows[wanted]
            self._anchors = {number: at[wanted] for number, at in self._anchors.items()}
            self.numbers = [figures[wanted] for figures in self.numbers]

    def _is_same(self, one: Same) -> Flags:
        return self._equal(self.anchor(one.quote) + one.offset, one.content)

    def _equal(self, begins: Numbers, wanted: bytes) -> Flags:
        """Tell where these bytes begin, none of which is zero; all lie in a record."""
        content, size = self._values.content, len(wanted)
        if size > len(content):
            return np.zeros(len(begins), np.bool_)
        shape = (len(content) - size + 1,)
        pieces = np.ndarray(shape, f"S{size}", content, strides=(1,))
        found: Flags = pieces[begins] == wanted
        return found

    def _is_principal(self, text: Text) -> Flags:
        begins, ends = self.anchor(text.quote) + 1, self.anchor(text.quote + 1)
        found = np.zeros(len(begins), np.bool_)
        for kind in _PRINCIPALS:
            long = np.flatnonzero(ends - begins > len(kind))
            found[long] |= self._equal(begins[long], kind.encode())
        return found

    def _size(self, number: Number) -> Numbers:
        between = self.anchor(number.quote + 1) - self.anchor(number.quote) - 1
        return between - number.behind - number.before

    def _read(self, number: Number) -> tuple[np.ndarray[Any, Any], Flags]:
        """Return numbers of at most 16 characters, and which of them are what they seem."""
        begins = self.anchor(number.quote) + 1 + number.behind
        sizes = self._size(number)
        digits = np.zeros(len(begins), np.int64)
        behind_point = np.zeros(len(begins), np.int64)
        points = np.zeros(len(begins), np.int64)
        fine = np.ones(len(begins), np.bool_)
        content = self._values.content
        for place in range(int(sizes.max(initial=0))):
            there = place < sizes
            found = content[np.where(there, begins + place, begins)]
            is_point = there & (found == ord("."))
            is_digit = there & (found >= ord("0")) & (found <= ord("9"))
            fine &= ~there | is_digit | is_point
            digits = np.where(is_digit, digits * 10 + found - ord("0"), digits)
            behind_point += is_digit & (points > 0)
            points += is_point
        whole = sizes - points - behind_point
        fine &= (points <= 1) & (whole > 0) & ((points == 0) | (behind_point > 0))
        fine &= (whole == 1) | (content[begins] != ord("0"))
        if number.role == "progress":
            # Both are whole numbers that a double holds, so the quotient is the nearest there is.
            figures = digits / 10.0**behind_point
            return figures, fine & (figures <= 1)
        if number.role == "attempt":
            fine &= (points == 0) & (sizes <= _MAX_ATTEMPT_DIGITS)
        return digits, fine
