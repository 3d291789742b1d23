"""Kafka's jars: which ones, and the one copy of them that a user's brokers share.

The lock file says which jars and what is in them. A jar is hashed on every start, not only when
it is downloaded. All of them take a few hundredths of a second, and a damaged cache is then
repaired instead of failing inside Java.
"""

from __future__ import annotations

import errno
import hashlib
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Event

from jobtrail.core.errors import BrokerError
from jobtrail.files.atomic import atomic_write

LOCK_FILE = Path(__file__).with_name("jars.lock")
KAFKA = ("org.apache.kafka", "kafka_2.13")
#: Free space that a download needs: the jars, twice while they are moved, and a margin. Bytes.
DOWNLOAD_BYTES = 150 << 20
#: Downloads at a time.
PARALLEL = 4

_LINE = re.compile(r"([\w.-]+):([\w.-]+):([\w.-]+) sha256:([0-9a-f]{64})")


@dataclass(frozen=True, order=True)
class Jar:
    """One jar by its Maven coordinates, and the SHA-256 of its bytes."""

    group: str
    artifact: str
    version: str
    sha256: str

    @property
    def coordinates(self) -> str:
        """`group:artifact:version`."""
        return f"{self.group}:{self.artifact}:{self.version}"

    @property
    def filename(self) -> str:
        """The name of its file."""
        return f"{self.artifact}-{self.version}.jar"


@dataclass(frozen=True)
class Lock:
    """The jars of one version of Kafka."""

    jars: tuple[Jar, ...]

    @property
    def kafka_version(self) -> str:
        """The version of Kafka itself."""
        return next(jar.version for jar in self.jars if (jar.group, jar.artifact) == KAFKA)


#: Gets one jar from somewhere into the file that is named; called from several threads.
Fetch = Callable[[Jar, Path], None]
#: Opens where jars come from, and closes it; called only when some are missing. The event is set
#: by another thread to end a running download.
Source = Callable[[Event], AbstractContextManager[Fetch]]


def parse_lock(text: str, where: str) -> Lock:
    """Read a lock file's text.

    Args:
        text: Lines of `group:artifact:version sha256:HEX`; `#` starts a comment line.
        where: What to call the file in an error.

    Raises:
        BrokerError: A line is no such line, a file name is there twice, or Kafka is missing.
    """
    jars = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        found = _LINE.fullmatch(line.strip())
        if not found:
            raise BrokerError(
                "The lock of Kafka's jars can't be read.",
                expected="`group:artifact:version sha256:HEX`",
                found=repr(line),
                where=f"{where}, line {number}",
                hint="Make it again with `python -m services.broker.lock VERSION`.",
            )
        jars.append(Jar(*found.groups()))
    kafka = [jar for jar in jars if (jar.group, jar.artifact) == KAFKA]
    if len(kafka) != 1 or len({jar.filename for jar in jars}) != len(jars):
        raise BrokerError(
            "The lock of Kafka's jars does not name one complete Kafka.",
            expected=f"{':'.join(KAFKA)} once, and every file name once",
            found=f"{len(kafka)} times, {len(jars)} jars",
            where=where,
            hint="Make it again with `python -m services.broker.lock VERSION`.",
        )
    return Lock(tuple(sorted(jars)))


def format_lock(lock: Lock) -> str:
    """Return the text of a lock file: the same jars always give the same text."""
    head = (
        f"# The jars of Kafka {lock.kafka_version}. Made by "
        f"`python -m services.broker.lock {lock.kafka_version}`; don't edit.\n"
    )
    lines = (f"{jar.coordinates} sha256:{jar.sha256}\n" for jar in sorted(lock.jars))
    return head + "".join(lines)


def read_lock(path: Path = LOCK_FILE) -> Lock:
    """Read the lock file of this version of jobtrail."""
    return parse_lock(path.read_text(encoding="utf-8"), path.name)


def sha256_of(path: Path) -> str | None:
    """Return the SHA-256 of a file in hex, or None if there is no such file."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        return None


def unfit(lock: Lock, folder: Path) -> list[Jar]:
    """Return the jars that `folder` lacks or has with other bytes."""
    return [jar for jar in lock.jars if sha256_of(folder / jar.filename) != jar.sha256]


def cache_folder(lock: Lock, cache: Path) -> Path:
    """Return the folder of the jars in the user's cache."""
    return cache / f"kafka-{lock.kafka_version}"


