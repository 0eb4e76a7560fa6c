# SPDX-License-Identifier: AGPL-3.0-or-later
"""Fixtures that several files share: a scene, and a server for mail."""

from collections.abc import Iterator

import pytest

from demo.gateway import Gateway
from tests.harness.deployment import Deployment
from tests.server.cascade_helpers import Scene, make_scene
from tests.server.mail_server import MailServer


@pytest.fixture
def scene(deployment: Deployment, gateway: Gateway) -> Scene:
    """Alice and Bob in a room, and Bob's devices."""
    return make_scene(deployment, gateway)


@pytest.fixture(scope="module")
def mail_server() -> Iterator[MailServer]:
    with MailServer() as server:
        yield server
