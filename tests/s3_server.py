"""A store that speaks S3, as a process on loopback; `tests/install.sh` installs it."""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[1]
SERVER: Final = ROOT / ".venv" / "s3-server"
BUCKET: Final = "logs"


@contextlib.contextmanager
def s3_server() -> Iterator[str]:
    """Run a store with one empty bucket; the value is its `host:port`."""
    if not (SERVER / ".installed").exists():
        if os.environ.get("CI") == "true":
            pytest.fail("tests/install.sh has not installed the S3 server")
        pytest.skip("no S3 server: PYTHON=python sh tests/install.sh installs it")
    child = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "--host", "127.0.0.1", "--port", "0"],
        env=os.environ | {"PYTHONPATH": str(SERVER), "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert child.stderr is not None
        found = None
        while found is None:
            line = child.stderr.readline()
            assert line, f"the S3 server ended with {child.wait()}"
            found = re.search(r"http://(127\.0\.0\.1:\d+)", line)
        address = found.group(1)
        client = http.client.HTTPConnection(address)
        client.request("PUT", f"/{BUCKET}")
        assert client.getresponse().status == 200
        # Its access log would fill the pipe.
        with subprocess.Popen(["cat"], stdin=child.stderr, stdout=subprocess.DEVNULL) as drain:
            yield address
            child.terminate()
            drain.wait()
    finally:
        child.kill()
        child.wait()


def location(address: str, prefix: str, key: str = "tester", bucket: str = BUCKET) -> str:
    """Return the location of an archive, with all that is needed to reach it."""
    options = f"endpoint_override={address}&scheme=http&region=us-east-1"
    return f"s3://{key}:secret-word@{bucket}/{prefix}?{options}"
