"""The base as a worker or a notebook has it: the wheel in an environment of its own.

What it weighs, that producer and client are there, and what each command says of a part that is
not.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from jobtrail.cli import COMMANDS
from tests.processes import clean_environment

ROOT: Final = Path(__file__).parents[2]
#: With jobtrail itself, and with what pip compiles.
MAX_PACKAGES: Final = 20
MAX_BYTES: Final = 30 * 1024 * 1024

#: Every command, and the extra without which it can do nothing; None for those of the base.
EXTRAS: Final = {
    "api": "server",
    "archive": "replay",
    "bridge": "pg-boss",
    "dead": "server",
    "diff": "replay",
    "doctor": "server",
    "emit": None,
    "explain": None,
    "get": None,
    "import": "server",
    "keys": "server",
    "log": "server",
    "rebuild": "server",
    "projector": "server",
    "replay": "replay",
    "report": "replay",
    "search": None,
    "skip": "server",
    "status": "server",
    "summary": None,
    "token": "server",
    "up": "server",
    "verify": "server",
    "wait": None,
}
#: What a command of the base is asked; none of it needs a service that answers.
ASKED: Final = {
    "emit": ["/dev/null"],
    "explain": ["x"],
    "get": ["x"],
    "search": [],
    "summary": [],
    "wait": ["x", "--within", "0"],
}
_PIN: Final = re.compile(r"^([\w.-]+==[^\s;]+(?: ; [^\\]+)?)", re.MULTILINE)


class Base:
    """An environment with the base alone."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._bin = folder / "base" / "bin"
        (self.packages,) = (folder / "base" / "lib").glob("python*/site-packages")

    def run(self, *argv: str, status: int = 0) -> tuple[str, str]:
        """Run a program of the environment; return what it says on both outputs."""
        environment = clean_environment() | {"HOME": str(self.folder)}
        done = subprocess.run(
            [str(self._bin / argv[0]), *argv[1:]],
            cwd=self.folder, env=environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == status, done.stderr
        return done.stdout, done.stderr


@pytest.fixture(name="base", scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Base:
    """Build the wheel and install it, with the versions that the lock has."""
    folder = tmp_path_factory.mktemp("base")

    def python(*arguments: str) -> None:
        subprocess.run([sys.executable, "-m", *arguments], cwd=ROOT, check=True)

    python("hatchling", "build", "-t", "wheel", "-d", str(folder))
    python("venv", "--without-pip", str(folder / "base"))
    (wheel,) = folder.glob("*.whl")
    pins = _PIN.findall((ROOT / "requirements.lock").read_text())
    (folder / "pins.txt").write_text("\n".join(pins))
    python(
        "pip", "--python", str(folder / "base" / "bin" / "python"), "install", "--quiet",
        "--disable-pip-version-check", "-c", str(folder / "pins.txt"), str(wheel),
    )  # fmt: skip
    return Base(folder)


def test_it_is_small(base: Base) -> None:
    packages = sorted(path.name for path in base.packages.glob("*.dist-info"))
    assert len(packages) <= MAX_PACKAGES, packages
    size = sum(path.stat().st_size for path in base.packages.rglob("*") if path.is_file())
    assert size <= MAX_BYTES


@pytest.mark.parametrize(
    "code",
    [
        "from jobtrail import JobProducer, SyncJobProducer; JobProducer.job, SyncJobProducer",
        "from jobtrail.client import Client, SyncClient",
        "from jobtrail.produce.log_writer import LogWriter",
        "from jobtrail.core import decoding, events, fold",
        "import jobtrail.client.explain, jobtrail.contract.event_schemas",
        "import jobtrail.integrations.outbox",
    ],
)
def test_producer_and_client_are_there(base: Base, code: str) -> None:
    assert base.run("python", "-W", "error", "-c", code) == ("", "")


def test_an_event_is_made_and_checked(base: Base) -> None:
    code = (
        "from jobtrail.core.events import decode, encode\n"
        "from jobtrail.produce.event_factory import EventMaker\n"
        "made = EventMaker('//base').created('job-1', job_type='t', owner='o')\n"
        "print(decode(encode(made)).subject)"
    )
    assert base.run("python", "-c", code) == ("job-1\n", "")


def test_without_tables_the_answer_is_json_on_a_terminal_too(base: Base) -> None:
    code = (
        "import io, sys\n"
        "from jobtrail.cli.common import progress, tabular\n"
        "class Terminal(io.StringIO):\n"
        "    def isatty(self): return True\n"
        "sys.stdout = sys.stderr = screen = Terminal()\n"
        "asked = tabular(False)\n"
        "with progress('reading', 3) as told: told(1)\n"
        "sys.__stdout__.write(f'{asked} {screen.getvalue()!r}')"
    )
    assert base.run("python", "-c", code) == ("False ''", "")


def test_no_command_is_missing_here() -> None:
    assert {name: place.extra for name, place in COMMANDS.items()} == EXTRAS


def test_every_command_is_listed(base: Base) -> None:
    said, _ = base.run("jobtrail", "--help")
    assert re.findall(r"^  (\w+) ", said.partition("Commands:")[2], re.MULTILINE) == sorted(EXTRAS)


@pytest.mark.parametrize("name", EXTRAS)
def test_every_command_has_help(base: Base, name: str) -> None:
    said, _ = base.run("jobtrail", name, "--help")
    assert said.startswith(f"Usage: jobtrail {name} ")
    if EXTRAS[name]:
        assert f"pip install 'jobtrail[{EXTRAS[name]}]'" in " ".join(said.split())


@pytest.mark.parametrize("name", [name for name, extra in EXTRAS.items() if extra])
def test_a_command_without_its_extra_says_which_in_one_sentence(base: Base, name: str) -> None:
    for arguments in ([], ["list"], ["--to", "x", "--json"]):
        said, complaint = base.run("jobtrail", name, *arguments, status=2)
        assert said == ""
        assert complaint.count("\n") == 1
        assert complaint.startswith(
            f"error: `jobtrail {name}` needs packages that are not installed"
        )
        assert complaint.endswith(f"pip install 'jobtrail[{EXTRAS[name]}]' brings them.\n")


@pytest.mark.parametrize("name", ASKED)
def test_a_command_of_the_base_gets_as_far_as_the_service(base: Base, name: str) -> None:
    _, complaint = base.run("jobtrail", name, *ASKED[name], status=1)
    assert complaint.startswith("error: No local service is running.")


def test_every_command_of_the_base_is_asked() -> None:
    assert set(ASKED) == {name for name, extra in EXTRAS.items() if extra is None}
