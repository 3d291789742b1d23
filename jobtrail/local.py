"""The local service as its data folder shows it: how commands find what `jobtrail up` runs."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import msgspec
import psutil

from jobtrail.errors import NotRunning
from jobtrail.settings import Settings

_FILE: Final = "run.json"


class Running(msgspec.Struct, frozen=True):
    """A local service that answers."""

    pid: int
    #: Where the API listens.
    url: str
    bootstrap_servers: str
    version: str


def write_running(data_dir: Path, running: Running) -> None:
    """Say where the service is; `forget_running` takes it back."""
    path = data_dir / _FILE
    draft = path.with_suffix(".new")
    draft.write_bytes(msgspec.json.encode(running))
    draft.replace(path)


def forget_running(data_dir: Path) -> None:
    """Say that the service has stopped."""
    (data_dir / _FILE).unlink(missing_ok=True)


def read_running(data_dir: Path) -> Running:
    """Find the service that runs on a data folder.

    Raises:
        NotRunning: None does.
    """
    try:
        running = msgspec.json.decode((data_dir / _FILE).read_bytes(), type=Running)
        if psutil.pid_exists(running.pid):
            return running
    except (OSError, msgspec.MsgspecError):
        pass
    raise NotRunning(
        "No local service is running.",
        where=str(data_dir),
        mend="Start it with `jobtrail up`, or say where one is with --data-dir, "
        "--bootstrap-servers or --url.",
    )


def with_log(settings: Settings) -> Settings:
    """Return settings that reach a log: where they name no cluster, that of the local service.

    Raises:
        NotRunning: They name none, and no local service runs on their data folder.
    """
    if settings.bootstrap_servers:
        return settings
    running = read_running(settings.data_dir)
    return settings.model_copy(update={"bootstrap_servers": running.bootstrap_servers})
