"""A store of which a part is damaged, missing or another file: 503 for that, 200 for the rest."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from jobtrail.core.partitions import partition_of
from tests.contract.api_service import PARTITIONS, PROBLEM, Api, running
from tests.waiting import look_again

#: Jobs of shard 0, which holds the partitions 0 and 2, and of shard 1.
FIRST = next(f"j{n}" for n in range(99) if partition_of(f"j{n}", PARTITIONS) == 0)
SECOND = next(f"j{n}" for n in range(99) if partition_of(f"j{n}", PARTITIONS) == 1)


def _zero_header(shard: Path) -> None:
    with shard.open("r+b") as file:
        file.write(bytes(100))


def _delete(shard: Path) -> None:
    shard.unlink()


def _lose_wal(shard: Path) -> None:
    Path(f"{shard}-wal").unlink()


def _garbage(shard: Path) -> None:
    shard.write_bytes(b"no database, but a page of something else" * 100)


def _empty(shard: Path) -> None:
    shard.write_bytes(b"")


HARM: dict[str, Callable[[Path], None]] = {
    "header zeroed": _zero_header,
    "deleted": _delete,
    "without its WAL": _lose_wal,
    "garbage": _garbage,
    "emptied": _empty,
}


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    async with running(tmp_path) as api:
        api.make_store()
        api.follow()
        for job in (FIRST, SECOND):
            api.emit(job, "created", bulkId="b")
        await api.project()
        api.show()
        yield api


async def check_half(api: Api) -> None:
    """Check that what the second shard holds is refused, and the first one's is answered."""
    for path in ("/jobs/search", "/jobs/summary", "/jobs?bulkId=b", f"/jobs/{SECOND}"):
        answer = await api.get(path)
        assert (answer.status, answer.headers["Content-Type"]) == (503, PROBLEM), path
        assert "Retry-After" in answer.headers
    assert (await api.statuses(SECOND, FIRST)).status == 503
    assert (await api.statuses(SECOND, wait=1)).status == 503
    assert (await api.get(f"/jobs/{FIRST}")).json["state"] == "created"
    assert (await api.statuses(FIRST)).json[FIRST]["state"] == "created"
    ready = await api.send("GET", "/readyz", {})
    assert ready.status == 503
    assert ready.json["projections"]["recovering"] == [1]


@pytest.mark.parametrize("harm", HARM.values(), ids=HARM.keys())
async def test_what_a_damaged_shard_holds_is_not_answered(
    api: Api, harm: Callable[[Path], None]
) -> None:
    shard = api.settings.store_folder / "shard-1.db"
    assert api.projector is not None
    api.projector.close()
    api.projector = None
    api.service.store.close()
    harm(shard)
    await check_half(api)


async def test_a_shard_that_is_deleted_or_replaced_while_it_is_open_is_noticed(api: Api) -> None:
    shard = api.settings.store_folder / "shard-1.db"
    kept = [Path(f"{shard}{suffix}") for suffix in ("", "-wal", "-shm")]
    assert (await api.get("/jobs/search")).status == 200
    for file in kept:
        shutil.copy(file, f"{file}.kept")
        file.unlink()
    while (await api.get("/jobs/search")).status == 200:
        await look_again()
    await check_half(api)
    for file in kept:
        Path(f"{file}.kept").rename(file)
    while (await api.get("/jobs/search")).status != 200:
        await look_again()
    assert (await api.get(f"/jobs/{SECOND}")).json["state"] == "created"


async def test_projectors_are_told_of_damage(api: Api) -> None:
    """Pages behind the first ones: the file opens, and what is read makes no sense."""
    shard = api.settings.store_folder / "shard-1.db"
    for n in range(400):
        api.emit(SECOND if n < 2 else f"more{n}", "created", bulkId="b", tags={"x": "y" * 200})
    await api.project()
    assert api.projector is not None
    api.projector.close()
    api.projector = None
    api.service.store.close()
    # Without a connection the log of changes is written back, so that the file has all of it.
    import apsw

    db = apsw.Connection(str(shard))
    db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    (page,) = db.execute("PRAGMA page_size").fetchone()
    roots = db.execute(
        "SELECT rootpage FROM sqlite_schema WHERE name IN ('jobs', 'jobs_by_hash', 'jobs_by_bulk')"
    ).fetchall()
    db.close()
    Path(f"{shard}-wal").touch()
    with shard.open("r+b") as file:
        for (root,) in roots:
            file.seek((root - 1) * page)
            file.write(b"\xff" * page)
    answers = [await api.get(f"/jobs/{SECOND}"), await api.get("/jobs?bulkId=b")]
    answers.append(await api.get("/jobs/search?asOf=2027-01-01"))
    answers.append(await api.statuses(SECOND))
    for answer in answers:
        assert answer.status == 503
    assert (api.settings.store_folder / "shard-1.suspect").exists()
    assert not (api.settings.store_folder / "shard-0.suspect").exists()
    assert (await api.get(f"/jobs/{FIRST}")).status == 200
