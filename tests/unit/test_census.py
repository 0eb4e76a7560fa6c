# SPDX-License-Identifier: AGPL-3.0-or-later
"""When what is stored is counted."""

import asyncio
from collections.abc import Callable
from typing import Any

import attr
import pytest
from prometheus_client import REGISTRY

from synapse_msc3881.census import DELAY_MS, RETRY_MS, Census
from synapse_msc3881.metrics import Metrics
from synapse_msc3881.storage.stored_counts import Stored

SERVER = "census.example.org"


@attr.s(auto_attribs=True)
class Tables:
    """Stand where the database is.

    Attributes:
        seconds: how long a count takes.
        now: the time.
    """

    users: int = 0
    seconds: float = 0.0
    now: float = 0.0
    broken: bool = False
    reads: int = 0

    async def read(self) -> Stored:
        self.reads += 1
        if self.broken:
            raise OSError("no database")
        self.now += self.seconds
        return Stored(self.users, {(True, False): self.users})


class Later:
    """What is to be called later, and in how many milliseconds."""

    def __init__(self) -> None:
        self.calls: list[tuple[float, Callable[[], Any]]] = []

    def __call__(self, delay_ms: float, function: Callable[[], Any], *, desc: str) -> None:
        assert desc
        self.calls.append((delay_ms, function))

    def run(self) -> float:
        """Make the one call that is due; returns in how many milliseconds it was."""
        ((delay_ms, function),) = self.calls
        self.calls.clear()
        asyncio.run(function())
        return delay_ms


@pytest.fixture
def tables() -> Tables:
    return Tables()


@pytest.fixture
def later() -> Later:
    return Later()


@pytest.fixture
def census(tables: Any, later: Later) -> Census:
    return Census(tables, Metrics(SERVER), later, lambda: tables.now)


def shown() -> float | None:
    return REGISTRY.get_sample_value(
        "synapse_msc3881_users_with_device_rules", {"server_name": SERVER}
    )


def test_many_changes_are_counted_once(census: Census, tables: Tables, later: Later) -> None:
    tables.users = 3
    for _ in range(100):
        census.changed()
    assert later.run() == DELAY_MS
    assert (tables.reads, shown()) == (1, 3)
    assert later.calls == []
    tables.users = 4
    census.changed()
    later.run()
    assert (tables.reads, shown()) == (2, 4)


def test_the_longer_it_takes_the_less_often_it_is_done(
    census: Census, tables: Tables, later: Later
) -> None:
    tables.seconds = 0.05
    census.changed()
    later.run()
    census.changed()
    assert later.run() == pytest.approx(100 * 50)


def test_what_failed_is_tried_again(
    census: Census, tables: Tables, later: Later, caplog: pytest.LogCaptureFixture
) -> None:
    tables.broken = True
    census.changed()
    later.run()
    assert "counting what is stored failed" in caplog.text
    tables.broken, tables.users = False, 7
    assert later.run() == RETRY_MS
    assert shown() == 7
    census.changed()
    assert later.run() == DELAY_MS
