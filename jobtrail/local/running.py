"""The local service as its data folder shows it: how commands find what `jobtrail up` runs."""

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
    #: Tells that process from another with its number (`jobtrail.processes.pids`).
    birth: str
    #: Where the API listens.
    url: str
    bootstrap_servers: str
    version: str
    #: The file that says how clients get into its own Kafka; empty where it uses another one, into
    #: which the settings lead.
    client_properties: str = ""


def read_running(data_dir: Path) -> Running:
    """Find the service that runs on a data folder.

    Raises:
        NotRunning: None does, or this user may not know of it.
    """
    try:
        running = msgspec.json.decode((data_dir / FILE).read_bytes(), type=Running)
        if birth_of(running.pid) == running.birth:
            return running
    except PermissionError as error:
        raise NotRunning(
            "Whether a local service runs can't be seen.",
            where=str(data_dir),
            found=str(error),
            hint="Run this as the user whose folder it is, or say where a service is with --url.",
        ) from None
    except (OSError, msgspec.MsgspecError):
        pass
    raise NotRunning(
        "No local service is running.",
        where=str(data_dir),
        hint="Start it with `jobtrail up`, or say where one is with --data-dir, "
        "--bootstrap-servers or --url.",
    )


def with_log(settings: Settings) -> Settings:
    """Return settings that reach a log: where they name no cluster, that of the local service.

    Raises:
        NotRunning: They name none, and no local service runs on their data folder, or this user
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
