"""The log on its cluster: whether it is durable, and whether projectors read it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

from jobtrail.local.checks.cluster import AHEAD, Cluster
from jobtrail.local.checks.finding import Finding, ok, problem, warning
from jobtrail.log import topic_checks
from jobtrail.log.dead_topic import open_letters
from jobtrail.settings import Settings


def topics(settings: Settings, cluster: Cluster) -> Iterator[Finding]:
    """Check that both topics are there, led, and configured to keep everything."""
    described = {name: topic.described for name, topic in cluster.topics.items()}
    found = list(topic_checks.findings(settings, described))
    for one in found:
        yield Finding(one.check, "problem" if one.is_problem else "warning", one.found, one.mend)
    for name, topic in described.items():
        if not list(topic_checks.findings_of(settings, name, topic)):
            yield ok("topics", f"{name} keeps everything, {len(topic.partitions)} partitions")


def clock(settings: Settings, cluster: Cluster) -> Iterator[Finding]:
    """Check that no record's timestamp is in the future."""
    log = cluster.topics.get(settings.topic)
    if log is None:
        return
    if log.ahead:
        places = ", ".join(f"{number}:{offset}" for number, offset in sorted(log.ahead.items()))
        yield warning(
            "clock",
            f"records are more than {AHEAD:.0f} s in the future, from partition:offset {places}",
            "Set the clock of this machine or of the producers, by NTP say; lag is wrong until "
            "then.",
        )
    else:
        yield ok("clock", "no record of the log is in the future")


async def dead_letters(settings: Settings, cluster: Cluster) -> AsyncIterator[Finding]:
    """Count the records of the open dead letters."""
    if settings.dead_topic not in cluster.topics:
        return
    count, _newest = await open_letters(settings)
    if count:
        yield warning(
            "dead-letters",
            f"dead letters for {count:,} records are open in {settings.dead_topic}",
            "`jobtrail dead list` shows them and why.",
        )
    else:
        yield ok("dead-letters", "none")


def group(settings: Settings, cluster: Cluster) -> Iterator[Finding]:
    """Check that each partition has a projector."""
    log = cluster.topics.get(settings.topic)
    if log is None:
        return
    mend = "Start `jobtrail up`, or the projectors; after a start it takes some seconds."
    served = {number for member in cluster.members for number in member.partitions}
    missing = sorted(log.partitions.keys() - served)
    who = ", ".join(
        f"{member.name} ({len(member.partitions)} partitions)" for member in cluster.members
    )
    if not cluster.members:
        yield problem(
            "group", f"the group {settings.group} has no member: no projector folds the log", mend
        )
    elif missing:
        yield problem(
            "group",
            f"no projector has partitions {topic_checks.listed(missing)}; the group is "
            f"{cluster.group_state}: {who}",
            mend,
        )
    else:
        yield ok("group", f"each partition has a projector: {who}")
    idle = [member.name for member in cluster.members if not member.partitions]
    if idle and cluster.group_state == "Stable" and len(cluster.members) <= len(log.partitions):
        yield warning(
            "group",
            f"members without a partition: {', '.join(idle)}",
            "One that has ended leaves the group within half a minute.",
        )
