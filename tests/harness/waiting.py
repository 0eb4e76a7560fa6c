# SPDX-License-Identifier: AGPL-3.0-or-later
"""Waiting for a condition that nothing announces."""

import time
from collections.abc import Callable

_POLL_SECONDS = 0.02


def wait_until(
    condition: Callable[[], bool], what: str = "what was waited for", timeout: float = 30.0
) -> None:
    """Return once the condition holds.

    Raises:
        AssertionError: it does not hold in time; the message says what was waited for.
    """
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not in {timeout:g} seconds"
        time.sleep(_POLL_SECONDS)
