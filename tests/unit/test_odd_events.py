"""Events of odd content: every door gives the same verdict, and every reader holds what was taken.

An event is written as the text that it is, with JSON in it that nobody would write on purpose: at
the ends of what numbers, texts and dates hold, and beyond them.
"""

from __future__ import annotations

import asyncio
import csv
import io
import json
from collections.abc import Iterator, Sequence
from datetime import MAXYEAR, UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final, cast

import duckdb
import msgspec
import orjson
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from jobtrail.cli.emit import _lines as emitted
from jobtrail.cli.explain import show
from jobtrail.client.explain import explain_history
from jobtrail.client.sse import messages
from jobtrail.contract import results
from jobtrail.contract.results import decoded
from jobtrail.core.decoding import accept, decode_clear
from jobtrail.core.errors import EventError
from jobtrail.core.events import Completed, Event, decode, encode
from jobtrail.core.fold import fold
from jobtrail.core.job import Job, Place
from jobtrail.core.partitions import partition_of
from jobtrail.core.trail import TrailEntry, read_trail
from jobtrail.importing.values import json_reader
from jobtrail.integrations.celery import Tracker
from jobtrail.integrations.pgboss.mapping import _due
from jobtrail.integrations.pgboss.session import _valid as bridged
from jobtrail.produce.event_factory import EventMaker
from jobtrail.replay.diff import diff_tables
from jobtrail.replay.events.decoding import Decoder
from jobtrail.replay.export.database import add_events
from jobtrail.replay.export.export import csv_lines, ndjson, to_parquet, to_parquet_by_day
from jobtrail.replay.export.views import VIEWS
from jobtrail.replay.report import About, Range, Report
from jobtrail.replay.schemas import EVENTS, RECORDS
from jobtrail.terminal.tables import Screen
from services.api.feed.changes import Change
from services.api.http.answers import encode as answered
from services.api.http.answers import entry_answer, job_answer, status_answer
from services.api.routes.ingest import _split
from tests.replay_tables import spooled
from tests.unit.test_readable import BIG, HALVES, HELD, NO_HALVES

PARTITIONS: Final = 4
ABOUT: Final = About("log", {0: 1}, "all", (), datetime(2026, 1, 1, tzinfo=UTC))
KINDS: Final = (
    "created", "active", "progress", "retry", "completed", "failed", "cancelled", "expired",
)  # fmt: skip

#: JSON that readers hold, however odd it is.
odd = st.sampled_from(
    [
        *HELD, *(f'"{text}"' for text in NO_HALVES), "null", "true", '""', "[]", "{}", "-0.0",
        "5e-324",
        r'"\u0000"', r'"\u001b[2J\u202e\ufeff\u2028\u0085"', '"=1+1"',
        '"$x^$"', '"\u2028\u0085\ufffe"',
        '"data: 1\\n\\nid: 2"', '{"":{"":""}}', '{"a":1,"a":2}', '{"type":"job.failed","data":[]}',
        "[" * 250 + "]" * 250, '{"a":' * 250 + "1" + "}" * 250, "[1,2 , 3]", '"' + "9" * 5000 + '"',
    ]
)  # fmt: skip
#: JSON that no event may have, wherever in it.
unheld = st.sampled_from(
    [*BIG, *(f'"{half}"' for half in HALVES), r'{"\ud800":1}', "[" * 257 + "]" * 257]
)
#: What is no JSON at all.
broken = st.sampled_from(
    ["NaN", "-Infinity", "01", "+1", ".5", "1.", "'a'", '"a', '"\\x41"', "tru"]
)
names = st.sampled_from(["j", "é", "a/b c", "=j", "$j$", "‮j", "[bold]j", "search"])
times = st.sampled_from(
    [
        "0002-01-01T00:00:00+14:00", "0002-06-01T00:00:00Z", "1969-12-31T23:59:59.999999Z",
        "2026-11-23T13:00:00.1234567Z", "2026-11-23T13:00:00-00:00",
        "9998-12-31T23:59:59.999999-14:00",
        "2000-02-29T24:00:00Z", "2016-12-31T23:59:60Z", "0001-01-01T00:00:00Z",
        "9999-12-31T00:00:00Z",
    ]
)  # fmt: skip
due = times | st.sampled_from(["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00"])
texts = st.sampled_from(
    [r'"\u0000"', '"=w"', '"‮[red]x"', '"$w$"', '"' + "é" * 400 + '"', r'"\n\r\u2028"']
)


