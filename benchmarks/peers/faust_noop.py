"""Stock Faust with an agent that does nothing: `python -m benchmarks.peers.faust_noop --events N`.

It says `ready` and what it measured after so many events, and then waits to be ended.
"""

from __future__ import annotations

from typing import Any

import faust

from benchmarks.peers.stock_faust import Tally, job_events, main, make_app
from jobtrail.settings import Settings


def build_app(settings: Settings, tally: Tally) -> faust.App:
    """Build the app."""
    app = make_app(settings, "memory://")

    async def do_nothing(stream: Any) -> None:
        async for _value in stream:
            tally.one()

    app.agent(job_events(app, settings), concurrency=1, name="do-nothing")(do_nothing)
    return app


if __name__ == "__main__":
    main(build_app, __doc__)
