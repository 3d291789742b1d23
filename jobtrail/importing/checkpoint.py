"""How far an import came: a small file for each file that is imported.

It says only what Kafka has acknowledged, so that an import that goes on from it leaves nothing out.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Final

import msgspec

from jobtrail.files.atomic import atomic_write
from jobtrail.files.private import FILE_MODE, private_folder
from jobtrail.settings import Settings

_HEAD: Final = 64 * 1024


class Identity(msgspec.Struct, frozen=True):
    """What a file was when it was read; with another one nothing is gone on with."""

    size: int
    #: Nanoseconds since 1970 of its last change.
    changed: int
    #: SHA-256 of its beginning.
    head: str
    #: Of what is made of its rows.
    mapping: str


class Done(msgspec.Struct, frozen=True):
    """The rows of a file that need not be read again."""

    identity: Identity
    rows: int
    #: How many of them were rejected.
    refused: int
    #: The report of rejected rows, and its length behind them.
    rejects: str
    rejects_bytes: int
    #: The position in the log that holds their events.
    position: dict[int, int]


def identify(file: Path, mapping: str) -> Identity:
    """Return what a file is now.

    Args:
        file: Which one.
        mapping: The fingerprint of what is made of its rows.
    """
    with file.open("rb") as stream:
        state = os.fstat(stream.fileno())
        head = hashlib.sha256(stream.read(_HEAD)).hexdigest()
    return Identity(state.st_size, state.st_mtime_ns, head, mapping)


class Checkpoint:
    """Where the import of one file into one log says how far it came.

    Args:
        settings: The log, and the data folder that keeps it.
        file: The imported file.
        log: What tells this log from others that are reached from the same data folder.
    """

    def __init__(self, settings: Settings, file: Path, log: str) -> None:
        key = "\0".join((str(file.resolve()), log, settings.topic))
        name = hashlib.sha256(key.encode(errors="surrogateescape")).hexdigest()[:32]
        self.path = settings.data_dir / "imports" / f"{name}.json"

    def read(self) -> Done | None:
        """Return how far an interrupted import came; None where there was none."""
        try:
            return msgspec.json.decode(self.path.read_bytes(), type=Done)
        except (OSError, msgspec.MsgspecError):
            return None

    def write(self, done: Done) -> None:
        """Say how far the import came, as a whole or not at all."""
        private_folder(self.path.parents[1])
        private_folder(self.path.parent)
        atomic_write(self.path, msgspec.json.encode(done), mode=FILE_MODE)

    def forget(self) -> None:
        """Say that there is nothing to go on with."""
        self.path.unlink(missing_ok=True)
