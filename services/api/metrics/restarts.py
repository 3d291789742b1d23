"""How often the local service's processes were started again, as `jobtrail up` says in a file."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from jobtrail.processes.process_states import read_processes
from services.api.metrics.metrics import Metrics


def measure_restarts(metrics: Metrics, data_dir: Path) -> None:
    """Add the restarts to the metrics; there are none where something else runs the processes."""
    metrics.count(
        "jobtrail_process_restarts",
        "How often a process of the local service was started again since `jobtrail up` started. "
        "The same in every process on its data folder.",
        "process",
        partial(_restarts, data_dir),
    )


def _restarts(data_dir: Path) -> dict[str, int]:
    said = read_processes(data_dir)
    if said is None or not said.current:
        return {}
    return {process.name: process.restarts for process in said.processes}
