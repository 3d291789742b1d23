"""Where the local administrator's token goes: to the service of its data folder alone."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner

from jobtrail.access.tokens import local_secret, read_token
from jobtrail.cli import main
from jobtrail.cli.proof import whom_to_ask
from jobtrail.core.errors import NotRunning, UsageError
from jobtrail.local.running import FILE, Running
from jobtrail.processes.pids import birth_of
from jobtrail.processes.process_states import FILE as PROCESSES
from jobtrail.processes.process_states import Processes, ProcessState
from jobtrail.settings import Settings

HERE = "http://127.0.0.1:8040"


@pytest.fixture
def here() -> Iterator[str]:
    """Listen somewhere, as the API process of a service does; return the URL."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def say_running(folder: Path, url: str, api: int | None) -> Settings:
    """Write what `up` writes; return the settings of that service.

    Args:
        folder: The data folder.
        url: Where the API is.
        api: The number of its process; None while it is not there.
    """
    pid = os.getpid()
    birth = str(birth_of(pid))
    said = Running(pid, birth, url, "127.0.0.1:9092", "1")
    (folder / FILE).write_bytes(msgspec.json.encode(said))
    state = ProcessState("api", "ready", pid=api, birth=None if api is None else birth_of(api))
    processes = Processes(pid, birth, (ProcessState("broker"), state))
    (folder / PROCESSES).write_bytes(msgspec.json.encode(processes))
    return Settings(data_dir=folder)


@pytest.fixture
def running(tmp_path: Path, here: str) -> Settings:
    """Return the settings of a service that runs, as its data folder says."""
    return say_running(tmp_path, here, os.getpid())


def asked(settings: Settings, url: str | None = None, **given: Any) -> tuple[str, str]:
    given = {"token": None, "token_file": None, "name": "cli"} | given
    return whom_to_ask(settings, url, **given)


@pytest.mark.parametrize("end", [None, "", "/"])
def test_the_service_of_the_data_folder_gets_it(
    running: Settings, here: str, end: str | None
) -> None:
    url = None if end is None else here + end
    found, token = asked(running, url)
    assert found == (url or here)
    assert read_token(local_secret(running.data_dir), token).user == "cli"


@pytest.mark.parametrize("who", ["nobody", "another process", "one that has ended"])
def test_who_took_the_port_of_a_process_that_ended_does_not_get_it(
    tmp_path: Path, here: str, who: str
) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        settings = say_running(tmp_path, here, None if who == "nobody" else other.pid)
        if who == "one that has ended":
            other.communicate(b"\n")
        with pytest.raises(NotRunning, match="none of them listens there"):
            asked(settings)
        assert asked(settings, token="theirs") == (here, "theirs")
        other.kill()
    assert not (tmp_path / "secret").exists()


@pytest.mark.parametrize(
    "url",
    [
        "http://example.org",
        "http://127.0.0.1:8041",
        "https://127.0.0.1:8040",
        "http://127.0.0.1:8040@example.org",
        "http://127.0.0.1:8040.example.org",
        "http://127.0.0.1:8040/x",
        "http://localhost:8040",
        "",
    ],
)
def test_no_other_gets_it(running: Settings, url: str) -> None:
    with pytest.raises(UsageError, match="goes to the service of this data folder only") as caught:
        asked(running, url)
    assert "JOBTRAIL_TOKEN" in str(caught.value)
    assert "--token-file" in str(caught.value)
    assert asked(running, url, token="theirs") == (url, "theirs")


def test_where_nothing_runs_nobody_gets_it(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path)
    with pytest.raises(UsageError, match="none runs here"):
        asked(settings, HERE)
    with pytest.raises(NotRunning):
        asked(settings)
    assert asked(settings, HERE, token="theirs") == (HERE, "theirs")
    assert not (tmp_path / "secret").exists()


def test_without_the_means_to_make_one_the_extra_is_named(running: Settings) -> None:
    code = "import sys; sys.modules['jwt'] = None; from jobtrail.cli import main; main()"
    found = subprocess.run(
        [sys.executable, "-c", code, "search", "--data-dir", str(running.data_dir)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (found.returncode, found.stdout) == (2, "")
    assert found.stderr == (
        "error: Asking the local service without a token needs packages that are not installed "
        "(jwt): pip install 'jobtrail[server]' brings them.\n"
    )
    assert not (running.data_dir / "secret").exists()


def test_a_token_comes_from_a_file(running: Settings, tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_bytes(b"from-a-file\r\n")
    assert asked(running, "http://example.org", token_file=path)[1] == "from-a-file"
    for content in (b"", b"\n", b"two words", "é".encode(), b"x" * 9_000):
        path.write_bytes(content)
        with pytest.raises(UsageError, match=r"token can't be read|has no token"):
            asked(running, token_file=path)
    with pytest.raises(UsageError, match="can't be read"):
        asked(running, token_file=tmp_path / "none")


@pytest.mark.parametrize(
    "command",
    [
        ("search",),
        ("summary",),
        ("get", "job"),
        ("wait", "job"),
        ("explain", "job"),
        ("status",),
    ],
)
def test_every_command_keeps_to_it(running: Settings, command: tuple[str, ...]) -> None:
    options = ["--data-dir", str(running.data_dir), "--url", "http://127.0.0.1:1"]
    result = CliRunner(env={"JOBTRAIL_TOKEN": None}).invoke(main, [*command, *options])
    text = f"{result.exception} {result.output}"
    assert "goes to the service of this data folder only" in text
