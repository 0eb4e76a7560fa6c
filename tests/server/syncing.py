# SPDX-License-Identifier: AGPL-3.0-or-later
"""Syncs of both sorts, and what they bring of push rules."""

import re
import threading
import time
from collections.abc import Callable
from typing import Any, Protocol

import attr

from demo.client import JsonDict, Session, path
from tests.harness.deployment import Deployment

SLIDING_SYNC = "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync"

#: How long a sync waits for news, and how soon it must be back once there are some.
WAIT_MS = 30_000
SOON_SECONDS = 20.0

_IN_FLIGHT = re.compile(
    r'^synapse_http_server_in_flight_requests_count\{.*servlet="(?:Sliding)?SyncRestServlet".*\}'
    r" ([0-9.]+)$",
    re.MULTILINE,
)


@attr.s(auto_attribs=True, frozen=True)
class News:
    """What a sync brought: where the next one starts, and the push rules if they were in it."""

    since: str
    rules: JsonDict | None


class Sync(Protocol):
    """One sync of either sort."""

    def __call__(self, session: Session, since: str | None = None, timeout_ms: int = 0) -> News: ...


def classic(session: Session, since: str | None = None, timeout_ms: int = 0) -> News:
    answer = session.sync(since, timeout_ms)
    return News(answer["next_batch"], push_rules_in(answer.get("account_data", {}).get("events")))


def sliding(session: Session, since: str | None = None, timeout_ms: int = 0) -> News:
    where = SLIDING_SYNC + f"?timeout={timeout_ms}" + (f"&pos={since}" if since else "")
    body = {"lists": {}, "extensions": {"account_data": {"enabled": True}}}
    answer = session.call("POST", where, body)
    account_data = answer.get("extensions", {}).get("account_data", {})
    return News(answer["pos"], push_rules_in(account_data.get("global")))


def push_rules_in(events: list[JsonDict] | None) -> JsonDict | None:
    found = [event["content"] for event in events or () if event["type"] == "m.push_rules"]
    assert len(found) <= 1
    return found[0] if found else None


def caught_up(session: Session, sync: Sync) -> News:
    """Sync until there is nothing left that is not new."""
    news = sync(session)
    while (later := sync(session, news.since)).rules is not None:
        news = later
    return News(later.since, news.rules)


def is_syncing(deployment: Deployment) -> bool:
    """Whether the server has a sync that it has not answered."""
    return any(float(count) for count in _IN_FLIGHT.findall(deployment.metrics()))


class Waiting:
    """A sync that waits on a connection of its own."""

    def __init__(self, deployment: Deployment, session: Session, sync: Sync) -> None:
        self._deployment = deployment
        self._session = attr.evolve(session)
        self._sync = sync
        since = caught_up(session, sync).since
        self._news: list[News] = []
        self._thread = threading.Thread(target=lambda: self._news.append(self._wait(since)))

    def _wait(self, since: str) -> News:
        """Until there are push rules: it wakes up for other news, too, as of a device that went."""
        deadline = time.monotonic() + SOON_SECONDS
        news = self._sync(self._session, since, WAIT_MS)
        while news.rules is None and time.monotonic() < deadline:
            news = self._sync(self._session, news.since, WAIT_MS)
        return news

    def wakes_up_for(self, change: Callable[[], Any]) -> News:
        """What it brings after a change to push rules that is made while it waits."""
        self._thread.start()
        self._until_the_server_has_it()
        started = time.monotonic()
        change()
        self._thread.join(SOON_SECONDS + WAIT_MS / 1000)
        self._session.close()
        assert self._news, "the sync failed"
        assert time.monotonic() - started < SOON_SECONDS, "the sync waited until its time was up"
        return self._news[0]

    def _until_the_server_has_it(self) -> None:
        deadline = time.monotonic() + SOON_SECONDS
        while not is_syncing(self._deployment):
            assert self._thread.is_alive(), "the sync failed"
            assert time.monotonic() < deadline, "the server does not count the sync"


def account_data(session: Session) -> Any:
    return session.call("GET", path("user", session.user_id, "account_data", "m.push_rules"))
