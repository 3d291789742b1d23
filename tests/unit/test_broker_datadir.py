"""The data directory: what is remembered, which port is taken, whose Java is stopped."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from jobtrail.core.errors import BrokerError
from services.broker.config import SERVER, server_properties
from services.broker.datadir import PORTS, DataDir, Record, choose_port, is_free, version_key
from services.broker.process import tail


@pytest.fixture(name="home")
def made_home(tmp_path: Path) -> DataDir:
    home = DataDir(tmp_path / "broker")
    home.make()
    return home


@contextmanager
def held_port() -> Iterator[int]:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield server.getsockname()[1]


@contextmanager
def idle_process(*arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a process that does nothing under some arguments, until it is ended."""
    code = "import sys; sys.stdout.write('up'); sys.stdout.flush(); sys.stdin.read()"
    command = [sys.executable, "-c", code, *arguments]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe) as process:
        assert process.stdout is not None
        assert process.stdout.read(2) == b"up"
        try:
            yield process
        finally:
            process.kill()


# --- versions


@pytest.mark.parametrize(
    ("older", "newer"),
    [("4.3.1", "4.4.0"), ("4.4", "4.4.1"), ("4.9.0", "4.10.0"), ("3.9.1", "4.0"), ("4", "4.0.1")],
)
def test_versions_are_ordered_by_their_numbers(older: str, newer: str) -> None:
    assert version_key(older) < version_key(newer)


def test_a_version_is_its_numbers() -> None:
    assert version_key("4.4.0") == version_key("4.4") == version_key("4.4.0-rc1")
    with pytest.raises(ValueError, match="new"):
        version_key("new")


@pytest.mark.parametrize("version", ["4.4.0", "4.3.1", "3.9.0"])
def test_a_directory_of_the_same_or_an_older_kafka_goes_on(home: DataDir, version: str) -> None:
    home.check_version("4.4.0")
    home.remember(Record(version))
    home.check_version("4.4.0")


def test_a_directory_of_a_newer_kafka_is_refused(home: DataDir) -> None:
    home.remember(Record("4.5.0", 20_000))
    with pytest.raises(BrokerError, match="written by a newer Kafka") as refused:
        home.check_version("4.4.0")
    assert (refused.value.expected, refused.value.found) == ("Kafka 4.4.0 or older", "Kafka 4.5.0")
    assert refused.value.where == str(home.root)


# --- what is remembered


@pytest.mark.parametrize("record", [Record("4.4.0"), Record("4.4.0", 23_456)])
def test_a_record_comes_back_as_it_was_written(home: DataDir, record: Record) -> None:
    assert home.record() is None
    home.remember(record)
    assert home.record() == record
    assert not list(home.root.glob("*.new"))


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b'{"kafka_ver',
        b"[]",
        b"\xff\xfe",
        b'{"port": 1}',
        b'{"kafka_version": 4, "port": 1}',
        b'{"kafka_version": "x", "port": 1}',
        b'{"kafka_version": "4.4.0", "port": "1"}',
        b'{"kafka_version": "4.4.0", "port": 70000}',
    ],
)
def test_a_damaged_record_is_said_and_how_to_mend_it(home: DataDir, text: bytes) -> None:
    (home.root / "broker.json").write_bytes(text)
    with pytest.raises(BrokerError, match="can't be read") as refused:
        home.record()
    assert refused.value.where == str(home.root / "broker.json")
    assert "Start the broker" in str(refused.value)
    home.log.mkdir()
    (home.root / "server.properties").write_text(server_properties(23_456, 23_457))
    said = home.mend_record("4.4.0")
    assert said is not None
    assert said.startswith(f"{home.root / 'broker.json'} was damaged or missing")
    assert home.record() == Record("4.4.0", 23_456)
    assert home.mend_record("4.4.0") is None
    if text:
        assert (home.root / "broker.json.damaged").read_bytes() == text


