"""Tables as they are read: CSV, NDJSON and Parquet, with their oddities, compressed, damaged."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import cramjam
import pyarrow as pa
import pytest
from pyarrow import parquet

from jobtrail.core.errors import UsageError
from jobtrail.core.events import decode
from jobtrail.importing.opening import MAX_LINE
from jobtrail.importing.row import Row
from jobtrail.importing.tables import read
from tests.unit.test_import_rows import AT, RULE, TOP, mapping


def rows(folder: Path, kind: str, content: bytes, text: str, after: int = 0) -> list[Row]:
    file = folder / f"rows.{kind}"
    file.write_bytes(content)
    return list(read(kind, file, mapping(folder, text), after))


def told(found: Iterable[Row]) -> list[Any]:
    """Return each row's line with its jobs, or with what is wrong in which column."""
    return [
        (row.line, row.column, row.error) if row.error else (row.line, [m.job for m in row.events])
        for row in found
    ]


# --- CSV


def test_csv_is_read_with_its_oddities(tmp_path: Path) -> None:
    content = (
        f'\ufeffid;at;w\r\n1;{AT};"two\nlines"\r\n\r\n2;{AT}\r\né;{AT};"a;b"\r\n-;{AT};w'
    ).encode()
    text = TOP + '[csv]\ndelimiter = ";"\nnull = ["-"]\n' + RULE + 'worker = "w"\n'
    assert told(rows(tmp_path, "csv", content, text)) == [
        (2, ["1"]),
        (5, "", "expected 3 columns, found 2"),
        (6, ["é"]),
        (7, "id", "event 'job.active', job: expected a value, found none"),
    ]
    assert told(rows(tmp_path, "csv", content, text, after=2))[0] == (6, ["é"])


def test_csv_in_other_encodings(tmp_path: Path) -> None:
    content = f"id,at\né,{AT}\n"
    for encoding in ("latin-1", "utf-16"):
        text = TOP + f'[csv]\nencoding = "{encoding}"\n' + RULE
        assert told(rows(tmp_path, "csv", content.encode(encoding), text)) == [(2, ["é"])]
    wrong = rows(tmp_path, "csv", content.encode("latin-1") + f"b,{AT}\n".encode(), TOP + RULE)
    assert told(wrong) == [
        (2, "id", "expected text in the file's encoding, found other bytes"),
        (3, ["b"]),
    ]


def test_no_line_is_too_long_to_be_refused(tmp_path: Path) -> None:
    long = "x" * (3 * MAX_LINE)
    as_csv = f"id,at\n1,{AT}\n{long},{AT}\n2,{AT}\n{long}".encode()
    found = told(rows(tmp_path, "csv", as_csv, TOP + RULE))
    assert [row[0] for row in found] == [2, 3, 4, 5]
    assert [row[1] for row in found] == [["1"], "", ["2"], ""]
    good = '{"id":"%s","at":"' + AT + '"}\n'
    as_json = (good % 1 + good % long + good % 2 + good % long).encode()
    found = told(rows(tmp_path, "ndjson", as_json, TOP + RULE))
    assert [row[1] for row in found] == [["1"], "", ["2"], ""]


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"", "none"),
        (b"id\n1\n", "id"),
        (b"at,id,at\n", "several"),
        (b"\xff\xfei\x00d\x00", "\\udcff"),
    ],
)
def test_a_header_that_lacks_a_column_is_refused(
    tmp_path: Path, content: bytes, found: str
) -> None:
    with pytest.raises(UsageError) as raised:
        rows(tmp_path, "csv", content, TOP + RULE)
    assert "one column 'at'" in (raised.value.expected or "")
    assert found in (raised.value.found or "")
    str(raised.value).encode()


# --- NDJSON


def test_ndjson_columns_are_paths(tmp_path: Path) -> None:
    text = TOP + RULE.replace('"id"', '"data.user.name"') + 'worker = "a.b"\n'
    lines = [
        {"data": {"user": {"name": "al"}}, "at": AT, "a.b": "x", "a": {"b": "y"}},
        {"data": {"user": "al"}, "at": AT},
        {"data": None, "at": AT},
    ]
    content = b"\n".join(json.dumps(line).encode() for line in lines) + b'\n\n[1]\n{"a\n"\xff"\n'
    found = rows(tmp_path, "ndjson", b"\xef\xbb\xbf" + content, text)
    none = "event 'job.active', job: expected a value, found none"
    assert told(found[:3]) == [
        (1, ["al"]), (2, "data.user.name", none), (3, "data.user.name", none),
    ]  # fmt: skip
    assert json.loads(found[0].events[0].value)["data"] == {"worker": "x"}
    assert [(row.line, row.error[:13]) for row in found[3:]] == [
        (5, "expected a JS"), (6, "expected JSON"), (7, "expected JSON"),
    ]  # fmt: skip


