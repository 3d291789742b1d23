"""What another user of this machine gets of a local service: run as root, says it as JSON.

`python -m tests.e2e.as_nobody FOLDER PORT...`: everything is loaded before the rights are given up,
since that user may not be able to read this checkout either.
"""

from __future__ import annotations

import asyncio
import concurrent.futures.thread  # noqa: F401 - it is loaded late otherwise
import json
import os
import pwd
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import aiokafka
from aiokafka.errors import KafkaError

from jobtrail.access.tokens import local_secret
from jobtrail.core.errors import JobtrailError
from jobtrail.local.checks import examine
from jobtrail.local.checks.running import _answers_anybody
from jobtrail.local.running import read_running
from jobtrail.settings import Settings

_WITHIN: Final = 20.0
#: What it tries as a password.
_GUESSES: Final[tuple[dict[str, Any], ...]] = (
    {},
    *(
        {
            "security_protocol": "SASL_PLAINTEXT",
            "sasl_mechanism": mechanism,
            "sasl_plain_username": user,
            "sasl_plain_password": password,
        }
        for mechanism in ("PLAIN", "SCRAM-SHA-512")
        for user, password in (("jobtrail", ""), ("broker", "broker"), ("jobtrail", "jobtrail"))
    ),
)


def readable(folder: Path) -> Iterator[str]:
    """Return all files and folders that can be opened, whatever they are called."""
    for path in paths(folder):
        try:
            os.close(os.open(path, os.O_RDONLY))
        except OSError:
            continue
        yield path


def paths(folder: Path) -> list[str]:
    """Return what root has found there."""
    return [str(folder), *map(str, folder.rglob("*"))]


async def writes(port: str) -> list[str]:
    """Return the ways in which a client gets into Kafka."""
    found = []
    for guess in _GUESSES:
        producer = aiokafka.AIOKafkaProducer(bootstrap_servers=f"127.0.0.1:{port}", **guess)
        try:
            async with asyncio.timeout(_WITHIN):
                await producer.start()
                await producer.send_and_wait("job-events", b"{}", key=b"x")
            found.append(str(guess))
        except (KafkaError, TimeoutError):
            pass
        finally:
            await producer.stop()
    return found


def words_of_others() -> str:
    """Return every command line of this machine that can be read."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.append(file.read_bytes().decode(errors="replace"))
        except OSError:
            continue
    return "\n".join(found)


def environments(pids: list[str]) -> list[str]:
    """Return those of these processes whose environment can be read."""
    found = []
    for pid in pids:
        try:
            Path(f"/proc/{pid}/environ").read_bytes()
        except OSError:
            continue
        found.append(pid)
    return found


def refusals(folder: Path) -> list[str]:
    """Return what commands say that are run on the folder."""
    found = []
    for ask in (read_running, local_secret):
        try:
            ask(folder)
        except JobtrailError as error:
            found.append(error.what)
    checks = {one.check for one in asyncio.run(examine(Settings(data_dir=folder)))}
    return [*found, *sorted(checks & {"folder", "store"})]


def main(folder: Path, ports: list[str], pids: list[str], secret: str) -> dict[str, Any]:
    """Look, as nobody."""
    seen = paths(folder)
    globals()["paths"] = lambda _folder: seen
    nobody = pwd.getpwnam("nobody")
    os.setgroups([])
    os.setgid(nobody.pw_gid)
    os.setuid(nobody.pw_uid)
    answering = [p for p in ports if asyncio.run(_answers_anybody(f"127.0.0.1:{p}"))]
    return {
        "looked at": len(seen),
        "readable": list(readable(folder)),
        "listens to anybody": answering,
        "lets in": asyncio.run(writes(ports[0])),
        "password on a command line": secret in words_of_others(),
        "environments": environments(pids),
        "refusals": refusals(folder),
    }


if __name__ == "__main__":
    asked = json.load(sys.stdin)
    found = main(Path(asked["folder"]), asked["ports"], asked["pids"], asked["secret"])
    json.dump(found, sys.stdout)
