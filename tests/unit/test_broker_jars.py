"""The lock of Kafka's jars and the shared cache: read, checked, filled once, mended."""

from __future__ import annotations

import hashlib
import re
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from jobtrail.core.errors import BrokerError
from services.broker.jars import (
    KAFKA,
    LOCK_FILE,
    Fetch,
    Jar,
    Lock,
    cache_folder,
    ensure_jars,
    format_lock,
    parse_lock,
    read_lock,
    sha256_of,
    unfit,
    write_lock,
)
from services.broker.lock import BINDING, with_binding

NEVER = threading.Event()


def bytes_of(coordinates: str) -> bytes:
    return coordinates.encode() * 1000


def jar(group: str, artifact: str, version: str) -> Jar:
    content = bytes_of(f"{group}:{artifact}:{version}")
    return Jar(group, artifact, version, hashlib.sha256(content).hexdigest())


LOCK = Lock(
    (jar("a.b", "one", "1"), jar("a.b", "two-x", "2.0.1-M1"), jar(*KAFKA, "4.4.0")),
)


class Shelf:
    """A source of jars that makes them up and counts how often each is asked for."""

    def __init__(self, wrong: str = "", fails: str = "") -> None:
        self.asked: Counter[str] = Counter()
        self.opened = 0
        self._wrong, self._fails = wrong, fails

    def __call__(self, _cancelled: threading.Event) -> AbstractContextManager[Fetch]:
        return self._open()

    @contextmanager
    def _open(self) -> Iterator[Fetch]:
        self.opened += 1
        yield self._fetch

    def _fetch(self, wanted: Jar, target: Path) -> None:
        self.asked[wanted.artifact] += 1
        if wanted.artifact == self._fails:
            raise BrokerError("Not to be had.")
        extra = b"!" if wanted.artifact == self._wrong else b""
        target.write_bytes(bytes_of(wanted.coordinates) + extra)


def left_over(cache: Path) -> list[str]:
    """Return what is in the cache beside the folder of jars and its lock."""
    return [p.name for p in cache.iterdir() if p.name not in ("kafka-4.4.0", "kafka-4.4.0.lock")]


# --- the lock file


def test_the_lock_of_the_repo_is_in_order_and_whole() -> None:
    text = LOCK_FILE.read_text(encoding="utf-8")
    lock = read_lock()
    assert text == format_lock(lock)
    artifacts = {(jar.group, jar.artifact) for jar in lock.jars}
    assert {KAFKA, BINDING, ("org.apache.logging.log4j", "log4j-core")} <= artifacts
    kafkas = {jar.version for jar in lock.jars if jar.group == "org.apache.kafka"}
    assert kafkas == {lock.kafka_version}
    assert re.fullmatch(r"4\.\d+\.\d+", lock.kafka_version)
    assert "//" not in text


def test_a_lock_comes_back_as_it_was_written(tmp_path: Path) -> None:
    write_lock(LOCK, tmp_path / "jars.lock")
    assert read_lock(tmp_path / "jars.lock") == LOCK
    assert [path.name for path in tmp_path.iterdir()] == ["jars.lock"]


def test_the_order_of_the_lines_changes_nothing() -> None:
    lines = format_lock(LOCK).splitlines()
    assert parse_lock("\n".join(reversed(lines)), "x") == LOCK


@pytest.mark.parametrize(
    "line",
    [
        "a:b:1",
        "a:b:1 sha256:abc",
        "a:b sha256:" + "0" * 64,
        "a:b:1 md5:" + "0" * 64,
        "a:../b:1 sha256:" + "0" * 64,
        "a:b:1 sha256:" + "0" * 64 + " more",
    ],
)
def test_a_wrong_line_is_named_with_its_number(line: str) -> None:
    with pytest.raises(BrokerError) as refused:
        parse_lock(f"# head\n{line}\n", "jars.lock")
    assert refused.value.where == "jars.lock, line 2"
    assert refused.value.found == repr(line)


def test_a_lock_holds_kafka_once_and_no_file_name_twice() -> None:
    kafka, one = jar(*KAFKA, "4.4.0"), jar("a", "one", "1")
    for jars in ((one,), (kafka, jar(*KAFKA, "4.3.1")), (kafka, one, jar("b", "one", "1"))):
        lines = [f"{jar.coordinates} sha256:{jar.sha256}" for jar in jars]
        with pytest.raises(BrokerError, match="one complete Kafka"):
            parse_lock("\n".join(lines), "jars.lock")


# --- the cache