# --- compressed


def zstd(content: bytes) -> bytes:
    return bytes(cramjam.zstd.compress(content))


@pytest.mark.parametrize("pack", [gzip.compress, zstd])
@pytest.mark.parametrize("kind", ["csv", "ndjson"])
def test_compressed_files_whole_and_cut(
    tmp_path: Path, kind: str, pack: Callable[[bytes], bytes]
) -> None:
    ids = [f"{n * 7919 % 100_003}" for n in range(10_000)]
    if kind == "csv":
        content = "id,at\n" + "".join(f"{n},{AT}\n" for n in ids)
    else:
        content = "".join(f'{{"id":{n},"at":"{AT}"}}\n' for n in ids)
    packed = pack(content.encode())
    whole = rows(tmp_path, kind, packed, TOP + RULE)
    assert [row.events[0].job for row in whole] == ids
    *held, last = rows(tmp_path, kind, packed[: len(packed) // 2], TOP + RULE)
    assert last.error.startswith("the file is cut or damaged: ")
    assert [row.events[0].job for row in held] == ids[: len(held)]
    # Frames may follow each other.
    twice = rows(tmp_path, "ndjson", pack(b'{"id":1}\n') + pack(b'{"id":2}\n'), TOP + RULE)
    assert len(twice) == 2


# --- Parquet


def test_parquet_values_are_those_of_their_types(tmp_path: Path) -> None:
    instant = datetime(2026, 1, 1, 0, 0, 0, 1, UTC)
    far = 2**63 - 2
    table = pa.table(
        {
            "id": pa.array([1, 2, 3, None], pa.int32()),
            "at": pa.array([1767225600000001999, None, 0, 0], pa.timestamp("ns", "Europe/Berlin")),
            "far": pa.array([0, 0, far, 0], pa.timestamp("us", "UTC")),
            "s": pa.array([{"w": {"n": Decimal("1.50")}}, {"w": None}, None, None]),
        }
    )
    file = tmp_path / "rows.parquet"
    parquet.write_table(table, file, row_group_size=3)
    text = TOP + RULE + 'worker = "s.w.n"\n' + RULE.replace('"at"', '"far"') + 'name = "f"\n'
    rules = mapping(tmp_path, text)
    found = list(read("parquet", file, rules))
    assert decode(found[0].events[0].value).time == instant
    assert json.loads(found[0].events[0].value)["data"] == {"worker": "1.50"}
    assert told(found)[0] == (1, ["1", "1"])
    assert told(found)[1][:2] == (2, "at")
    assert told(found)[2][:2] == (3, "far")
    assert told(found)[3][:2] == (4, "id")
    assert told(read("parquet", file, rules, after=3)) == told(found)[3:]
    for column in ("none", "s.x", "id.x", "s.w.n.x"):
        with pytest.raises(UsageError, match=f"one column '{column}'"):
            next(read("parquet", file, mapping(tmp_path, TOP + RULE + f'worker = "{column}"')))


@pytest.mark.parametrize("content", [b"", b"id,at\n", b"PAR1" + b"x" * 100 + b"PAR1"])
def test_what_is_no_parquet_is_refused(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(UsageError, match="can't be read as Parquet"):
        rows(tmp_path, "parquet", content, TOP + RULE)


def test_damage_within_parquet_ends_the_file(tmp_path: Path) -> None:
    file = tmp_path / "rows.parquet"
    at = datetime(2026, 1, 1, tzinfo=UTC)
    ids = [f"{n * 7919 % 100_003}" for n in range(10_000)]
    parquet.write_table(pa.table({"id": ids, "at": [at] * len(ids)}), file, row_group_size=5000)
    content = bytearray(file.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 5000] = b"\xff" * 5000
    file.write_bytes(content)
    *held, last = read("parquet", file, mapping(tmp_path, TOP + RULE))
    assert last.error.startswith("the file is cut or damaged: ")
    assert last.line == len(held) + 1
    assert [row.events[0].job for row in held] == ids[: len(held)]
