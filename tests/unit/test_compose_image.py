"""The containers' image, made without Docker, and every service's command started in it.

Its layout is made in a folder, from the wheel that the Dockerfile's files give.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import time
import venv
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from jobtrail.access.tokens import local_secret, read_token
from jobtrail.version import __version__
from projections.projector.health import Health
from projections.projector.health_server import serving_health
from projections.projector.vitals import Vitals
from tests.processes import free_port
from tests.unit.test_compose import (
    OURS,
    ROOT,
    SERVICES,
    every,
    image_environment,
    image_health,
    sent_to_builder,
    stages,
)


@dataclass(frozen=True)
class Image:
    """What the Dockerfile makes, with another root."""

    root: Path
    wheel: Path

    @property
    def prefix(self) -> Path:
        return self.root / "opt" / "jobtrail"

    def environment(self, **others: str) -> dict[str, str]:
        """Return the image's environment, in terms of its root here."""
        here = f"python{sys.version_info.major}.{sys.version_info.minor}"
        found = {}
        for name, value in image_environment().items():
            value = re.sub(r"python3\.\d+", here, value).replace("$PATH", os.defpath)
            found[name] = re.sub(r"/(?:opt|var/lib)/jobtrail", rf"{self.root}\g<0>", value)
        return {**found, **others}

    def run(self, *command: str, **others: str) -> subprocess.CompletedProcess[str]:
        """Run a command as the container would, in a folder that has nothing to import."""
        return subprocess.run(
            command, env=self.environment(**others), cwd=self.root, capture_output=True, text=True
        )


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Image:
    """Build the wheel from what the builder is sent, and install it as the Dockerfile does."""
    root = tmp_path_factory.mktemp("image")
    source, wheels = root / "src", root / "wheel"
    for path in sent_to_builder():
        (source / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / path, source / path)
    build = ["-m", "hatchling", "build", "-t", "wheel", "-d"]
    assert any(" ".join(build) in rest for rest in every("RUN", stages()[0]))
    subprocess.run([sys.executable, *build, str(wheels)], cwd=source, check=True)
    (wheel,) = wheels.glob("*.whl")
    made = Image(root, wheel)
    venv.create(made.prefix, with_pip=False, symlinks=True)
    pip = [sys.executable, "-m", "pip", "--python", str(made.prefix / "bin" / "python")]
    subprocess.run([*pip, "install", "--no-deps", "--no-index", str(wheel)], cwd=root, check=True)
    # The packages are those of this environment. A checkout that it points to is not among them:
    # .pth files are read in this one folder only.
    site = Path(sysconfig.get_path("purelib", vars={"base": str(made.prefix)}))
    folders = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    (site / "packages.pth").write_text("\n".join(folders) + "\n", encoding="utf-8")
    return made


def test_the_wheel_has_one_import_name_and_no_leftovers(image: Image) -> None:
    with zipfile.ZipFile(image.wheel) as wheel:
        names = wheel.namelist()
    tops = {name.partition("/")[0] for name in names}
    assert tops == {"jobtrail", f"jobtrail-{__version__}.dist-info"}
    assert not [name for name in names if name.endswith((".pyc", ".db", ".new"))]
    assert "jobtrail/_processes/services/broker/jars.lock" in names


@pytest.mark.parametrize("name", OURS)
def test_a_services_command_starts_from_the_wheel(image: Image, name: str) -> None:
    done = image.run(*SERVICES[name]["command"], "--help")
    assert done.returncode == 0, done.stderr
    assert "usage" in done.stdout.lower()


IMPORT = """
import importlib, json, sys
for name in sys.argv[1:]:
    importlib.import_module(name)
print(json.dumps([sys.path, {n: getattr(m, "__file__", "") for n, m in sys.modules.items()}]))
"""


def test_processes_are_made_of_the_wheel_and_of_what_the_image_keeps(image: Image) -> None:
    entries = ["projections.__main__", "services.api.__main__", "services.broker.topics"]
    assert SERVICES["topics"]["command"][:3] == ["python", "-m", entries[-1]]
    commands = {tuple(SERVICES[name]["command"][:2]) for name in OURS if name != "topics"}
    assert commands == {("jobtrail", "projector"), ("jobtrail", "api")}
    image_command = json.loads(every("CMD", stages()[-1])[-1])
    assert image_command == SERVICES["api"]["command"]
    done = image.run("python", "-c", IMPORT, "jobtrail.cli", *entries)
    assert done.returncode == 0, done.stderr
    path, loaded = json.loads(done.stdout)
    assert not {"", str(ROOT), str(image.root)} & set(path)
    ours = ("jobtrail", "projections", "services")
    files = {name: file for name, file in loaded.items() if name.partition(".")[0] in ours}
    assert files.keys() >= {*ours, *entries}
    assert not [file for file in files.values() if not Path(file).is_relative_to(image.prefix)]
    (removed,) = [rest.split("--yes ")[1] for rest in every("RUN", stages()[0]) if "--yes " in rest]
    assert removed
    assert not set(removed.split()) & loaded.keys()


def test_a_token_is_made_as_the_docs_say(image: Image) -> None:
    done = image.run("jobtrail", "token", "--user", "alice", "--group", "stewards")
    assert done.returncode == 0, done.stderr
    folder = Path(image.environment()["JOBTRAIL_DATA_DIR"])
    claims = read_token(local_secret(folder), done.stdout.strip())
    assert (claims.user, claims.groups) == ("alice", ("stewards",))


@pytest.fixture
def port(image: Image) -> Iterator[str]:
    """Run the API on a free port, which is the value; there is no Kafka where it looks."""
    places = {"JOBTRAIL_HOST": "127.0.0.1", "JOBTRAIL_BOOTSTRAP_SERVERS": "127.0.0.1:1"}
    environment = image.environment(JOBTRAIL_PORT="0", **places)
    command = SERVICES["api"]["command"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as api:
        try:
            assert api.stdout is not None
            ready = re.fullmatch(r"ready http://.*:(\d+)\n", api.stdout.readline())
            assert ready, "the API does not start"
            yield ready[1]
        finally:
            api.terminate()
    assert api.returncode == 0


def test_the_images_check_asks_the_api(image: Image, port: str) -> None:
    done = image.run(*image_health(), JOBTRAIL_PORT=port)
    assert done.returncode == 0, done.stderr
    assert image.run(*image_health(), JOBTRAIL_PORT="1").returncode == 1


async def test_the_projectors_check_asks_whether_it_is_ready(image: Image) -> None:
    check = SERVICES["projector"]["healthcheck"]["test"][1:]
    vitals, port = Vitals(stalled_after=60), free_port()

    async def status() -> int:
        done = await asyncio.to_thread(image.run, *check, JOBTRAIL_HEALTH_PORT=str(port))
        return done.returncode

    assert await status() == 1
    async with serving_health(Health(vitals, stalled_after=60), "127.0.0.1", port):
        assert await status() == 1
        vitals.log_answers, vitals.assigned = True, lambda: {0}
        vitals.beaten_at = time.monotonic()
        assert await status() == 0
