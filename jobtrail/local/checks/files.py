"""The data folder: whether it is writable, has space, and is private."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec

from jobtrail.access.api_keys import read_keys
from jobtrail.access.tokens import local_secret
from jobtrail.core.errors import SettingError
from jobtrail.files.atomic import atomic_write
from jobtrail.files.private import OURS, is_reachable, wide
from jobtrail.local.checks.finding import Finding, ok, problem, warning
from jobtrail.settings import Settings

#: The broker does not start with less free space than this, in bytes; see docs/broker.md.
_LEAST_ROOM: Final = 300 << 20
#: Free space below which to warn: a day of a busy log, in bytes.
_LITTLE_ROOM: Final = 2 << 30
#: Seconds by which a file's time may be in the future: file systems and clocks round.
_AHEAD: Final = 60.0
#: The small JSON files of a data folder, and how they are restored.
_JSON: Final = {
    "run.json": "`jobtrail up` writes it again within seconds while it runs.",
    "processes.json": "`jobtrail up` writes it again within seconds while it runs.",
    "broker/broker.json": "The next start of the broker restores it.",
}


def folder(settings: Settings) -> Iterator[Finding]:
    """Check that the data folder and the store's can be written."""
    for name, path in (("folder", settings.data_dir), ("store-folder", settings.store_folder)):
        if not path.exists():
            if name == "folder":
                yield warning(name, f"{path} is not there", "`jobtrail up` makes it.")
            continue
        probe = path / "doctor.probe"
        try:
            atomic_write(probe, b"")
            probe.unlink()
        except OSError as error:
            yield problem(
                name,
                f"{path} can't be written: {error.strerror or error}",
                "Give this user the right to write there, make room, or choose another folder.",
            )
        else:
            yield ok(name, f"{path} can be written")


def disk(settings: Settings) -> Iterator[Finding]:
    """Check the free space of the disks with data."""
    seen = set()
    for path in (settings.data_dir, settings.store_folder):
        if not path.exists() or path.stat().st_dev in seen:
            continue
        seen.add(path.stat().st_dev)
        free = shutil.disk_usage(path).free
        text = f"{free >> 20:,} MiB free at {path}"
        mend = "Free some space, or move the data folder to a larger disk."
        if free < _LEAST_ROOM:
            yield problem("disk", f"{text}, less than {_LEAST_ROOM >> 20} MiB", mend)
        elif free < _LITTLE_ROOM:
            yield warning("disk", f"{text}, less than {_LITTLE_ROOM >> 20:,} MiB", mend)
        else:
            yield ok("disk", text)


def clock(settings: Settings) -> Iterator[Finding]:
    """Check that no file's time is in the future: then the machine's clock was set back."""
    if not settings.data_dir.is_dir():
        return
    files = [*settings.data_dir.iterdir(), *settings.data_dir.glob("store/*")]
    ahead = []
    for file in files:
        try:
            age = time.time() - file.stat().st_mtime
        except OSError:
            continue  # it was removed in between
        if age < -_AHEAD:
            ahead.append(f"{file.name} by {-age:.0f} s")
    if ahead:
        yield problem(
            "clock",
            f"files are younger than now: {', '.join(sorted(ahead)[:5])}",
            "Set the clock of this machine, by NTP say.",
        )
    else:
        yield ok("clock", "no file is younger than now")


def secrets(settings: Settings) -> Iterator[Finding]:
    """Check that only the owner can access the secret and the API keys, and both are valid."""
    if (settings.data_dir / "secret").exists():
        try:
            local_secret(settings.data_dir)
            yield ok("secret", "it is valid and only its owner can access it")
        except SettingError as error:
            yield _refused("secret", error)
    path = settings.keys_path
    if path.exists():
        try:
            count = len(read_keys(path))
            yield ok("keys", f"{count} API keys, and only their owner can access them")
        except SettingError as error:
            yield _refused("keys", error)


def rights(settings: Settings) -> Iterator[Finding]:
    """Check that other users of the machine have no rights to the service's files."""
    for path, names in ((settings.data_dir, OURS), (settings.store_folder, None)):
        if not path.is_dir():
            continue
        owner = path.stat().st_uid
        if owner != os.geteuid():
            yield problem(
                "rights",
                f"{path} belongs to user {owner}, not to {os.geteuid()} who looks",
                "Run jobtrail as that user, or give the folder to this one.",
            )
            continue
        found = list(wide(path, names))
        if found and is_reachable(path):
            first, mode = found[0]
            yield problem(
                "rights",
                f"other users have rights to {len(found)} files and folders in {path}, the first "
                f"{first} (mode {mode:04o})",
                f"chmod -R go= {path}; the next `jobtrail up` does it too",
            )
        else:
            yield ok("rights", f"only its owner can access {path}")


def _refused(check: str, error: SettingError) -> Finding:
    found = f"{error.what} Found: {error.found}. Where: {error.where}"
    return problem(check, found, error.hint or "Put a copy in its place.")


def torn(settings: Settings) -> Iterator[Finding]:
    """Check that the small files are valid."""
    for name, mend in _JSON.items():
        path: Path = settings.data_dir / name
        try:
            msgspec.json.decode(path.read_bytes(), type=dict)
        except FileNotFoundError:
            continue
        except (OSError, msgspec.MsgspecError) as error:
            yield warning("torn-file", f"{path} can't be read: {error}", mend)