def test_a_torn_record_still_names_the_version_that_it_named(home: DataDir) -> None:
    home.log.mkdir()
    (home.root / "broker.json").write_text('{"kafka_version": "4.5.0", "po')
    home.mend_record("4.4.0")
    assert home.record() == Record("4.5.0")
    with pytest.raises(BrokerError, match="written by a newer Kafka"):
        home.check_version("4.4.0")


def test_a_missing_record_of_a_log_is_found_out(home: DataDir) -> None:
    assert home.mend_record("4.4.0") is None
    assert home.record() is None
    home.log.mkdir()
    (home.root / "server.properties").write_text(server_properties(20_000, 20_001, "kafka.new"))
    assert home.mend_record("4.4.0") is not None
    assert home.record() == Record("4.4.0"), "a port of the formatting is nobody's"


def test_the_clusters_id_is_read_from_kafkas_own_file(home: DataDir) -> None:
    assert home.cluster_id() is None
    home.log.mkdir()
    with pytest.raises(BrokerError, match="damaged"):
        home.cluster_id()
    file = home.log / "meta.properties"
    file.write_text("#\nnode.id=1\n")
    with pytest.raises(BrokerError, match="damaged"):
        home.cluster_id()
    file.write_text("#\nversion=1\ncluster.id=5QYUGSsoTL6K5D-Ka3hLjA\nnode.id=1\n")
    assert home.cluster_id() == "5QYUGSsoTL6K5D-Ka3hLjA"


# --- ports


def test_the_remembered_port_is_taken_if_it_is_free() -> None:
    port = choose_port()
    assert port in PORTS
    assert choose_port(port) == port


def test_another_port_is_taken_if_the_remembered_one_is_not_free() -> None:
    with held_port() as port:
        assert not is_free(port)
        assert choose_port(port) != port
    assert is_free(port)


def test_a_port_that_is_spoken_for_is_not_chosen() -> None:
    port = choose_port()
    assert choose_port(port, taken={port}) != port
    with pytest.raises(BrokerError, match="No free port"):
        choose_port(taken=PORTS)


def test_ports_lie_below_those_of_outgoing_connections() -> None:
    file = Path("/proc/sys/net/ipv4/ip_local_port_range")
    first = int(file.read_text().split()[0]) if file.exists() else 32_768
    assert max(PORTS) < first


# --- the Java of an earlier start


def test_a_java_that_was_left_over_is_stopped(home: DataDir) -> None:
    with idle_process(SERVER, str(home.properties)) as java:
        home.note_java(java.pid)
        assert home.stop_leftover() == java.pid
        assert java.wait(30) != 0
    assert home.stop_leftover() is None


@pytest.mark.parametrize("arguments", [(), (SERVER,), (SERVER, "/other/server.properties")])
def test_a_process_that_is_not_this_directorys_java_is_left_alone(
    home: DataDir, arguments: tuple[str, ...]
) -> None:
    with idle_process(*arguments) as other:
        home.note_java(other.pid)
        assert home.stop_leftover() is None
        assert other.poll() is None
    assert home.stop_leftover() is None


def test_a_pid_file_that_says_nothing_is_no_java(home: DataDir) -> None:
    (home.root / "broker.pid").write_text("\n")
    assert home.stop_leftover() is None


# --- files


def test_a_file_is_replaced_whole(home: DataDir) -> None:
    home.write("x.properties", "long " * 100)
    home.write("x.properties", "short")
    assert (home.root / "x.properties").read_text() == "short"


def test_the_tail_of_a_log_is_its_last_lines(tmp_path: Path) -> None:
    log = tmp_path / "broker.log"
    assert tail(log) == []
    log.write_bytes(b"\n".join(b"%d" % n for n in range(50_000)) + b"\n\n\xff\n")
    assert tail(log, 3) == ["49998", "49999", "\ufffd"]
    log.write_text(json.dumps("one"))
    assert tail(log, 3) == ['"one"']
