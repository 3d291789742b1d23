"""The metric of restarts, which `jobtrail up` counts in a file of the data folder."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from jobtrail.processes.process_states import read_processes
from services.api.metrics.metrics import Metrics


def measure_restarts(metrics: Metrics, data_dir: Path) -> None:
    """Register the restarts; there are none where `jobtrail up` does not run the processes."""
    metrics.count(
        "jobtrail_process_restarts",
        "How often a process of the local service was started again since `jobtrail up` started. "
        "The same in every process on its data folder.",
        "process",
        partial(_restarts, data_dir),
    )


def _restarts(data_dir: Path) -> dict[str, int]:
    states = read_processes(data_dir)
    if states is None or not states.current:
        return {}
    return {process.name: process.restarts for process in states.processes}
