"""Where the local administrator's token goes: to the service of its data folder alone."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner

from jobtrail.cli import main
from jobtrail.cli.proof import whom_to_ask
from jobtrail.errors import NotRunning, UsageError
from jobtrail.local import FILE, Running
from jobtrail.pids import birth_of
from jobtrail.settings import Settings
from jobtrail.tokens import local_secret, read_token

HERE = "http://127.0.0.1:8040"


@pytest.fixture
def running(tmp_path: Path) -> Settings:
    """Return the settings of a service that runs, as its data folder says."""
    pid = os.getpid()
    said = Running(pid, str(birth_of(pid)), HERE, "127.0.0.1:9092", "1")
    (tmp_path / FILE).write_bytes(msgspec.json.encode(said))
    return Settings(data_dir=tmp_path)


def asked(settings: Settings, url: str | None = None, **given: Any) -> tuple[str, str]:
    given = {"token": None, "token_file": None, "name": "cli"} | given
    return whom_to_ask(settings, url, **given)


@pytest.mark.parametrize("url", [None, HERE, HERE + "/"])
def test_the_service_of_the_data_folder_gets_it(running: Settings, url: str | None) -> None:
    found, token = asked(running, url)
    assert found == (url or HERE)
    assert read_token(local_secret(running.data_dir), token).user == "cli"


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


def test_a_token_comes_from_a_file(running: Settings, tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_bytes(b"from-a-file\r\n")
    assert asked(running, "http://example.org", token_file=path)[1] == "from-a-file"
    for content in (b"", b"\n", b"two words", "é".encode(), b"x" * 9_000):
        path.write_bytes(content)
        with pytest.raises(UsageError, match=r"token can't be read|holds no token"):
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
