# SPDX-License-Identifier: AGPL-3.0-or-later
"""What can fail: counted, logged, and explained in the docs."""

import logging
import re
from pathlib import Path

import pytest

from synapse_msc3881.failures import LOG_INTERVAL_SECONDS, Failures, Fallback

DOCS = Path(__file__).parent.parent.parent / "docs"


def test_each_reason_is_in_the_docs() -> None:
    reasons = {fallback.reason for fallback in Fallback}
    assert len(reasons) == len(Fallback)
    internals = (DOCS / "how-it-works.md").read_text()
    table = internals.partition("## When something fails")[2].partition("\n## ")[0]
    assert set(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)) - {"reason"} == reasons
    monitoring = (DOCS / "monitoring.md").read_text().partition("`reason` is what failed")[2]
    assert reasons <= set(re.findall(r"`(\w+)`", monitoring.partition("\n\n")[0]))


@pytest.mark.parametrize("fallback", Fallback)
def test_a_failure_is_counted_each_time_and_logged_once_in_an_hour(
    fallback: Fallback, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR)
    counted: list[Fallback] = []
    now = 0.0
    failures = Failures(counted.append, lambda: now)

    failures.report(fallback, "@a:x", ValueError("secret"))
    failures.report(fallback, "@a:x", ValueError("secret"))
    assert counted == [fallback, fallback]
    (line,) = caplog.messages
    assert line.startswith(f"msc3881: {fallback.reason} failed for @a:x (ValueError); ")
    assert fallback.instead in line
    assert "secret" not in line

    failures.report(fallback, "@b:x", ValueError())
    failures.report(fallback, "@a:x", ValueError(), "the rule 'a'")
    assert caplog.messages[2].startswith(
        f"msc3881: {fallback.reason} failed for @a:x (ValueError in the rule 'a'); "
    )
    now = LOG_INTERVAL_SECONDS
    failures.report(fallback, "@a:x", ValueError())
    assert len(caplog.messages) == 4
