"""The projection store: its layout, its version, and its lag."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any, Final

import msgspec

from jobtrail.local.checks import cluster as clusters
from jobtrail.local.checks.cluster import Cluster, NoCluster
from jobtrail.local.checks.finding import Finding, ok, problem, warning
from jobtrail.local.checks.modules import NoAnswer, ask
from jobtrail.settings import Settings

#: Seconds within which a lagging projector makes progress, if it makes any.
_PROGRESS_WITHIN: Final = 5.0
#: Seconds without a heartbeat of a projector: several heartbeats, and a rebalance.
_BEAT_WITHIN: Final = 60.0
_AGAIN: Final = "Delete the folder: the store is folded again from the log."


async def read_store(settings: Settings) -> dict[str, Any] | None:
    """Return the state of the store; None where there is none.

    Raises:
        NoAnswer: It can't be read.
    """
    folder = settings.store_folder
    if not folder.exists():
        return None
    answer = await ask(settings, "projections.sqlite.files.layout", str(folder))
    found: dict[str, Any] = msgspec.json.decode(answer)
    return found


def layout(settings: Settings, store: dict[str, Any] | None) -> Iterator[Finding]:
    """Check that store.json exists, has this version, and matches the shards."""
    folder = settings.store_folder
    if store is None or not (store["exists"] or store["there"]):
        yield warning("store", f"there is no store at {folder} yet", "A projector makes it.")
        return
    said, found = store["said"], store["found"]
    if said is not None and said["schema"] != store["schema"]:
        yield problem(
            "schema",
            f"the store at {folder} has schema {said['schema']}, this jobtrail has "
            f"{store['schema']}",
            _AGAIN,
        )
        return
    if not store["agrees"]:
        what = "does not agree with the shards" if said else "is missing or torn"
        mend = (
            f"The next start corrects it: {found['shards']} shards, {found['partitions']} "
            "partitions."
            if found
            else _AGAIN
        )
        yield problem("layout", f"{folder / 'store.json'} {what}", mend)
        return
    lost = sorted((set(range(said["shards"])) - set(store["there"])) | set(store["unreadable"]))
    for shard in lost:
        yield problem(
            "shards",
            f"{folder}/shard-{shard}.db is missing or damaged",
            "A projector sets it aside and folds its partitions again.",
        )
    if not lost:
        yield ok(
            "store",
            f"schema {said['schema']}, {said['shards']} shards, {said['partitions']} partitions",
        )


def heartbeats(store: dict[str, Any] | None) -> Iterator[Finding]:
    """Check that each partition's projector has had a recent heartbeat, and is not stuck."""
    beats: dict[str, Any] = {} if store is None else store["beats"]
    now = time.time()
    silent = {int(n): now - beat["at"] / 1e6 for n, beat in beats.items()}
    late = sorted(number for number, seconds in silent.items() if seconds > _BEAT_WITHIN)
    if late:
        yield problem(
            "heartbeats",
            f"no projector had a heartbeat for {max(silent.values()):.0f} s at partitions "
            f"{', '.join(map(str, late))}",
            "Start one; where one runs, its log shows what it waits for.",
        )
    for number, beat in beats.items():
        if beat["stopped"]:
            yield problem(
                "stopped",
                f"partition {number} stands still: {beat['stopped']}",
                "The other partitions continue; docs/reliability.md explains how this one can.",
            )
    if beats and not late:
        yield ok("heartbeats", f"the last is {min(silent.values()):.0f} s old")


def partitions(
    settings: Settings, store: dict[str, Any] | None, cluster: Cluster
) -> Iterator[Finding]:
    """Check that the store has the log's partitions, and no more events than the log."""
    log = cluster.topics.get(settings.topic)
    if store is None or log is None or store["said"] is None:
        return
    count = store["said"]["partitions"]
    if count != len(log.partitions):
        yield problem(
            "partitions",
            f"the log {settings.topic} has {len(log.partitions)} partitions, the store {count}",
            "Jobs change their partition with that number: copy the log into a topic with as many "
            "as wanted, and give the store another folder.",
        )
        return
    for text, offset in store["checkpoints"].items():
        number = int(text)
        begin, end = log.begins.get(number), log.ends.get(number)
        if begin is None or end is None:
            continue
        if offset > end:
            yield problem(
                "progress",
                f"partition {number} is folded to {offset}, and its log ends at {end}: it has lost "
                "its end, or is another log",
                "The projector notices that and folds it again; else delete the store's folder.",
            )
        elif offset < begin:
            yield problem(
                "progress",
                f"partition {number} is folded to {offset}, and its log begins at {begin} now",
                "Events between were deleted before they were folded: see retention.",
            )


def _offsets(store: dict[str, Any]) -> dict[int, int]:
    return {int(number): offset for number, offset in store["checkpoints"].items()}


async def progress(
    settings: Settings, store: dict[str, Any] | None, cluster: Cluster
) -> AsyncIterator[Finding]:
    """Check that lagging partitions make progress."""
    log = cluster.topics.get(settings.topic)
    if store is None or log is None:
        return
    first = _offsets(store)
    lag = {n: log.ends[n] - at for n, at in first.items() if log.ends.get(n, 0) > at}
    if not lag:
        yield ok("progress", "the store has caught up with the log")
        return
    clock = asyncio.get_running_loop().time
    give_up = clock() + _PROGRESS_WITHIN
    still: list[int] = []
    while clock() < give_up:
        await asyncio.sleep(0.5)
        try:
            found = await read_store(settings)
            ends = await clusters.ends(settings)
        except (NoAnswer, NoCluster) as error:
            yield problem("progress", f"it can't be looked at: {error}", "Look again.")
            return
        now = {} if found is None else _offsets(found)
        still = sorted(n for n in lag if now.get(n, 0) <= first[n] and ends.get(n, 0) > first[n])
        if not still:
            yield ok("progress", f"the store lags by {sum(lag.values()):,} and makes progress")
            return
    yield problem(
        "progress",
        f"partitions {', '.join(map(str, still))} lag and made no progress in "
        f"{_PROGRESS_WITHIN:.0f} s",
        "Where no projector runs, start one; else its log shows what it waits for.",
    )
