"""The metric of restarts: what `jobtrail up` says of its processes, while it runs."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from jobtrail.processes.pids import birth_of
from jobtrail.processes.process_states import FILE, Processes, ProcessState
from services.api.metrics.metrics import Metrics
from services.api.metrics.restarts import measure_restarts


def test_restarts_are_counted_while_the_service_runs(tmp_path: Path) -> None:
    metrics = Metrics()
    measure_restarts(metrics, tmp_path)

    def lines() -> list[str]:
        return [
            line
            for line in metrics.text().decode().splitlines()
            if line.startswith("jobtrail_process_restarts_total")
        ]

    assert lines() == []
    states = (ProcessState("api-0", restarts=2), ProcessState("broker"))
    said = Processes(os.getpid(), birth_of(os.getpid()) or "", states)
    (tmp_path / FILE).write_bytes(msgspec.json.encode(said))
    assert lines() == [
        'jobtrail_process_restarts_total{process="api-0"} 2.0',
        'jobtrail_process_restarts_total{process="broker"} 0.0',
    ]
    (tmp_path / FILE).write_bytes(msgspec.json.encode(Processes(os.getpid(), "another", states)))
    assert lines() == []
