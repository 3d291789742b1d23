"""The broker's data directory: its files, and who may use it.

DIR/broker.json         Kafka's version at the format, and the port of the last start
DIR/broker.lock         locked by the one broker that runs here
DIR/broker.pid          the Java that runs here
DIR/kafka/              Kafka's own files: the log
DIR/logs/               the log files of Kafka and Java
DIR/server.properties   written at every start, like log4j2.properties
DIR/client.properties   how clients connect: the password is made at the first start

No other user can access any of it.
"""

from __future__ import annotations

import json
import re
import secrets
import shutil
import socket
import time
from collections.abc import Container
from dataclasses import asdict, dataclass
from pathlib import Path

from jobtrail.core.errors import BrokerError
from jobtrail.files.atomic import atomic_write
from jobtrail.files.private import FILE_MODE, narrow, private_folder
from jobtrail.local.kafka_login import FILE as CLIENT_PROPERTIES
from jobtrail.local.kafka_login import Login, new_login, properties_of, read_login
from services.broker.config import HOST, LOG_FOLDER, LOGS_FOLDER, PROPERTIES, SERVER

#: Free space that a start requires. Bytes.
NEEDED_BYTES = 300 << 20
#: Where ports are chosen from: below those that systems give to outgoing connections. A client
#: that keeps connecting to a dead broker's port out of that range can end up connected to itself,
#: and so use the port when the broker needs it again.
PORTS = range(20_000, 30_000)
#: Seconds that a leftover Java process has to stop.
STOP_SECONDS = 15.0


@dataclass(frozen=True)
class Record:
    """The content of broker.json.

    Attributes:
        kafka_version: The version of Kafka that formatted it.
        port: Where clients connected last; None: not yet started.
    """

    kafka_version: str
    port: int | None = None


def version_key(version: str) -> tuple[int, ...]:
    """Return the numbers of a version of Kafka, by which versions are ordered.

    Raises:
        ValueError: It does not begin with a number.
    """
    found = re.match(r"\d+(?:\.\d+)*", version)
    if not found:
        raise ValueError(version)
    numbers = [int(part) for part in found[0].split(".")]
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)


def is_free(port: int) -> bool:
    """Tell whether Kafka could listen on this port of this machine now."""
    with socket.socket() as probe:
        # As Java does: a connection that has just ended does not hold its port.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
            probe.listen(1)
        except OSError:
            return False
        return True


def choose_port(preferred: int | None = None, taken: Container[int] = ()) -> int:
    """Return a free port.

    Args:
        preferred: The one to take if it is free.
        taken: Ports not to choose.

    Raises:
        BrokerError: None was found in a thousand tries.
    """
    if preferred is not None and preferred not in taken and is_free(preferred):
        return preferred
    for _ in range(1000):
        port = secrets.choice(PORTS)
        if port not in taken and is_free(port):
            return port
    raise BrokerError(
        "No free port was found for the broker.",
        where=f"{HOST}, ports {PORTS.start} to {PORTS.stop - 1}",
        hint="Name one with --port.",
    )


