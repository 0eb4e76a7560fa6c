# SPDX-License-Identifier: AGPL-3.0-or-later
"""Fixtures for the tests that only make sense between several processes."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from demo.homeserver import Options
from tests.cluster.example import ExampleHomeserver
from tests.cluster.load import Count
from tests.conftest import FreshDeployment
from tests.harness.cluster import Cluster
from tests.harness.deployment import CHECKOUT
from tests.harness.postgres import Postgres
from tests.harness.valkey import Valkey


@pytest.fixture(scope="session")
def shared_cluster(make_deployment: FreshDeployment) -> Iterator[Cluster]:
    """The cluster that the tests share; what they stop, they start again."""
    cluster = make_deployment("cluster")
    assert isinstance(cluster, Cluster)
    yield cluster
    cluster.stop()
    cluster.assert_log_is_clean()


@pytest.fixture
def cluster(shared_cluster: Cluster) -> Iterator[Cluster]:
    """The shared cluster; a traceback in its log fails the test."""
    yield shared_cluster
    shared_cluster.homeserver.close_sessions()
    shared_cluster.assert_log_is_clean()


@pytest.fixture
def example(start_postgres: Callable[[], Postgres], tmp_path: Path) -> Iterator[ExampleHomeserver]:
    postgres = start_postgres()
    database = postgres.create_database()
    valkey = Valkey().start()
    options = Options(database=database.synapse_config(), python_path=[CHECKOUT])
    homeserver = ExampleHomeserver(tmp_path, options, valkey)
    try:
        yield homeserver.start()
    finally:
        homeserver.stop()
        valkey.stop()
        postgres.drop_database(database)


class FaultReport:
    """What faults did to Synapse without and with the module, to be printed at the end."""

    def __init__(self) -> None:
        self._counts: dict[str, dict[bool, Count]] = {}

    def add(self, fault: str, with_module: bool, count: Count) -> None:
        self._counts.setdefault(fault, {})[with_module] = count

    def lines(self) -> Iterator[str]:
        for fault, counts in self._counts.items():
            for with_module, count in counts.items():
                yield f"{'module ' if with_module else 'vanilla'} {count}  {fault}"


_report = FaultReport()


@pytest.fixture(scope="session")
def fault_report() -> FaultReport:
    return _report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    lines = list(_report.lines())
    if lines:
        terminalreporter.section("pushes under faults")
        for line in lines:
            terminalreporter.line(line)
