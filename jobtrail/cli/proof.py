"""The token of a command: the caller's own, or that of the local service's administrator.

The administrator's token sees every job, so it is sent to the service of this data folder only. Any
other service gets the token that the caller has given for it: a token that was sent to the wrong
service is compromised.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar
from urllib.parse import urlsplit

import click

from jobtrail.access.sizes import MAX_TOKEN_BYTES
from jobtrail.core.errors import NotRunning, UsageError
from jobtrail.extras import require_extra
from jobtrail.local.running import read_running
from jobtrail.processes.pids import birth_of, listens
from jobtrail.processes.process_states import read_processes
from jobtrail.settings import Settings

_F = TypeVar("_F", bound=Callable[..., Any])
#: The lifetime of a command's token.
_LIFETIME: Final = timedelta(days=2)


class Asked(NamedTuple):
    """A service, and a token for it."""

    url: str
    token: str


def token_options(command: _F) -> _F:
    """Add `--token` and `--token-file`."""
    options = (
        click.option(
            "--token",
            envvar="JOBTRAIL_TOKEN",
            help="A token or an API key. Default: JOBTRAIL_TOKEN, else, for the local "
            "service only, one that sees every job.",
        ),
        click.option(
            "--token-file",
            type=click.Path(path_type=Path, dir_okay=False),
            help="The same, from a file: other users can see command lines.",
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


def whom_to_ask(
    settings: Settings, url: str | None, token: str | None, token_file: Path | None, name: str
) -> Asked:
    """Return the service to query, and the token.

    Args:
        settings: With the data folder.
        url: As the caller gave it; None for the service of the data folder.
        token: As the caller gave it.
        token_file: A file with the token.
        name: The user name of the command at the local service.

    Raises:
        NotRunning: No URL is given, and no service runs on the data folder; or none of its
            processes listens on its port.
        UsageError: The service is another one, and there is no token for it; or the file has none.
    """
    if token_file is not None:
        token = _read(token_file)
    local: str | None = None
    if token is None or url is None:
        with contextlib.ExitStack() as stack:
            if url is not None:
                stack.enter_context(contextlib.suppress(NotRunning))
            local = read_running(settings.data_dir).url
    asked = url if url is not None else str(local)
    if token is None:
        if local is None or asked.rstrip("/") != local.rstrip("/"):
            raise UsageError(
                "The local administrator's token goes to the service of this data folder only.",
                where=str(settings.data_dir),
                expected=f"no --url, or --url {local}" if local else "no --url: none runs here",
                found=f"--url {asked}",
                hint="Give a token of that service: JOBTRAIL_TOKEN, or --token-file FILE.",
            )
        if not _is_ours(settings.data_dir, asked):
            raise NotRunning(
                "The local service does not answer at the moment.",
                where=asked,
                expected="one of its processes: no other gets the local administrator's token",
                found="none of them listens there",
                hint="Try again; `jobtrail status` shows its processes.",
            )
        require_extra("server", "Asking the local service without a token")
        from jobtrail.access.tokens import READ_ALL, local_secret, make_token

        token = make_token(local_secret(settings.data_dir), name, (), (READ_ALL,), _LIFETIME)
    return Asked(asked, token)


def _is_ours(data_dir: Path, url: str) -> bool:
    """Tell whether a process of the local service listens there.

    Where one has ended, any user of the machine may take its port before it is started again.
    """
    port = urlsplit(url).port
    running = read_processes(data_dir)
    return (
        port is not None
        and running is not None
        and running.current
        and any(
            process.pid is not None
            and birth_of(process.pid) == process.birth
            and listens(process.pid, port)
            for process in running.processes
        )
    )


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_TOKEN_BYTES + 2)
        token = content.strip(b" \t\r\n").decode("ascii")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError("The token can't be read.", where=str(path), found=str(error)) from None
    if not token or len(token) > MAX_TOKEN_BYTES or not token.isprintable() or " " in token:
        raise UsageError(
            "This file has no token.",
            where=str(path),
            expected=f"one token or API key, {MAX_TOKEN_BYTES} bytes at most",
        )
    return token
