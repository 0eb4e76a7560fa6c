# SPDX-License-Identifier: AGPL-3.0-or-later
"""A device's own settings where its syncs, its writes and its logout are on other processes."""

from collections.abc import Callable

import attr
import pytest

from demo.client import JsonDict, Session, path
from tests.cluster.syncing import push_rules_in, until_push_rules, waiting_sync
from tests.harness.cluster import CLIENT_WORKERS, MAIN, PUSH_RULES_WRITER, Cluster
from tests.server.helpers import rule

MASTER = ("override", ".m.rule.master")


def own_path(device_id: str) -> str:
    return path("pushrules", "device", device_id, "org.matrix.msc3837.own")


@attr.s(auto_attribs=True, frozen=True)
class User:
    """A user with a phone and another session, each on any process; nothing waits for others."""

    cluster: Cluster
    phone: Session
    other: Session

    def phone_on(self, name: str) -> Session:
        return self.cluster.session_on(self.phone, name)

    def other_on(self, name: str) -> Session:
        return self.cluster.session_on(self.other, name)

    def switch(self, on: bool) -> None:
        self.other_on(PUSH_RULES_WRITER).call("PUT", own_path("PHONE"), {"enabled": on})


@pytest.fixture
def user(cluster: Cluster) -> User:
    other = cluster.register()
    phone = cluster.login(other, "PHONE")
    cluster.settle()
    return User(cluster, phone, other)


def rooms(rules: JsonDict | None) -> list[str]:
    assert rules is not None
    return [shown["rule_id"] for shown in rules["global"]["room"]]


@pytest.mark.parametrize("worker", [*CLIENT_WORKERS, MAIN])
def test_a_sync_that_waits_on_a_worker_ends_with_the_rules_of_its_device(
    user: User, worker: str
) -> None:
    """The stream that wakes it may be ahead of all else that the worker hears."""
    phone, other = user.phone_on(worker), user.other_on(worker)
    writer = user.phone_on(PUSH_RULES_WRITER)
    user.other_on(PUSH_RULES_WRITER).put_rule("global", "room", "!a:x", rule("room"))
    user.cluster.settle()
    since = phone.sync()["next_batch"]
    changes: list[tuple[Callable[[], None], list[str]]] = [
        (lambda: user.switch(True), ["!a:x"]),
        (lambda: writer.put_rule("global", "room", "!b:x", rule("room")), ["!b:x", "!a:x"]),
        (lambda: writer.delete_rule("global", "room", "!a:x"), ["!b:x"]),
        (lambda: writer.set_rule_enabled("global", *MASTER, True), ["!b:x"]),
        (lambda: user.switch(False), ["!a:x"]),
        (lambda: user.switch(True), ["!a:x"]),
    ]
    for change, expected in changes:
        with waiting_sync(phone, since) as answer:
            change()
            news = until_push_rules(phone, answer())
        since = news["next_batch"]
        assert rooms(push_rules_in(news)) == expected
        assert rooms(phone.get_rules()) == expected
        assert rooms(other.get_rules()) == ["!a:x"]


def test_a_logout_elsewhere_removes_the_scope_and_is_told(user: User) -> None:
    user.switch(True)
    writer = user.phone_on(PUSH_RULES_WRITER)
    writer.put_rule("global", "room", "!b:x", rule("room"))
    other = user.other_on(CLIENT_WORKERS[0])
    user.cluster.settle()
    since = other.sync()["next_batch"]
    with waiting_sync(other, since) as answer:
        user.phone_on(MAIN).logout()
        rules = push_rules_in(until_push_rules(other, answer()))
    assert rules is not None
    assert "device" not in rules

    again = user.cluster.login(user.other, "PHONE")
    for name in (*CLIENT_WORKERS, MAIN, PUSH_RULES_WRITER):
        session = user.cluster.session_on(again, name)
        assert session.call("GET", own_path("PHONE")) == {"enabled": False}
        assert rooms(session.get_rules()) == []
    on_writer = user.cluster.session_on(again, PUSH_RULES_WRITER)
    on_writer.put_rule("global", "room", "!c:x", rule("room"))
    assert rooms(user.other_on(PUSH_RULES_WRITER).get_rules()) == ["!c:x"]


def test_it_is_switched_where_push_rules_are_written(user: User) -> None:
    for name in (*CLIENT_WORKERS, MAIN):
        answer = user.phone_on(name).request("PUT", own_path("PHONE"), {"enabled": True})
        assert (answer.status, answer.errcode) == (405, "M_UNRECOGNIZED")
        assert user.phone_on(name).call("GET", own_path("PHONE")) == {"enabled": False}
