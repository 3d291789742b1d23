"""What a soak found, as figures and as a table."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final

import psutil

from tests.faults.kit.keeping import Sample
from tests.faults.kit.stage import Stage

#: Samples of an incarnation that a slope may be made of.
_ENOUGH: Final = 12


def figures(stage: Stage, done: Counter[str], checks: list[dict[str, Any]]) -> dict[str, Any]:
    """Return all figures of a run but those of its last check."""
    load, clients = stage.load, stage.clients
    return {
        "done": dict(done),
        "killed": {keeper.name: keeper.kills for keeper in stage.keepers},
        "paused": {keeper.name: keeper.pauses for keeper in stage.keepers},
        "fell": {keeper.name: Counter(keeper.fell) for keeper in stage.keepers if keeper.fell},
        "acknowledged": load.acknowledged,
        "posted": load.posted,
        "written_again": load.repeats,
        "answers": dict(clients.answers),
        "told_wrongly": dict(clients.faults),
        "words": clients.words,
        "woken": spread(clients.woken),
        "recovery": recoveries(stage),
        "memory": {keeper.name: memory(keeper.samples) for keeper in stage.keepers},
        "own_mib": round(psutil.Process().memory_info().rss / (1 << 20), 1),
        "checks": checks,
    }


def spread(seconds: Sequence[float]) -> dict[str, Any]:
    """Return count, median and maximum of some times."""
    finite = [one for one in seconds if one != float("inf")]
    return {
        "count": len(seconds),
        "never": len(seconds) - len(finite),
        "p50": round(statistics.median(finite), 3) if finite else None,
        "max": round(max(finite), 3) if finite else None,
    }


def recoveries(stage: Stage) -> dict[str, Any]:
    """Return per fault how long it took, and the same of those that hit while all else was well."""
    found: dict[str, Any] = {}
    for fault in sorted({recovery.fault for recovery in stage.recoveries}):
        all_of_it = [one for one in stage.recoveries if one.fault == fault]
        found[fault] = spread([one.seconds for one in all_of_it])
        found[fault]["alone"] = spread([one.seconds for one in all_of_it if one.alone])
    return found


def memory(samples: Sequence[Sample]) -> dict[str, Any]:
    """Return the most memory of a process, and how it grows.

    The slope is that of the longest incarnation, if it is long enough to have one; else that of
    the peaks of all of them, one after the other.
    """
    if not samples:
        return {"peak_mib": None, "slope_mib_per_hour": None, "of": "nothing"}
    peak = max(sample.mib for sample in samples)
    by_incarnation: dict[int, list[Sample]] = {}
    for sample in samples:
        by_incarnation.setdefault(sample.incarnation, []).append(sample)
    longest = max(by_incarnation.values(), key=len)
    if len(longest) >= _ENOUGH and len(longest) * 2 > len(samples):
        # What it fills at its begin is no growth.
        points = [(one.at, one.mib) for one in longest[len(longest) // 6 :]]
        of = f"{(points[-1][0] - points[0][0]) / 60:.0f} min of one incarnation"
    else:
        tops = [max(some, key=lambda one: one.mib) for some in by_incarnation.values()]
        points = [(one.at, one.mib) for one in tops]
        of = f"the peaks of {len(tops)} incarnations"
    return {"peak_mib": round(peak, 1), "slope_mib_per_hour": slope(points), "of": of}


def slope(points: Sequence[tuple[float, float]]) -> float | None:
    """Return the slope, per hour, of the straight line through points, by least squares."""
    if len({at for at, _ in points}) < 2:
        return None
    line = statistics.linear_regression(*zip(*points, strict=True))
    return round(line.slope * 3600, 1)


def in_words(counts: Mapping[str, int]) -> str:
    """Return counts as words."""
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items()) if count)


def markdown(found: Mapping[str, Any]) -> str:
    """Return a report as Markdown."""
    check = found.get("check") or {}
    differences = sum((check.get("differences") or {}).values())
    told = Counter(found.get("told_wrongly") or {})
    for kind in ("feed", "seen"):
        told.update(check.get(kind) or {})
    lines = [
        f"Seed {found['seed']}, {found['minutes']:g} minutes: "
        f"{'nothing wrong' if found['ok'] else 'SOMETHING IS WRONG'}.",
        *([f"It ended early: {found['error']}"] if found["error"] else []),
        "",
        "| | |",
        "|---|---|",
        f"| faults | {in_words(found.get('done', {}))} |",
        f"| acknowledged | {found.get('acknowledged', 0):,} |",
        f"| records of the log, jobs | {check.get('records', 0):,}, {check.get('jobs', 0):,} |",
        f"| lost | {check.get('lost')} |",
        f"| double | {check.get('double')} |",
        f"| differences | {differences if check else None} |",
        f"| told wrongly | {in_words(told) or 0} |",
        f"| from a job's end to its wait's answer | {_times(found.get('woken', {}))} |",
        f"| ended by themselves | {found.get('fell') or 'none'} |",
        f"| the check took | {check.get('seconds')} s, {check.get('peak_mib')} MiB |",
        "",
        "| fault | times | recovery p50, max | those alone |",
        "|---|---:|---|---|",
    ]
    for fault, times in found.get("recovery", {}).items():
        alone = times["alone"]
        lines.append(
            f"| {fault} | {times['count']} | {_times(times)} | {alone['count']}: {_times(alone)} |"
        )
    lines += ["", "| process | peak MiB | MiB per hour | of |", "|---|---:|---:|---|"]
    for name, of in found.get("memory", {}).items():
        lines.append(f"| {name} | {of['peak_mib']} | {of['slope_mib_per_hour']} | {of['of']} |")
    words = [*(found.get("words") or []), *(check.get("words") or [])]
    lines += ["", *[f"- {word[:500]}" for word in words[:40]]]
    return "\n".join(lines).rstrip() + "\n"


def _times(times: Mapping[str, Any]) -> str:
    if times.get("p50") is None:
        return f"never, {times['never']} times" if times.get("never") else "-"
    never = f", never {times['never']} times" if times["never"] else ""
    return f"{times['p50']:.1f} s, {times['max']:.1f} s{never}"
