"""`jobtrail projector` and `jobtrail api`: one process each, for what runs processes by itself.

That is systemd, Docker or Kubernetes, where `jobtrail up` is everything on one machine. The command
becomes the process: it has the same number, and gets every signal.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NoReturn

import click

from jobtrail.cli.common import chosen_data_dir, data_dir_option
from jobtrail.core.errors import SettingError, UsageError
from jobtrail.files.private import keep_private, private_folder
from jobtrail.processes.runtime import child_environment
from jobtrail.settings import Settings, is_in_environment, load

#: Where a projector that is a command answers for its health, unless told otherwise.
_HEALTH_PORT: Final = 8041

_SERVERS: Final = click.option(
    "--bootstrap-servers", help="Kafka: host:port[,host:port]. Default: JOBTRAIL_BOOTSTRAP_SERVERS."
)
_STORE: Final = click.option(
    "--store", help="Projection store: sqlite:///FOLDER. Default: `store` in the data folder."
)


@click.command()
@data_dir_option
@_SERVERS
@_STORE
@click.option(
    "--name", default="projector-0", show_default=True,
    help="Its name in the consumer group: the same at every start, and no other projector's.",
)  # fmt: skip
@click.option("--health-host", help="Address of /healthz, /readyz and /metrics.")
@click.option(
    "--health-port", type=click.IntRange(0, 65535),
    help=f"Their port; 0 turns them off. Default: JOBTRAIL_HEALTH_PORT, else {_HEALTH_PORT}.",
)  # fmt: skip
def projector(
    data_dir: Path | None,
    bootstrap_servers: str | None,
    store: str | None,
    name: str,
    health_host: str | None,
    health_port: int | None,
) -> None:
    """Run one projector in the foreground, until SIGINT or SIGTERM.

    It folds the log into the projection store, and shares out the partitions with all projectors
    of its consumer group (JOBTRAIL_GROUP). It needs a Kafka that has the topics, and a store folder
    on this machine that it may write; it makes the store. Prints `ready` on standard output once it
    has partitions. All settings: docs/settings.md.
    """
    if not name.strip():
        raise UsageError(
            "A projector needs a name.",
            where="--name",
            hint="Take one that stays the same at every start, as projector-0.",
        )
    if health_port is None and not is_in_environment("health_port"):
        health_port = _HEALTH_PORT
    settings = _settings(
        data_dir,
        bootstrap_servers=bootstrap_servers,
        store=store,
        health_host=health_host,
        health_port=health_port,
    )
    _become("projections", ["--name", name], settings)


@click.command()
@data_dir_option
@_SERVERS
@_STORE
@click.option("--host", help="Address to listen on. Default: JOBTRAIL_HOST, else 127.0.0.1.")
@click.option(
    "--port", type=click.IntRange(0, 65535),
    help="Port to listen on; 0 takes a free one. Default: JOBTRAIL_PORT, else 8040.",
)  # fmt: skip
@click.option(
    "--drain", type=click.FloatRange(0, 600),
    help="Seconds in which it still takes requests after SIGTERM, while /readyz is 503. Default: "
    "JOBTRAIL_DRAIN, else 0.",
)  # fmt: skip
def api(
    data_dir: Path | None,
    bootstrap_servers: str | None,
    store: str | None,
    host: str | None,
    port: int | None,
    drain: float | None,
) -> None:
    """Run one API process in the foreground, until SIGINT or SIGTERM.

    It answers from the projection store and the live end of the log. It needs a Kafka that has the
    topics, and the store folder of a projector on this machine; it starts without either, and says
    at /readyz what is missing. The data folder has the secret that signs tokens: all API processes
    that are to take the same tokens need the same one. Several may share a port on one machine.
    Prints `ready http://HOST:PORT` on standard output once it listens. All settings:
    docs/settings.md.
    """
    settings = _settings(
        data_dir,
        bootstrap_servers=bootstrap_servers,
        store=store,
        host=host,
        port=port,
        drain=drain,
    )
    _become("services.api", [], settings)


def _settings(data_dir: Path | None, **given: Any) -> Settings:
    """Return the settings of a process that stands by itself.

    Raises:
        UsageError: No Kafka is named.
        SettingError: A setting is wrong, or the data folder can't be used.
    """
    settings = load(data_dir=chosen_data_dir(data_dir), **given)
    if not settings.bootstrap_servers:
        # That of a local service is not taken: `jobtrail up` has processes of its own on it.
        raise UsageError(
            "It is not said where Kafka is.",
            expected="host:port[,host:port]",
            hint="Give --bootstrap-servers or set JOBTRAIL_BOOTSTRAP_SERVERS. `jobtrail up` runs "
            "everything on one machine, with a Kafka of its own.",
        )
    folder = settings.data_dir.absolute()
    keep_private()
    try:
        private_folder(folder)
        usable = os.access(folder, os.W_OK | os.X_OK)
        fault = "no right to write there"
    except OSError as error:
        usable, fault = False, error.strerror or str(error)
    if not usable:
        raise SettingError(
            "The data folder can't be used.",
            where=str(folder),
            found=fault,
            hint="Give this user the right to write there, or choose another folder with "
            "--data-dir or JOBTRAIL_DATA_DIR.",
        )
    return settings.model_copy(update={"data_dir": folder})


def _become(module: str, arguments: Sequence[str], settings: Settings) -> NoReturn:
    """Go on as one of this service's modules, in this very process."""
    sys.stdout.flush()
    sys.stderr.flush()
    command = [sys.executable, "-m", module, *arguments]
    os.execve(sys.executable, command, child_environment(settings))  # noqa: S606
