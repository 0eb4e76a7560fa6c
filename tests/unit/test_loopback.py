# SPDX-License-Identifier: AGPL-3.0-or-later
"""The servers that stand in for what surrounds a homeserver."""

import http.client
import json
from contextlib import closing

from demo.gateway import NOTIFY_PATH, Gateway


def test_the_gateway_says_that_it_ends_each_connection() -> None:
    """Twisted keeps a connection that ends unannounced, and loses a badge that it sends on it."""
    with Gateway() as gateway:
        host = gateway.url.removeprefix("http://").removesuffix(NOTIFY_PATH)
        with closing(http.client.HTTPConnection(host, timeout=10)) as connection:
            device = {"pushkey": "key", "app_id": "app"}
            connection.request(
                "POST", NOTIFY_PATH, json.dumps({"notification": {"devices": [device]}})
            )
            answer = connection.getresponse()
            assert (answer.status, answer.getheader("Connection")) == (200, "close")
            assert json.loads(answer.read()) == {"rejected": []}
        assert [push.pushkey for push in gateway.pushes()] == ["key"]
