# SPDX-License-Identifier: AGPL-3.0-or-later
"""Push rules with device scopes in /sync, sliding sync and account data: specification 3."""

import itertools
from collections.abc import Callable

import pytest

from demo.client import Session, path
from tests.harness.deployment import Deployment
from tests.server.helpers import rule
from tests.server.syncing import Sync, Waiting, account_data, caught_up, classic, sliding


@pytest.fixture(params=[classic, sliding], ids=["sync", "sliding_sync"])
def sync(request: pytest.FixtureRequest) -> Sync:
    chosen: Sync = request.param
    return chosen


def test_a_first_sync_shows_what_the_push_rules_api_shows(
    deployment: Deployment, alice: Session, bob: Session, sync: Sync
) -> None:
    # Another device: Synapse keeps the answer to a device's first sync for a while.
    rules = sync(deployment.login(alice, "PHONE")).rules
    assert rules == alice.get_rules()
    assert set(rules) == {"global"}, "`device` is left out where there is none"

    alice.put_rule("a/b", "override", "one", rule())
    alice.put_rule("phone", "content", "two", rule("content", []))
    alice.set_rule_enabled("phone", "content", "two", False)
    rules = sync(alice).rules
    assert rules is not None
    assert rules == alice.get_rules() == account_data(alice)
    assert set(rules["device"]) == {"a/b", "phone"}
    others = sync(bob).rules
    assert others == bob.get_rules() == account_data(bob)
    assert set(others) == {"global"}


def test_a_later_sync_shows_them_only_after_a_change(alice: Session, sync: Sync) -> None:
    news = caught_up(alice, sync)
    changes: list[Callable[[], None]] = [
        lambda: alice.put_rule("phone", "override", "one", rule()),
        lambda: alice.put_rule("phone", "override", "two", rule()),
        lambda: alice.put_rule("phone", "override", "one", rule(), before="two"),
        lambda: alice.set_rule_enabled("phone", "override", "one", False),
        lambda: alice.set_rule_actions("phone", "override", "one", []),
        lambda: alice.delete_rule("phone", "override", "one"),
        lambda: alice.put_rule("other", "room", "!r:x", rule("room")),
        lambda: alice.delete_rule("phone", "override", "two"),
        lambda: alice.delete_rule("other", "room", "!r:x"),
    ]
    seen = []
    for number, change in enumerate(changes):
        change()
        news = sync(alice, news.since)
        assert news.rules == alice.get_rules() == account_data(alice), number
        seen.append(news.rules)
        news = sync(alice, news.since)
        assert news.rules is None, f"{number}: nothing has changed since"
    assert all(one != next_one for one, next_one in itertools.pairwise(seen))
    assert "device" not in seen[-1]


def test_what_is_refused_changes_nothing(alice: Session, sync: Sync) -> None:
    alice.put_rule("phone", "override", "one", rule())
    news = caught_up(alice, sync)
    root = path("pushrules", "device", "phone", "override")
    for method, tail, body in (
        ("PUT", "/one", {"conditions": [], "actions": ["unknown"]}),
        ("PUT", "/two?before=unknown", rule()),
        ("PUT", "/two/enabled", {"enabled": False}),
        ("PUT", "/one/actions", {"actions": [{"set_tweak": "x" * 2000}]}),
        ("DELETE", "/two", None),
    ):
        assert alice.request(method, root + tail, body).status >= 400
    assert sync(alice, news.since).rules is None


@pytest.mark.parametrize("change", ["first", "enabled", "actions", "deletes one", "last"])
def test_a_waiting_sync_wakes_up(
    deployment: Deployment, alice: Session, sync: Sync, change: str
) -> None:
    if change != "first":
        alice.put_rule("phone", "override", "one", rule())
    if change == "deletes one":
        alice.put_rule("phone", "override", "two", rule())
    changes: dict[str, Callable[[], None]] = {
        "first": lambda: alice.put_rule("phone", "override", "one", rule()),
        "enabled": lambda: alice.set_rule_enabled("phone", "override", "one", False),
        "actions": lambda: alice.set_rule_actions("phone", "override", "one", []),
        "deletes one": lambda: alice.delete_rule("phone", "override", "two"),
        "last": lambda: alice.delete_rule("phone", "override", "one"),
    }
    news = Waiting(deployment, alice, sync).wakes_up_for(changes[change])

    assert news.rules == alice.get_rules()
    if change == "last":
        assert "device" not in news.rules
        return
    (one,) = news.rules["device"]["phone"]["override"]
    assert (one["enabled"], one["actions"]) == {
        "enabled": (False, ["notify"]),
        "actions": (True, []),
    }.get(change, (True, ["notify"]))


def test_the_change_of_one_user_is_no_news_to_another(
    alice: Session, bob: Session, sync: Sync
) -> None:
    since = caught_up(bob, sync).since
    alice.put_rule("phone", "override", "one", rule())
    assert sync(bob, since, 300).rules is None


def test_all_sessions_of_a_user_hear_of_a_change(
    deployment: Deployment, alice: Session, sync: Sync
) -> None:
    phone = deployment.login(alice, "PHONE")
    news = Waiting(deployment, phone, sync).wakes_up_for(
        lambda: alice.put_rule("phone", "override", "one", rule())
    )
    assert news.rules == phone.get_rules()
