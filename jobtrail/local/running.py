"""The local service, from its data folder: how commands find a running `jobtrail up`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import msgspec

from jobtrail.core.errors import NotRunning
from jobtrail.local.kafka_login import login_of
from jobtrail.processes.pids import birth_of
from jobtrail.settings import Settings

FILE: Final = "run.json"


class Running(msgspec.Struct, frozen=True):
    """A local service that answers."""

    pid: int
    #: Distinguishes the process from another one with its id (`jobtrail.processes.pids`).
    birth: str
    #: Where the API listens.
    url: str
    bootstrap_servers: str
    version: str
    #: The file with the login of its own Kafka; empty where it uses another one, whose login is in
    #: the settings.
    client_properties: str = ""


def read_running(data_dir: Path) -> Running:
    """Find the service that runs on a data folder.

    Raises:
        NotRunning: None runs, or this user may not read its file.
    """
    try:
        running = msgspec.json.decode((data_dir / FILE).read_bytes(), type=Running)
        if birth_of(running.pid) == running.birth:
            return running
    except PermissionError as error:
        raise NotRunning(
            "This user can't find out whether a local service runs.",
            where=str(data_dir),
            found=str(error),
            hint="Run this as the owner of the folder, or name a service with --url.",
        ) from None
    except (OSError, msgspec.MsgspecError):
        pass
    raise NotRunning(
        "No local service is running.",
        where=str(data_dir),
        hint="Start it with `jobtrail up`, or name one with --data-dir, "
        "--bootstrap-servers or --url.",
    )


def with_log(settings: Settings) -> Settings:
    """Return settings that reach a log: where they name no cluster, that of the local service.

    Raises:
        NotRunning: They name none, and no local service runs on the data folder, or this user
            may not read the password of its Kafka.
    """
    if settings.bootstrap_servers:
        return settings
    return with_log_of(settings, read_running(settings.data_dir))


def with_log_of(settings: Settings, running: Running) -> Settings:
    """Return settings that reach the log of a local service.

    Raises:
        NotRunning: This user may not read the password of its Kafka.
    """
    found: dict[str, Any] = {"bootstrap_servers": running.bootstrap_servers}
    if running.client_properties:
        found |= login_of(Path(running.client_properties)).overrides
    return settings.model_copy(update=found)
