"""`jobtrail import` where it sends nothing: dry runs, and what is refused before."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import cramjam
import msgspec
import pyarrow as pa
import pytest
from click.testing import CliRunner, Result
from pyarrow import parquet

from jobtrail.cli import main
from jobtrail.importing.google_2011 import COLUMNS, sources
from jobtrail.importing.rejects import MAX_NAMED

ROOT: Final = Path(__file__).parents[2]
MAPPING: Final = """
source = "//shop"
[[event]]
name = "shop"
type = { column = "what", values = { new = "created", end = "completed" } }
when = { not_null = "what" }
job = "id"
time = "at"
job_type = "{queue}/mail"
owner = { constant = "alice" }
"""
Rows = Sequence[dict[str, Any]]


def shop(count: int) -> list[dict[str, Any]]:
    """Return rows of jobs that are made and then end, two of each."""
    kinds = ("new", "end")
    return [
        {"id": n // 2, "queue": "q", "at": f"2026-01-01T00:00:{n:02}Z", "what": kinds[n % 2]}
        for n in range(count)
    ]


def csv_of(rows: Rows) -> bytes:
    lines = [",".join(rows[0]), *(",".join(map(str, row.values())) for row in rows)]
    return "\n".join(lines).encode() + b"\n"


@pytest.fixture
def by(tmp_path: Path) -> Path:
    file = tmp_path / "map.toml"
    file.write_text(MAPPING)
    return file


def written(folder: Path, name: str, content: bytes) -> Path:
    file = folder / name
    file.write_bytes(content)
    return file


def run(*arguments: object) -> Result:
    """Run `jobtrail import` in this process."""
    return CliRunner().invoke(main, ["import", *map(str, arguments)])


def test_all_kinds_of_files_make_the_same_events(tmp_path: Path, by: Path) -> None:
    rows = shop(5)
    as_csv, as_json = csv_of(rows), b"\n".join(map(msgspec.json.encode, rows))
    table = [{**row, "at": datetime.fromisoformat(row["at"])} for row in rows]
    parquet.write_table(pa.Table.from_pylist(table), tmp_path / "rows.parquet")
    found = [
        run(kind, file, "--map", by, "--dry-run", "--json")
        for kind, file in (
            ("csv", written(tmp_path, "rows.csv", as_csv)),
            ("csv", written(tmp_path, "rows.csv.gz", gzip.compress(as_csv))),
            ("ndjson", written(tmp_path, "rows.ndjson", as_json)),
            ("ndjson", written(tmp_path, "rows.zst", bytes(cramjam.zstd.compress(as_json)))),
            ("parquet", tmp_path / "rows.parquet"),
        )
    ]
    assert [(result.exit_code, result.stderr) for result in found] == [(0, "")] * 5
    assert len({result.stdout for result in found}) == 1
    said = json.loads(found[0].stdout)
    assert said["events"] == {"job.completed": 2, "job.created": 3}
    assert [event["subject"] for event in said["first"]] == ["0", "0", "1", "1", "2"]


def test_a_dry_run_says_what_would_be_sent_and_refused(tmp_path: Path, by: Path) -> None:
    rows = shop(400)
    for number in range(60):
        rows[number] = {**rows[number], "at": "2026-01-01T00:00:00Z"}
    rows[7] = {**rows[7], "what": ""}
    file, rejects = written(tmp_path, "rows.csv", csv_of(rows)), tmp_path / "rejects"
    plain = run("csv", file, "--map", by, "--dry-run", "--rejects", rejects)
    as_json = run("csv", file, "--map", by, "--dry-run", "--json")
    assert plain.exit_code == as_json.exit_code == 1
    lines = plain.stdout.splitlines()
    assert lines[:3] == [
        "29 job.completed", "30 job.created", "59 events of 400 rows, nothing sent",
    ]  # fmt: skip
    said = json.loads(as_json.stdout)
    assert said.pop("first") == [json.loads(line) for line in lines[3:]]
    assert len(lines) == 8
    assert said == {
        "events": {"job.completed": 29, "job.created": 30},
        "rows": 400,
        "withoutEvent": 1,
        "refused": 340,
    }
    *named, more, without, total = plain.stderr.splitlines()
    assert len(named) == MAX_NAMED
    assert named[0].startswith(f"{file}, line 62, column at: event 'shop', time: expected an inst")
    assert (more, without, total) == (
        "and 240 more", "1 rows without an event", "340 rows refused",
    )  # fmt: skip
    reported = [json.loads(line) for line in rejects.read_text().splitlines()]
    assert [row["line"] for row in reported] == list(range(62, 402))


def test_the_trace_can_be_tried_too(tmp_path: Path) -> None:
    file = written(tmp_path, "part", ",".join(COLUMNS).encode() + b"\n1,7,0,u,2,sort\n1,7,9,,,\n")
    found = run("google-2011", file, "--dry-run")
    assert found.exit_code == 1
    assert found.stdout.startswith("1 job.created\n1 events of 2 rows, nothing sent\n{")
    assert found.stderr.splitlines() == [
        f"{file}, line 3: expected an event type from 0 to 8, found 9", "1 rows refused",
    ]  # fmt: skip


def test_what_the_trace_goes_on_with_is_what_it_had_been(tmp_path: Path) -> None:
    """An attempt depends on all rows before, in the files before too."""
    lines = [f"{n},{n % 3},{n % 2},u,2,sort" for n in range(40)]
    files = [
        written(tmp_path, f"part-{n}", "\n".join([",".join(COLUMNS), *lines[n::2]]).encode())
        for n in range(2)
    ]
    whole = [row for source in sources(files) for row in source.rows(0)]
    first, second = sources(files)
    assert [*first.rows(20), *second.rows(5)] == whole[25:]
    alone = sources(files[1:])
    assert alone[0].identity != second.identity
    assert sources(files)[1].identity == second.identity


def test_what_can_not_be_imported_is_refused_before_anything_is_sent(
    tmp_path: Path, by: Path
) -> None:
    good = written(tmp_path, "good.csv", csv_of(shop(4)))
    other = written(tmp_path, "other.csv", b"id,at\n1,2\n")
    wrong = written(tmp_path, "wrong.toml", MAPPING.replace("owner", "ownr").encode())
    for arguments, words in (
        (
            ("csv", good, other, "--map", by),
            ("does not fit the mapping", "other.csv", "one column 'queue'", "id, at"),
        ),
        (("csv", good, "--map", wrong), ("can't be used", "wrong.toml, [[event]] 1, key `owner`")),
        (("csv", good), ("--map",)),
        (("csv", "--map", by), ("FILES",)),
        (("parquet", good, "--map", by), ("can't be read as Parquet", "good.csv")),
    ):
        found = run(*arguments)
        assert (found.exit_code, found.stdout) == (2, "")
        for word in words:
            assert word in found.stderr


def test_without_pyarrow_parquet_says_how_to_get_it(tmp_path: Path, by: Path) -> None:
    without = "import sys; sys.modules['pyarrow'] = None; from jobtrail.cli import main; main()"
    rows = written(tmp_path, "rows.parquet", b"")
    found = subprocess.run(
        [sys.executable, "-c", without, "import", "parquet", rows, "--map", by],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (found.returncode, found.stdout) == (2, "")
    assert "(pyarrow): pip install 'jobtrail[parquet]' brings them." in found.stderr
    assert "Traceback" not in found.stderr
