"""A rebuild that dies at a step of its own choice, as by a power cut: a process for tests.

`python -m tests.rebuild_dying STEP`: at that many steps that change files of a store it ends itself
with SIGKILL, before the step is taken.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from typing import Any

from jobtrail.settings import load
from projections.rebuild import rebuild

#: What Python tells of before it is done.
STEPS = {"os.rename", "os.symlink", "os.remove", "shutil.rmtree", "os.mkdir"}


def main() -> None:
    """Rebuild shard 0, and die on the way."""
    left = int(sys.argv[1])

    def look(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal left
        if event in STEPS and str(settings.store_folder) in str(arguments[0]):
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    settings = load()
    sys.addaudithook(look)
    asyncio.run(rebuild(settings, 0))


if __name__ == "__main__":
    main()
