# SPDX-License-Identifier: AGPL-3.0-or-later
"""A fixture that counts inputs; tests/conftest.py shows the counts at the end of the run."""

from collections import Counter
from collections.abc import Iterator

import pytest

from tests.conftest import TRIED


@pytest.fixture
def tried(request: pytest.FixtureRequest) -> Iterator[Counter[str]]:
    """Counts what was tried, by what it was."""
    counter: Counter[str] = Counter()
    yield counter
    counts = ", ".join(f"{count} {what}" for what, count in sorted(counter.items()))
    request.node.user_properties.append((TRIED, counts or "nothing"))