def test_missing_jars_are_got_and_stay(tmp_path: Path) -> None:
    shelf = Shelf()
    paths = ensure_jars(LOCK, tmp_path / "cache", shelf, NEVER)
    assert [path.name for path in paths] == [
        "one-1.jar",
        "two-x-2.0.1-M1.jar",
        "kafka_2.13-4.4.0.jar",
    ]
    assert [sha256_of(path) for path in paths] == [jar.sha256 for jar in LOCK.jars]
    assert left_over(tmp_path / "cache") == []
    again = Shelf()
    assert ensure_jars(LOCK, tmp_path / "cache", again, NEVER) == paths
    assert again.opened == 0


def test_only_what_is_missing_or_damaged_is_got_again(tmp_path: Path) -> None:
    paths = ensure_jars(LOCK, tmp_path, Shelf(), NEVER)
    paths[0].unlink()
    with paths[1].open("ab") as file:
        file.write(b"!")
    assert unfit(LOCK, cache_folder(LOCK, tmp_path)) == list(LOCK.jars[:2])
    shelf = Shelf()
    ensure_jars(LOCK, tmp_path, shelf, NEVER)
    assert shelf.asked == {"one": 1, "two-x": 1}
    assert unfit(LOCK, cache_folder(LOCK, tmp_path)) == []
    assert left_over(tmp_path) == []


def test_other_bytes_than_the_locks_are_refused_and_not_kept(tmp_path: Path) -> None:
    with pytest.raises(BrokerError, match="is not the one that the lock names") as refused:
        ensure_jars(LOCK, tmp_path, Shelf(wrong="two-x"), NEVER)
    assert refused.value.where == "a.b:two-x:2.0.1-M1"
    assert refused.value.expected == f"sha256 {LOCK.jars[1].sha256}"
    assert not cache_folder(LOCK, tmp_path).exists()
    assert left_over(tmp_path) == []


def test_a_failed_download_leaves_what_was_there(tmp_path: Path) -> None:
    paths = ensure_jars(LOCK, tmp_path, Shelf(), NEVER)
    paths[0].unlink()
    with pytest.raises(BrokerError, match="Not to be had"):
        ensure_jars(LOCK, tmp_path, Shelf(fails="one"), NEVER)
    assert [path.exists() for path in paths] == [False, True, True]
    assert left_over(tmp_path) == []


def test_what_an_ended_download_left_is_cleared_by_the_next(tmp_path: Path) -> None:
    (tmp_path / ".kafka-4.4.0-left" / "jars").mkdir(parents=True)
    ensure_jars(LOCK, tmp_path, Shelf(), NEVER)
    assert left_over(tmp_path) == []


def test_of_many_that_start_at_once_one_downloads(tmp_path: Path) -> None:
    shelf = Shelf()
    together = threading.Barrier(6)

    def start(_: int) -> list[Path]:
        together.wait(30)
        return ensure_jars(LOCK, tmp_path, shelf, NEVER)

    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(start, range(6)))
    assert all(paths == found[0] for paths in found)
    assert shelf.asked == {"one": 1, "two-x": 1, "kafka_2.13": 1}
    assert unfit(LOCK, cache_folder(LOCK, tmp_path)) == []


def test_a_download_can_be_stopped(tmp_path: Path) -> None:
    stopped = threading.Event()
    stopped.set()
    with pytest.raises(BrokerError, match="was stopped"):
        ensure_jars(LOCK, tmp_path, Shelf(), stopped)
    assert not cache_folder(LOCK, tmp_path).exists()


# --- making the lock


LOG4J = ("org.apache.logging.log4j", "log4j-core", "2.25.5")


def test_the_logging_binding_is_added_in_log4js_version() -> None:
    resolved = [(*KAFKA, "4.4.0"), LOG4J]
    assert with_binding(resolved, "4.4.0") == sorted([*resolved, (*BINDING, "2.25.5")])


def test_a_binding_that_kafka_names_itself_is_not_added_twice() -> None:
    resolved = [(*KAFKA, "4.4.0"), LOG4J, (*BINDING, "2.25.5")]
    assert with_binding(resolved, "4.4.0") == sorted(resolved)


def test_jars_of_kafka_of_several_versions_are_refused() -> None:
    mixed = [(*KAFKA, "4.4.0"), ("org.apache.kafka", "kafka-clients", "3.9.1"), LOG4J]
    with pytest.raises(BrokerError, match="several versions") as refused:
        with_binding(mixed, "4.4.0")
    assert refused.value.found == "3.9.1"


def test_a_kafka_without_log4j_is_refused() -> None:
    with pytest.raises(BrokerError, match="no longer names log4j"):
        with_binding([(*KAFKA, "4.4.0")], "4.4.0")
