# SPDX-License-Identifier: AGPL-3.0-or-later
"""The page comes from every process that has a listener (specification 8), and is the same."""

from collections.abc import Iterator

import pytest

from synapse_msc3881.page.files import PATH
from tests.conftest import FreshDeployment
from tests.harness.cluster import CLIENT_WORKERS, MAIN, PUSH_RULES_WRITER, Cluster


@pytest.fixture(scope="module")
def cluster(make_deployment: FreshDeployment) -> Iterator[Cluster]:
    deployment = make_deployment("cluster", module_config={"page": {"enabled": True}})
    assert isinstance(deployment, Cluster)
    yield deployment
    deployment.stop()
    deployment.assert_log_is_clean()


def test_all_processes_serve_the_same(cluster: Cluster) -> None:
    user = cluster.register()
    answers = [
        cluster.session_on(user, name).request("GET", PATH, token=False)
        for name in (MAIN, *CLIENT_WORKERS, PUSH_RULES_WRITER, "federation")
    ]
    assert {answer.status for answer in answers} == {200}
    assert len({answer.body for answer in answers}) == 1
    assert len({answer.headers["etag"] for answer in answers}) == 1
