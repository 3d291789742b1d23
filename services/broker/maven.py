"""Gets jars by their Maven coordinates, with the package `jgo` and no Maven on the machine.

Only a first start and the making of the lock come here: importing jgo takes longer than all the
rest of a start's Python.
"""

from __future__ import annotations

import errno
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from typing import Any

from jgo.config import GlobalSettings
from jgo.constants import MAVEN_CENTRAL_URL
from jgo.maven import MavenContext, PythonResolver

from jobtrail.core.errors import BrokerError
from services.broker.jars import Fetch, Jar

#: Seconds without a byte after which a download is given up.
TIMEOUT = 30
#: How often a download is tried.
ATTEMPTS = 3


class Maven:
    """A local copy of what was asked for, and the way to the remote it comes from.

    A mirror that jgo's own settings file names is asked too; the lock says what is accepted.

    Args:
        folder: Where downloads are kept.
        cancelled: Set by another thread to end a running download.
    """

    def __init__(self, folder: Path, cancelled: Event) -> None:
        self._cancelled = cancelled
        self._context = MavenContext(
            resolver=PythonResolver(progress_callback=self._watched),
            repo_cache=folder,
            remote_repos={"central": MAVEN_CENTRAL_URL, **GlobalSettings.load().repositories},
            timeout=TIMEOUT,
        )

    @contextmanager
    def _watched(self, _filename: str, _size: int) -> Iterator[Callable[[int], None]]:
        def update(_count: int) -> None:
            if self._cancelled.is_set():
                raise BrokerError("The download of Kafka's jars was stopped.")

        yield update

    def download(self, coordinates: str) -> Path:
        """Return the file of `group:artifact:version`, downloaded if need be.

        Raises:
            BrokerError: It can't be had.
        """
        artifact = self._context.create_dependency(coordinates).artifact
        for attempt in range(ATTEMPTS):
            try:
                return Path(artifact.resolve())
            except OSError as error:
                artifact.cached_path.unlink(missing_ok=True)
                if error.errno == errno.ENOSPC:
                    raise
                if attempt == ATTEMPTS - 1:
                    raise _unreachable(coordinates, error) from error
            except RuntimeError as error:
                raise BrokerError(
                    "A jar of Kafka's is not served.",
                    where=coordinates,
                    hint="If jgo's settings name repositories, check that one of them has it.",
                ) from error
        raise AssertionError("unreachable")

    def resolve(self, coordinates: str) -> list[tuple[str, str, str]]:
        """Return (group, artifact, version) of a jar and of all it needs to run.

        Raises:
            BrokerError: The tree can't be had, or holds something that is no plain jar.
        """
        root = self._context.create_dependency(coordinates)
        try:
            roots, needed = self._context.resolver.resolve([root])
        except OSError as error:
            raise _unreachable(coordinates, error) from error
        except RuntimeError as error:
            raise BrokerError(
                "Some dependencies of a jar are not served.", where=coordinates
            ) from error
        return [_plain(found) for found in (*roots, *needed)]


def _plain(found: Any) -> tuple[str, str, str]:
    if found.classifier or found.type != "jar":
        raise BrokerError(
            "The lock can't name this dependency of Kafka's.",
            expected="a jar without a classifier",
            found=f"{found.groupId}:{found.artifactId}:{found.type}:{found.classifier}",
        )
    return found.groupId, found.artifactId, found.version


def _unreachable(coordinates: str, error: OSError) -> BrokerError:
    return BrokerError(
        "Kafka's jars can't be downloaded.",
        expected="a way to Maven's central repository, needed once per user and version of Kafka",
        found=type(error).__name__,
        where=coordinates,
        hint="Connect this machine to the network and start again.",
    )


@contextmanager
def from_maven(cancelled: Event) -> Iterator[Fetch]:
    """Give the `Source` of a first start; its files are temporary."""
    with tempfile.TemporaryDirectory(prefix="jobtrail-") as folder:
        maven = Maven(Path(folder), cancelled)

        def fetch(jar: Jar, target: Path) -> None:
            shutil.move(maven.download(jar.coordinates), target)

        yield fetch
