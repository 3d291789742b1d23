"""What Faust would remember of a partition is not remembered: see `NothingRead`."""

from __future__ import annotations

from faust.types import TP

from projections.internals.faust_internals import NothingRead


def test_what_was_read_last_is_not_known() -> None:
    read, tp = NothingRead(), TP("job-events", 3)
    # As Faust's consumer uses it: bound once, and updated by every seek.
    get, put = read.__getitem__, read.__setitem__
    assert get(tp) is None
    put(tp, 28_148)
    read[tp] = 28_148
    read.update({tp: 28_148})
    assert get(tp) is None
    assert read.pop(tp, None) is None
    assert dict(read) == {}
