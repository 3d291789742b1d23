"""Hypothesis profiles of the unit tests: quick, more where `CI` is set, most by `make thorough`.

No profile has a deadline: how fast a machine is says nothing about whether the code is right. Nor
does one explain failures: that traces every line, and takes longer than finding them.
"""

from __future__ import annotations

import os

from hypothesis import Phase, settings

PHASES = [phase for phase in Phase if phase is not Phase.explain]

settings.register_profile(
    "quick", max_examples=50, stateful_step_count=30, deadline=None, phases=PHASES
)
settings.register_profile(
    "ci",
    max_examples=150,
    stateful_step_count=50,
    deadline=None,
    phases=PHASES,
    print_blob=True,
)
settings.register_profile("thorough", settings.get_profile("ci"), max_examples=1_000)
# For mutation testing: no draw hangs on an earlier run, and nobody looks at how it fails.
settings.register_profile(
    "repeatable",
    settings.get_profile("quick"),
    derandomize=True,
    database=None,
    phases=[Phase.explicit, Phase.generate],
)
if os.environ.get("THOROUGH") == "true":
    settings.load_profile("thorough")
else:
    settings.load_profile("ci" if os.environ.get("CI") == "true" else "quick")
