"""An archive in a store that speaks S3: the same as in a folder."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobtrail.core.errors import ArchiveError, UsageError
from jobtrail.replay.archive.checking import verify
from jobtrail.replay.archive.description import Archive, Span
from jobtrail.replay.archive.joined import JoinedSource
from jobtrail.replay.archive.place import DRAFTS, ArchiveStore
from jobtrail.replay.archive.reading import ArchiveSource
from tests.archiving import ListLog, archived, ends, expected, files, rows, run
from tests.s3_server import BUCKET, location, s3_server

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with s3_server() as found:
        yield found


@pytest.fixture
def to(address: str, request: pytest.FixtureRequest) -> str:
    return location(address, f"{request.node.name.replace('[', '-').rstrip(']')}/archive")


def held(to: str) -> dict[str, bytes]:
    store = ArchiveStore.open(to)
    return {name: store.read(name) for name in sorted(store.names())}


def test_it_holds_the_files_that_a_folder_would(to: str, tmp_path: Path) -> None:
    log = ListLog(250, 130)
    for rest in (False, True):
        run(to, log, rest=rest)
        run(tmp_path, log, rest=rest)
        log.grow(80, 80)
    assert held(to) == files(tmp_path)
    assert run(to, log).segments == 1
    log.first = [300, 200]
    assert rows(JoinedSource(ArchiveSource.open(to), log)) == expected(log, 410, 290)
    assert list(verify(Archive.open(to), lambda *_: None)) == []


def test_a_missing_and_a_damaged_file_are_named(to: str) -> None:
    log = ListLog(300)
    run(to, log)
    kept = Archive.open(to)
    first, second = (kept.manifest(Span(0, n, n + 99)).file for n in (0, 100))
    kept.store.delete(first)
    kept.store.write(second, b"x")
    texts = [fault.text for fault in verify(kept, lambda *_: None)]
    assert first in texts[0]
    assert second in texts[1]
    assert len(texts) == 2
    assert not any("secret-word" in text for text in texts)
    with pytest.raises(ArchiveError, match=first):
        archived(to)


@pytest.mark.parametrize("steps", [3, 4, 5, 9, 11])
def test_killed_it_goes_on(to: str, tmp_path: Path, steps: int) -> None:
    log = ListLog(150)
    command = [sys.executable, "-c"]
    command += [
        "import sys; from tests.archive_dying import archive\n"
        "archive(sys.argv[1], (150,), int(sys.argv[2]))"
    ]
    child = subprocess.run([*command, to, str(steps)], cwd=ROOT, check=False)
    assert child.returncode == -signal.SIGKILL
    if "archive.json" in ArchiveStore.open(to).names():
        assert archived(to) == expected(log, *ends(to))
    run(to, log, rest=True)
    run(tmp_path, log, rest=True)
    left = {name: found for name, found in held(to).items() if not name.startswith(DRAFTS)}
    assert left == files(tmp_path)


def test_it_is_reached_by_the_usual_variables(to: str, address: str) -> None:
    run(to, ListLog(250))
    plain = f"s3://{BUCKET}/{to.partition('@')[2].partition('/')[2].partition('?')[0]}"
    usual = {
        "AWS_ENDPOINT_URL": f"http://{address}",
        "AWS_ACCESS_KEY_ID": "tester",
        "AWS_SECRET_ACCESS_KEY": "secret-word",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    found = subprocess.run(
        [sys.executable, "-m", "jobtrail", "archive", "--to", plain, "--verify", "--json"],
        env=os.environ | usual,
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    assert json.loads(found.stdout) == {"segments": 2, "records": 200, "faults": []}
    assert found.stderr == b""


def test_a_location_that_can_not_be_read_is_told_without_its_secret(address: str) -> None:
    with pytest.raises(UsageError, match=r"s3://logs/\[") as told:
        ArchiveStore.open(location(address, "["))
    assert "secret-word" not in str(told.value)


def test_a_bucket_that_is_not_there_is_told(address: str) -> None:
    with pytest.raises(ArchiveError, match="NO_SUCH_BUCKET") as told:
        run(location(address, "archive", bucket="nowhere"), ListLog(100))
    assert "secret-word" not in str(told.value)
    assert told.value.hint
