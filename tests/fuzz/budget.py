# SPDX-License-Identifier: AGPL-3.0-or-later
"""How many inputs are tried: few and always the same ones, or new ones for FUZZ_SECONDS."""

import os
import time
from collections.abc import Callable

from hypothesis import HealthCheck, settings

#: How long each of the tests runs; 0 for the small budget.
SECONDS = float(os.environ.get("FUZZ_SECONDS") or 0)

_BASE = settings(
    deadline=None,
    database=None,
    print_blob=True,
    # A request takes as long as it takes.
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


def spend(run: Callable[[settings], None], *, examples: int, round_of: int) -> None:
    """Call `run` with the settings of Hypothesis, once or again and again.

    Args:
        run: tries as many inputs as its settings say.
        examples: the small budget.
        round_of: how many inputs `run` is called with each time, in the long one.
    """
    if not SECONDS:
        run(settings(_BASE, max_examples=examples, derandomize=True))
        return
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        run(settings(_BASE, max_examples=round_of, derandomize=False))
