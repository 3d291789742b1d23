"""What the page is made of, and the words that say what exactly is counted."""

from __future__ import annotations

from typing import Final, NamedTuple


class Section(NamedTuple):
    """A part of the page: words, a plot, tables."""

    name: str
    title: str
    #: What is counted, exactly.
    words: str
    #: The name of its plot; empty for none.
    plot: str
    #: Its tables: the figure's name and the caption. Those behind `FOLDED` are folded up.
    tables: tuple[tuple[str, str], ...]


#: Figures with a row for each step of time: too long to stand open.
FOLDED: Final = frozenset({"arrivals", "flow", "rates", "waiting_distribution",
                           "running_distribution"})  # fmt: skip

_PERCENTILES: Final = (
    "pN is the smallest of these times that at least N % of them do not exceed. In the plot the "
    "highest column of each row is equally high, and the axis is logarithmic."
)

SECTIONS: Final = (
    Section(
        "types",
        "Jobs by type and state",
        "Every job that was known at the end of the range, in the state that it was in then.",
        "types",
        (("types", "Jobs by type and state at the end of the range"),),
    ),
    Section(
        "arrivals",
        "Arrivals and ends",
        "A job arrives with the first event that sets its state. It ends each time that an event "
        "puts it into one of the states completed, failed, cancelled and expired: a job that is "
        "taken up again can end more than once.",
        "arrivals",
        (("arrivals", "Arrivals and ends by time"),),
    ),
    Section(
        "flow",
        "Flow through the states",
        "How many jobs were in each state at the end of every step of time. A widening band is a "
        "stock that builds up.",
        "flow",
        (("flow", "Jobs in each state by time"),),
    ),
    Section(
        "waiting",
        "How long jobs waited",
        "One waiting time for each time that a job became active out of created or retry: from the "
        "event that put it into that state to the one that made it active. Jobs that were never "
        f"taken up have none. {_PERCENTILES}",
        "waiting",
        (
            ("waiting", "Waiting times by job type"),
            ("waiting_distribution", "Waiting times by their length"),
        ),
    ),
    Section(
        "running",
        "How long jobs ran",
        "One running time for each run that ended: from the event that made a job active to its "
        "next change of state, whichever that was. A retry begins a run of its own. Runs that go "
        f"on have none yet. {_PERCENTILES}",
        "running",
        (
            ("running", "Running times by job type"),
            ("running_distribution", "Running times by their length"),
        ),
    ),
    Section(
        "rates",
        "Failures and retries",
        "The failure rate is the share of failures among the ends. The retry rate is the share of "
        "those that ended for a retry among the runs that ended. A dot is one step of time, larger "
        "with more jobs; the line is the rate of the seven steps around it. The table compares the "
        "first half of the range's time with the second.",
        "rates",
        (
            ("rates_by_type", "Failure and retry rates by job type"),
            ("rates", "Failure and retry rates by time"),
        ),
    ),
    Section(
        "slowest",
        "Slowest jobs",
        "Of the jobs whose last change ended them in the range, those with the longest time from "
        "their first event to that end, and the states that it was spent in.",
        "slowest",
        (("slowest", "Slowest jobs that ended"),),
    ),
    Section(
        "oldest",
        "Oldest open jobs",
        "The jobs that have not ended, those that arrived first before the others. The age is the "
        "time from a job's first event to the end of the range.",
        "",
        (("oldest", "Jobs that have not ended"),),
    ),
    Section(
        "users",
        "Heaviest users",
        "By the running time of their jobs: all runs that ended in the range, together.",
        "users",
        (("users", "Users by running time"),),
    ),
)
