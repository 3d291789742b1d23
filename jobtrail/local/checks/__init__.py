"""The checks of `jobtrail doctor`: small, separate, and without side effects."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from typing import Any

from jobtrail.core.errors import NotRunning
from jobtrail.local.checks import files, java, log, running, store
from jobtrail.local.checks.cluster import NoCluster, look
from jobtrail.local.checks.finding import Finding, problem, warning
from jobtrail.local.checks.modules import NoAnswer
from jobtrail.local.running import with_log_of
from jobtrail.settings import Settings


async def examine(settings: Settings) -> list[Finding]:
    """Run every applicable check.

    Args:
        settings: The data folder, and the cluster unless it is the local service's.
    """
    findings: list[Finding] = []
    for check in (
        running.service, running.processes, running.ports,
        files.folder, files.disk, files.clock, files.secrets, files.rights, files.torn,
    ):  # fmt: skip
        findings += await _run(check.__name__, check(settings))
    findings += await _run("ready", running.readiness(settings))
    if not settings.bootstrap_servers:
        findings += await _run("java", java.java(settings))
    found = None
    try:
        found = await store.read_store(settings)
        findings += await _run("store", store.layout(settings, found))
    except (NoAnswer, OSError) as error:
        findings.append(
            problem("store", f"{settings.store_folder} can't be looked at: {error}", "Try again.")
        )
    return findings + await _examine_log(settings, found)


async def _examine_log(settings: Settings, found: dict[str, Any] | None) -> list[Finding]:
    service = running.found_running(settings)
    if not settings.bootstrap_servers and service is not None:
        try:
            settings = with_log_of(settings, service)
        except NotRunning as error:
            return [problem("log", f"{error.what} {error.found}", error.hint or "")]
    if not settings.bootstrap_servers:
        return [
            warning(
                "log",
                "its broker is not running: topics, group and progress were not checked",
                "Start `jobtrail up`, or name a Kafka with --bootstrap-servers.",
            )
        ]
    findings = []
    if service is not None and service.bootstrap_servers == settings.bootstrap_servers:
        findings = await _run("kafka-access", running.kafka_access(service))
    try:
        cluster = await look(settings)
    except NoCluster as error:
        return [
            *findings,
            problem(
                "log",
                f"Kafka at {settings.bootstrap_servers} does not answer: {error}",
                "Start it, or see its own log.",
            ),
        ]
    for check in (log.topics, log.clock, log.dead_letters, log.group):
        findings += await _run(check.__name__, check(settings, cluster))
    findings += await _run("heartbeats", store.heartbeats(found))
    findings += await _run("partitions", store.partitions(settings, found, cluster))
    return findings + await _run("progress", store.progress(settings, found, cluster))


async def _run(name: str, check: Iterable[Finding] | AsyncIterator[Finding]) -> list[Finding]:
    """Run one check; its failure does not hide the findings of the others."""
    found: list[Finding] = []
    try:
        if isinstance(check, AsyncIterator):
            found.extend([finding async for finding in check])
        else:
            found.extend(check)
    except Exception as error:
        found.append(problem(name, f"this could not be checked: {error!r}", "Try again."))
    return found
