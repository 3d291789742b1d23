"""The counters of many jobs at once come to what they come to job by job."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from jobtrail.core.job import Job
from jobtrail.core.states import STATES
from projections.ports.write import Entry
from projections.sqlite.files.schema import DAY, EVERYBODY
from projections.sqlite.tables.change_layout import NONE
from projections.sqlite.write import counters
from projections.sqlite.write.write_set import Key, WriteSet

KEYS = st.tuples(
    st.integers(0, 2),
    st.integers(0, 1),
    st.sampled_from([-1, 0, DAY - 1, DAY, 3 * DAY]),
    st.sampled_from([None, "bulk"]),
    st.integers(0, len(STATES) - 1),
)


def a_job(stored: Key | None, key: Key) -> tuple[Entry, Key]:
    """Return a job that is stored with a key and has another one now, as the projector does."""
    job = Job(id="a", state=STATES[key[4]], created_at=key[2], updated_at=key[2])
    entry = Entry(job, 1, stored)
    if stored is not None and stored[:4] != key[:4]:
        entry.former = ((7, job),)
    return entry, key


def write_set_of(changes: list[tuple[Entry, Key]]) -> WriteSet:
    write_set = WriteSet(0, "", 0)
    for number, (entry, key) in enumerate(changes):
        write_set.entries.append(entry)
        write_set.keys.append(key)
        write_set.before.append(NONE if entry.stored is None else entry.stored[4])
        if entry.former:
            write_set.renamed.append(number)
    return write_set


CHANGES = st.lists(
    st.one_of(
        KEYS.map(lambda key: a_job(None, key)),
        st.builds(lambda key, state: a_job((*key[:4], state), key), KEYS, st.integers(0, 3)),
        st.builds(a_job, KEYS, KEYS),
    ),
    min_size=1,
    max_size=20,
)


@given(CHANGES)
def test_many_are_counted_as_few_are(changes: list[tuple[Entry, Key]]) -> None:
    # As often as it takes to be many.
    many = write_set_of(changes * 200)
    columns = many.in_columns()
    assert columns is not None
    rows = [tuple(row) for row in counters.rows(many, columns)]
    assert rows == counters.rows(many, None)
    assert rows == sorted(set(rows))
    assert all(any(row[3:]) for row in rows)
    assert sum(sum(row[3:]) for row in rows if row[0] == EVERYBODY) == 200 * sum(
        entry.stored is None for entry, _key in changes
    )