def wrapped(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """Return JSON with such JSON somewhere in it."""
    round_it = st.sampled_from(["@", "[@]", '{"x":[0,@]}', '{"a b":{"":[[],@ ]}}', "\t@\n"])
    return st.builds(lambda whole, part: whole.replace("@", part), round_it, inner)


@st.composite
def events(draw: st.DrawFn, values: st.SearchStrategy[str] = odd) -> bytes:
    """Draw an event as text, with such values in members of its own and of nobody's."""
    kind = draw(st.sampled_from(KINDS))
    data = {"attempt": str(draw(st.sampled_from([0, 1, 2**31 - 1])))} if draw(st.booleans()) else {}
    if kind == "created":
        data |= {"jobType": '"$t^{"', "owner": '"=alice"', "tags": '{"a":"=1","é":"$"}'}
    own = {
        "active": ("worker", texts),
        "progress": ("progress", st.sampled_from(["0", "-0.0", "1e-400", "5e-324", "1", "1E0"])),
        "retry": ("retryAt", due.map(json.dumps)),
        "completed": ("output", wrapped(values)),
        "failed": ("error", wrapped(values)),
        "cancelled": ("reason", texts),
    }.get(kind)
    if own is not None:
        data[own[0]] = draw(own[1])
    if draw(st.booleans()):
        data["mine"] = draw(wrapped(values))
    members = {
        "specversion": '"1.0"',
        "id": json.dumps(f"e{draw(st.integers(0, 10**6))}"),
        "source": '"//s"',
        "type": f'"job.{kind}"',
        "subject": json.dumps(draw(names), ensure_ascii=draw(st.booleans())),
    }
    if draw(st.booleans()):
        members["time"] = json.dumps(draw(times))
    if draw(st.booleans()):
        members["extension"] = draw(wrapped(values))
    members["data"] = written(data, ",")
    return written(members, draw(st.sampled_from([",", " , "]))).encode()


def written(members: dict[str, str], comma: str) -> str:
    inner = comma.join(f'"{name}":{value}' for name, value in members.items())
    return f"{{{inner}}}"


# --- every door


def verdict(value: bytes) -> tuple[str, str] | Event:
    """Return what an event is, or why it is none: the reason and the whole text."""
    try:
        return decode(value)
    except EventError as error:
        return error.reason, str(error)


def verdicts(value: bytes, key: bytes, partition: int) -> Iterator[tuple[str, str] | Event | None]:
    """Yield the verdict of each way into the log and out of it; None where it is left open."""
    try:
        yield accept(key, value, partition, PARTITIONS)
    except EventError as error:
        yield error.reason, str(error)
    # The projectors' way, alone and beside others, and that of one that comes over HTTP.
    yield decode_clear([value])[0]
    beside = decode_clear([GOOD, value, GOOD])
    yield beside[1]
    assert beside[0] in (None, decode(GOOD))
    try:
        (one, _) = _split(b"[%b,%b]" % (value, GOOD))
    except Exception:
        assert not is_json(value)
    else:
        yield verdict(one)


GOOD: Final = b'{"specversion":"1.0","id":"g","source":"//s","type":"job.active","subject":"g"}'


def is_json(value: bytes) -> bool:
    try:
        json.loads(value, parse_int=str, parse_float=str, parse_constant=_none)
    except (ValueError, RecursionError):
        return False
    return True


def _none(constant: str) -> None:
    raise ValueError(constant)


def key_of(value: bytes) -> bytes:
    try:
        return json.loads(value, parse_int=str)["subject"].encode()
    except ValueError:
        return b"j"


@given(events(odd | unheld | broken) | events(unheld) | events())
def test_every_door_gives_the_same_verdict(value: bytes) -> None:
    key = key_of(value)
    partition = partition_of(key.decode(), PARTITIONS)
    wanted = verdict(value)
    for found in verdicts(value, key, partition):
        assert found is None or found == wanted
    row = {"partition": partition, "offset": 0, "logged_at": 0, "key": key, "value": value}
    replayed = Decoder(PARTITIONS).decode(pa.RecordBatch.from_pylist([row], schema=RECORDS))
    assert len(replayed.events) == (not isinstance(wanted, tuple))


@pytest.mark.parametrize("whole", ["@", "[@]", '{"x":[0,@]}'])
@pytest.mark.parametrize("member", ["output", "mine", "extension"])
def test_what_readers_cannot_hold_is_named_wherever_it_stands(member: str, whole: str) -> None:
    head = GOOD.decode().replace("active", "completed")[:-1]
    inner = {"@": "", "[@]": "[0]", '{"x":[0,@]}': ".x[1]"}[whole]
    for number in [*BIG, *(f'"{half}"' for half in HALVES)]:
        part = whole.replace("@", number)
        if member == "extension":
            value, where = f'{head},"extension":{part}}}', f"extension{inner}"
        else:
            value, where = (
                f'{head},"data":{{"a":"1e400","{member}":{part}}}}}',
                f"data.{member}{inner}",
            )
        with pytest.raises(EventError) as refused:
            decode(value.encode())
        assert refused.value.where == where
        assert f"Where: {where}." in str(refused.value)
        # However many others there are beside it.
        assert decode_clear([GOOD, value.encode()] * 40)[1] is None


def test_what_a_producer_or_a_mapping_gives_is_refused_alike() -> None:
    wanted = verdict(
        b'%b,"data":{"output":{"x":[0,1e400]}}}' % GOOD.replace(b"active", b"completed")[:-1]
    )
    maker, read = EventMaker("//s"), json_reader("output", True)
    given = {"x": [0, float("inf")]}
    for refusing in (lambda: maker.completed("j", output=given), lambda: read(given)):
        with pytest.raises((EventError, ValueError)) as refused:
            refusing()
        assert str(refused.value) == str(wanted[1]).replace("1e400", "inf")
    with pytest.raises(EventError) as unnamed:
        encode(maker.active("j\ud800"))
    assert unnamed.value.where == "subject"
    with pytest.raises(EventError) as untold:
        encode(maker.progress("j", float("nan")))
    assert untold.value.where == "data.progress"


@given(
    events(odd | unheld | broken),
    st.sampled_from([b"", b" ", b"\t\r", b"\x0c", b"\x0b", b"\xef\xbb\xbf"]),
)
def test_a_line_of_a_file_is_judged_as_it_is_elsewhere(value: bytes, around: bytes) -> None:
    whole = around + value.replace(b"\n", b" ") + around
    (line,) = asyncio.run(lines_of(b"\n \n" + whole + b"\n\r\n"))
    assert line[0] == 3
    judged = verdict(line[1])
    assert judged == verdict(whole) or isinstance(judged, tuple) == isinstance(
        verdict(whole), tuple
    )


async def lines_of(content: bytes) -> list[tuple[int, bytes]]:
    return [line async for line in emitted(io.BytesIO(content))]


def test_a_bridge_leaves_out_what_nobody_may_send_and_names_it() -> None:
    event = decode(b'%b,"data":{"output":[1]}}' % GOOD.replace(b"active", b"completed")[:-1])
    assert isinstance(event, Completed)
    assert bridged(event) == (encode(event), None)
    event.data.output = msgspec.Raw(b'{"a":[' + b"9" * 400 + b"]}")
    value, fault = bridged(event)
    assert fault is not None
    assert fault.where == "data.output.a[0]"
    assert bytes(decode(value).data.output) == b""  # type: ignore[union-attr]


def test_a_retry_that_is_due_at_no_time_is_told_without_one() -> None:
    assert Tracker._due(cast(Tracker, None), 1e300) is None
    assert Tracker._due(cast(Tracker, None), float("inf")) is None
    assert Tracker._due(cast(Tracker, None), 60) is not None
    assert _due(2**62) is None
    assert _due(None) is None
    assert _due(0) == datetime(1970, 1, 1, tzinfo=UTC)


# --- every reader


class Told:
    """What the log and the projections have of some events."""

    def __init__(self, values: Sequence[bytes]) -> None:
        self.jobs: dict[str, Job] = {}
        self.entries: dict[str, list[tuple[TrailEntry, int, bytes]]] = {}
        self.rows: list[dict[str, Any]] = []
        offsets = dict.fromkeys(range(PARTITIONS), 0)
        for value in values:
            event = decode(value)
            job_id = event.subject
            partition = partition_of(job_id, PARTITIONS)
            offset = offsets[partition]
            offsets[partition] += 1
            clock = 1_795_438_800_000_000
            job, _ = fold(self.jobs.get(job_id), event, Place(partition, offset, clock))
            self.jobs[job_id] = job
            entry = read_trail(job.trail)[-1]
            self.entries.setdefault(job_id, []).append((entry, partition, value))
            about = {"partition": partition, "offset": offset, "logged_at": clock}
            self.rows.append({**about, "key": job_id.encode(), "value": value})

    @property
    def records(self) -> pa.RecordBatch:
        return pa.RecordBatch.from_pylist(self.rows, schema=RECORDS)


async def arriving(content: bytes) -> Any:
    yield content


async def listened(content: bytes) -> list[results.Change]:
    found = [message.data async for message in messages(arriving(content))]
    return [decoded(data, results.Change) for data in found]


def held_by_all(content: bytes) -> None:
    """Make sure that JSON is held by readers that have nothing to do with each other."""
    json.loads(content)
    orjson.loads(content)
    msgspec.json.decode(content)


@settings(max_examples=8)
@given(st.lists(events(odd), min_size=1, max_size=6))
def test_whatever_is_in_the_log_stops_no_reader(values: list[bytes]) -> None:
    values = [value for value in values if not isinstance(verdict(value), tuple)]
    told = Told(values)
    for job_id, job in told.jobs.items():
        answers(job, told.entries[job_id])
    replayed(told.records)


def answers(job: Job, happened: list[tuple[TrailEntry, int, bytes]]) -> None:
    """Read what the service says of a job, as its clients do."""
    held_by_all(answered(job_answer(job)))
    found = decoded(answered(job_answer(job)), results.Job)
    decoded(answered(status_answer(job)), results.Status)
    history = [decoded(answered(entry_answer(*one)), results.HistoryEntry) for one in happened]
    story = explain_history(history, datetime(MAXYEAR, 1, 1, tzinfo=UTC))
    assert [told.verdict for told in story.events] == [entry.verdict for entry, _, _ in happened]
    show(found, story, Screen(file=io.StringIO(), width=100))
    msgspec.json.encode(found)
    for entry, partition, value in happened:
        text = Change(partition, entry, job, value).text
        lines = text.decode().split("\n")
        assert [line.partition(":")[0] for line in lines] == ["event", "data", "", ""]


def replayed(records: pa.RecordBatch) -> None:
    """Read records in every form that replay has, and tell of them."""
    found = Decoder(PARTITIONS).decode(records)
    assert found.refused == 0
    events = found.events
    for line in ndjson(events):
        held_by_all(line)
    rows = list(csv.reader(io.StringIO(csv_lines(events).decode())))
    assert len(rows) == len(events)
    with TemporaryDirectory() as name:
        folder = Path(name)
        to_parquet(EVENTS, [events], folder / "e.parquet")
        assert parquet.read_table(folder / "e.parquet").num_rows == len(events)
        to_parquet_by_day(EVENTS, [events], folder / "days")
    table = spooled(EVENTS, [events])
    assert len(table.to_polars()) == len(table.to_pandas()) == len(events)
    with duckdb.connect() as database:
        add_events(database, [events], {p: len(events) for p in range(PARTITIONS)})
        for view in VIEWS:
            database.execute(f'SELECT * FROM "{view.name}"').fetchall()
        database.execute("SELECT * FROM events").fetchall()
        report = Report.of(database, Range(), ABOUT)
        with TemporaryDirectory() as name:
            report.write_csv(Path(name))
    diff_tables([events], datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC))