def ensure_jars(lock: Lock, cache: Path, source: Source, cancelled: Event) -> list[Path]:
    """Return the jars in the user's cache, downloading what is not there as the lock says.

    Any number of processes may call this at once: one downloads, the others wait for it. The
    folder appears complete or not at all.

    Args:
        lock: The jars.
        cache: The user's cache folder for jobtrail.
        source: Where missing jars come from.
        cancelled: Set by another thread to end the download early.

    Raises:
        BrokerError: A jar can't be had, or has other bytes than the lock says.
    """
    folder = cache_folder(lock, cache)
    if unfit(lock, folder):
        cache.mkdir(parents=True, exist_ok=True)
        with _sole_download(cache / f"{folder.name}.lock", cancelled):
            wanted = unfit(lock, folder)
            if wanted:
                _install(lock, wanted, folder, source, cancelled)
    return [folder / jar.filename for jar in lock.jars]


@contextmanager
def _sole_download(path: Path, cancelled: Event) -> Iterator[None]:
    from filelock import FileLock, Timeout

    lock = FileLock(path)
    while True:
        _stop_if(cancelled)
        try:
            lock.acquire(timeout=0.5)
            break
        except Timeout:
            continue
    try:
        yield
    finally:
        lock.release()


def _stop_if(cancelled: Event) -> None:
    if cancelled.is_set():
        raise BrokerError("The download of Kafka's jars was stopped.")


def _install(
    lock: Lock, wanted: Sequence[Jar], folder: Path, source: Source, cancelled: Event
) -> None:
    for left in folder.parent.glob(f".{folder.name}-*"):
        shutil.rmtree(left, ignore_errors=True)
    free = shutil.disk_usage(folder.parent).free
    if free < DOWNLOAD_BYTES:
        raise BrokerError(
            "There is too little room on the disk for Kafka's jars.",
            expected=f"{DOWNLOAD_BYTES >> 20} MiB free",
            found=f"{free >> 20} MiB",
            where=str(folder.parent),
            hint="Free some space and start again.",
        )
    work = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        complete = work / "jars"
        complete.mkdir()
        for jar in set(lock.jars) - set(wanted):
            shutil.copyfile(folder / jar.filename, complete / jar.filename)
        title = f"Downloading Kafka {lock.kafka_version}"
        with source(cancelled) as fetch, _progress(title, len(wanted)) as advance:
            _fetch_all(wanted, complete, fetch, cancelled, advance)
        if folder.exists():
            folder.rename(work / "old")
        complete.rename(folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _fetch_all(
    wanted: Sequence[Jar],
    target: Path,
    fetch: Fetch,
    cancelled: Event,
    advance: Callable[[], None],
) -> None:
    def get(jar: Jar) -> None:
        _stop_if(cancelled)
        fetch(jar, target / jar.filename)
        found = sha256_of(target / jar.filename)
        if found != jar.sha256:
            raise BrokerError(
                f"The downloaded jar {jar.filename} is not the one that the lock names.",
                expected=f"sha256 {jar.sha256}",
                found=f"sha256 {found}",
                where=jar.coordinates,
                hint="Try again; if it stays so, what serves the jars on this network changes "
                "them: use another network.",
            )
        advance()

    with ThreadPoolExecutor(PARALLEL) as pool:
        tasks = [pool.submit(get, jar) for jar in wanted]
        try:
            for task in tasks:
                task.result()
        except OSError as error:
            if error.errno == errno.ENOSPC:
                raise BrokerError("The disk is full.", where=str(target)) from None
            raise
        finally:
            pool.shutdown(cancel_futures=True)


@contextmanager
def _progress(title: str, count: int) -> Iterator[Callable[[], None]]:
    """Show a bar on standard error if it is a terminal; give what moves it by one jar."""
    if not sys.stderr.isatty():
        yield lambda: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    from jobtrail.terminal.tables import progress_console

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TextColumn("jars"), console=progress_console()) as bar:
        task = bar.add_task(title, total=count)
        yield lambda: bar.advance(task)


def write_lock(lock: Lock, path: Path = LOCK_FILE) -> None:
    """Replace the lock file in one step."""
    atomic_write(path, format_lock(lock).encode())
