# SPDX-License-Identifier: AGPL-3.0-or-later
"""Fixtures: servers to test against, and users on them.

Tests share a server and are independent of each other all the same: each has its own users and
rooms. A test that restarts its server or wants another configuration asks for `fresh_deployment`.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from demo.client import Session
from demo.gateway import Gateway
from tests.fuzz.budget import SECONDS
from tests.harness.cluster import Cluster
from tests.harness.deployment import KINDS, Deployment
from tests.harness.postgres import Postgres

# fresh_deployment(with_module=…, module_config=…, extra=…)
FreshDeployment = Callable[..., Deployment]

# How long one example takes says how busy the machine is, and no more. The tests of a change are
# the same each time; whoever looks for something new gives it time, with FUZZ_SECONDS.
hypothesis.settings.register_profile(
    "steady",
    deadline=None,
    derandomize=not SECONDS,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("steady")

#: What says nothing of the Synapse that it runs with: the documents, the harness, the benchmark.
SAME_ON_EACH_SYNAPSE = {
    "bench/test_results.py",
    "bench/test_tiny.py",
    "server/test_docs.py",
    "server/test_harness.py",
    "server/test_openapi.py",
    "server/test_prometheus.py",
    "unit/test_held_scopes.py",
    "unit/test_house.py",
    "unit/test_memory.py",
    "unit/test_page_bundle.py",
    "unit/test_page_texts.py",
    "unit/test_slices.py",
    "unit/test_tested.py",
}

#: The property of a test's report that says how many inputs it tried.
TRIED = "tried"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--deployments",
        default="sqlite,postgres",
        help=f"what to run the server tests on, separated by commas: {', '.join(KINDS)}",
    )
    parser.addoption(
        "--older", action="store_true", help="leave out what is the same on each Synapse"
    )


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave files out, for an older Synapse; None where others decide."""
    name = collection_path.relative_to(Path(__file__).parent).as_posix()
    return True if config.getoption("--older") and name in SAME_ON_EACH_SYNAPSE else None


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run each test that needs a server once on every kind that was asked for."""
    if "deployment_kind" in metafunc.fixturenames:
        kinds = metafunc.config.getoption("--deployments").split(",")
        if not set(kinds) <= set(KINDS):
            raise pytest.UsageError(f"--deployments knows: {', '.join(KINDS)}")
        if metafunc.definition.get_closest_marker("one_deployment"):
            kinds = kinds[:1]
        metafunc.parametrize("deployment_kind", kinds, scope="session")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how many inputs were tried where they were made up."""
    tried = {
        report.nodeid: count
        for reports in terminalreporter.stats.values()
        for report in reports
        for name, count in getattr(report, "user_properties", ())
        if name == TRIED
    }
    if tried:
        terminalreporter.section("inputs tried")
    for test, count in sorted(tried.items()):
        terminalreporter.write_line(f"{test}: {count}")


@pytest.fixture(scope="session")
def start_postgres() -> Iterator[Callable[[], Postgres]]:
    """Call it for the PostgreSQL server; the first call starts it."""
    started: list[Postgres] = []

    def get() -> Postgres:
        if not started:
            started.append(Postgres().start())
        return started[0]

    yield get
    for postgres in started:
        postgres.stop()


@pytest.fixture(scope="session")
def make_deployment(
    start_postgres: Callable[[], Postgres], tmp_path_factory: pytest.TempPathFactory
) -> FreshDeployment:
    """Call it with a kind, and options of Deployment, for one that is started."""

    def make(kind: str, **options: Any) -> Deployment:
        postgres = start_postgres() if kind != "sqlite" else None
        directory = tmp_path_factory.mktemp(f"synapse-{kind}")
        make_it = Cluster if kind == "cluster" else Deployment
        return make_it(kind=kind, directory=directory, postgres=postgres, **options).start()

    return make


@pytest.fixture(scope="session")
def shared_deployment(
    deployment_kind: str, make_deployment: FreshDeployment
) -> Iterator[Deployment]:
    """The server with the module that all tests share."""
    deployment = make_deployment(deployment_kind)
    yield deployment
    deployment.stop()
    deployment.assert_log_is_clean()


@pytest.fixture
def deployment(shared_deployment: Deployment) -> Iterator[Deployment]:
    """The shared server; a traceback in its log fails the test."""
    yield shared_deployment
    shared_deployment.homeserver.close_sessions()
    shared_deployment.assert_log_is_clean()


@pytest.fixture(scope="module")
def module_deployment(
    deployment_kind: str, make_deployment: FreshDeployment
) -> Iterator[FreshDeployment]:
    """Call it, with options of Deployment, for a server that the tests of a module share."""
    yield from _fresh(deployment_kind, make_deployment)


@pytest.fixture
def fresh_deployment(
    deployment_kind: str, make_deployment: FreshDeployment
) -> Iterator[FreshDeployment]:
    """Call it, with options of Deployment, for a server of the test's own."""
    yield from _fresh(deployment_kind, make_deployment)


def _fresh(kind: str, make_deployment: FreshDeployment) -> Iterator[FreshDeployment]:
    started: list[Deployment] = []

    def fresh(**options: Any) -> Deployment:
        started.append(make_deployment(kind, **options))
        return started[-1]

    yield fresh
    for deployment in started:
        deployment.stop()
    for deployment in started:
        deployment.assert_log_is_clean()


@pytest.fixture
def gateway() -> Iterator[Gateway]:
    with Gateway() as gateway:
        yield gateway


@pytest.fixture
def alice(deployment: Deployment) -> Session:
    return deployment.register()


@pytest.fixture
def bob(deployment: Deployment) -> Session:
    return deployment.register()
