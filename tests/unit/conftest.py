"""Hypothesis profiles of the unit tests: a thorough one where `CI` is set, a quick one elsewhere.

No profile has a deadline: how fast a machine is says nothing about whether the code is right.
"""

from __future__ import annotations

import os

from hypothesis import settings

settings.register_profile(
    "thorough", max_examples=500, stateful_step_count=50, deadline=None, print_blob=True
)
settings.register_profile("quick", max_examples=50, stateful_step_count=30, deadline=None)
settings.load_profile("thorough" if os.environ.get("CI") == "true" else "quick")