class DataDir:
    """A broker's data directory.

    Args:
        root: The directory; it is made when the broker first starts.
    """

    def __init__(self, root: Path) -> None:
        self.root = root.expanduser().resolve()
        self.log = self.root / LOG_FOLDER
        self.logs = self.root / LOGS_FOLDER
        self.properties = self.root / PROPERTIES
        self.lock_file = self.root / "broker.lock"
        self._record_file = self.root / "broker.json"
        self._pid_file = self.root / "broker.pid"

    def make(self) -> None:
        """Make the folders that a start needs, and take other users' rights to existing files away.

        Raises:
            NotPrivate: The directory is another user's.
        """
        private_folder(self.root)
        narrow(self.root)
        private_folder(self.logs)

    def write(self, name: str, text: str) -> None:
        """Replace a small file in one step."""
        atomic_write(self.root / name, text.encode(), mode=FILE_MODE)

    def login(self) -> tuple[Login, bool]:
        """Return the login of clients, and whether it was made now, since no file had one."""
        found = read_login(self.root / CLIENT_PROPERTIES)
        return (new_login(), True) if found is None else (found, False)

    def write_login(self, login: Login, servers: str) -> None:
        """Write the file by which clients connect, unless it has that content already."""
        text = properties_of(login, servers)
        file = self.root / CLIENT_PROPERTIES
        if not file.exists() or file.read_text(encoding="utf-8", errors="replace") != text:
            self.write(CLIENT_PROPERTIES, text)

    def record(self) -> Record | None:
        """Return the content of broker.json; None before the first start.

        Raises:
            BrokerError: The file holds something else.
        """
        try:
            text = self._record_file.read_text(encoding="utf-8")
        except FileNotFoundError:
            return None
        except UnicodeDecodeError:
            text = ""
        try:
            fields = json.loads(text)
            record = Record(fields["kafka_version"], fields["port"])
            version_key(record.kafka_version)
            if record.port is not None and not 0 < record.port < 65536:
                raise ValueError(record.port)
        except (ValueError, KeyError, TypeError) as error:
            raise BrokerError(
                "The broker's data directory has a broker.json that can't be read.",
                expected='{"kafka_version": "4.4.0", "port": 20000}',
                found=repr(text[:200]),
                where=str(self._record_file),
                hint="Start the broker: it finds out what the file said.",
            ) from error
        return record

    def mend_record(self, ours: str) -> str | None:
        """Restore a damaged or missing broker.json of a formatted log.

        The port is in Kafka's own configuration of the last start, and the rest of the file may
        name the version. If not, ours is assumed: Kafka itself refuses a log that is too new.

        Args:
            ours: The version of our Kafka.

        Returns:
            What was done, as a sentence; None where there was nothing to do.
        """
        try:
            if self.record() is not None or not self.log.exists():
                return None
            left = ""
        except BrokerError:
            left = self._record_file.read_text(encoding="utf-8", errors="replace")
            self._record_file.replace(self._record_file.with_suffix(".json.damaged"))
        named = re.search(r'"kafka_version":\s*"(\d+(?:\.\d+)*)"', left)
        record = Record(named[1] if named else ours, self._last_port())
        self.remember(record)
        aside = f" What was there is in {self._record_file.name}.damaged." if left else ""
        found = f"Kafka {record.kafka_version}, port {record.port or 'to be chosen'}"
        return f"{self._record_file} was damaged or missing and is written again: {found}.{aside}"

    def _last_port(self) -> int | None:
        """Return the port that Kafka was configured with to serve the log."""
        try:
            text = self.properties.read_text(encoding="utf-8", errors="replace")
        except OSError:
            return None
        found = re.search(rf"^listeners=\w+://{re.escape(HOST)}:(\d+),", text, re.MULTILINE)
        serving = re.search(rf"^log\.dirs={LOG_FOLDER}$", text, re.MULTILINE)
        port = int(found[1]) if found and serving else 0
        return port if 0 < port < 65536 else None

    def remember(self, record: Record) -> None:
        """Write broker.json for the next start."""
        self.write(self._record_file.name, json.dumps(asdict(record)) + "\n")

    def check_version(self, ours: str) -> None:
        """Refuse a directory that a newer Kafka has formatted.

        Raises:
            BrokerError: It has.
        """
        record = self.record()
        if record and version_key(record.kafka_version) > version_key(ours):
            raise BrokerError(
                "The broker's data directory was written by a newer Kafka.",
                expected=f"Kafka {ours} or older",
                found=f"Kafka {record.kafka_version}",
                where=str(self.root),
                hint="Use the newer jobtrail that wrote it, or another directory.",
            )

    def check_room(self) -> None:
        """Refuse to start on a disk that is nearly full.

        Raises:
            BrokerError: There is too little room.
        """
        free = shutil.disk_usage(self.root).free
        if free < NEEDED_BYTES:
            raise BrokerError(
                "There is too little room on the disk for the broker.",
                expected=f"{NEEDED_BYTES >> 20} MiB free",
                found=f"{free >> 20} MiB",
                where=str(self.root),
                hint="Free some space, or use a directory on another disk.",
            )

    def cluster_id(self) -> str | None:
        """Return the id that the log was formatted with; None: it is not formatted yet.

        Raises:
            BrokerError: There is a log, but no cluster id.
        """
        if not self.log.exists():
            return None
        file = self.log / "meta.properties"
        try:
            lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
        except FileNotFoundError:
            lines = []
        for line in lines:
            name, _, value = line.partition("=")
            if name == "cluster.id" and value:
                return value.strip()
        raise BrokerError(
            "The log in the broker's data directory is damaged.",
            expected="a file with a cluster.id",
            found="one without" if lines else "no such file",
            where=str(file),
            hint="Restore the directory from a backup, or start with another one.",
        )

    def note_java(self, pid: int) -> None:
        """Write down the process id of the Java that serves this directory."""
        self.write(self._pid_file.name, f"{pid}\n")

    def forget_java(self) -> None:
        """Remove that process id: the process has ended."""
        self._pid_file.unlink(missing_ok=True)

    def stop_leftover(self) -> int | None:
        """Stop a Java that outlived the broker process that had started it here.

        Call it while this process has the directory's lock: then no running broker owns that Java.

        Returns:
            Its process id, or None if there was none.
        """
        try:
            pid = int(self._pid_file.read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            return None
        stopped = self._stop_if_ours(pid)
        self.forget_java()
        return pid if stopped else None

    def _stop_if_ours(self, pid: int) -> bool:
        import psutil

        def gone(process: psutil.Process, seconds: float) -> bool:
            # Not process.wait(): where nobody reaps orphans, a dead one stays as a zombie.
            deadline = time.monotonic() + seconds
            while process.status() != psutil.STATUS_ZOMBIE:
                if time.monotonic() > deadline:
                    return False
                time.sleep(0.02)
            return True

        ours = False
        try:
            process = psutil.Process(pid)
            ours = {SERVER, str(self.properties)} <= set(process.cmdline())
            if ours:
                process.terminate()
                if not gone(process, STOP_SECONDS):
                    process.kill()
                    gone(process, STOP_SECONDS)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            pass
        return ours
