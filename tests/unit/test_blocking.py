"""The thread behind a synchronous face leaves signals to the program that it runs in."""

from __future__ import annotations

import subprocess
import sys

#: As a child of Celery's pool is sent SIGTERM while it tells of its end.
HOLDS_A_SIGNAL_BACK = """
import asyncio, os, signal
from jobtrail.processes.loop_thread import LoopThread

thread = LoopThread("behind")
thread.start()
thread.run(asyncio.sleep(0))
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
os.kill(os.getpid(), signal.SIGTERM)
thread.run(asyncio.sleep(0))
print(signal.SIGTERM in signal.sigpending())
"""


def test_a_signal_that_is_held_back_does_not_come_in_by_the_thread() -> None:
    program = [sys.executable, "-c", HOLDS_A_SIGNAL_BACK]
    done = subprocess.run(program, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "True\n"), done.stderr
