# SPDX-License-Identifier: AGPL-3.0-or-later
"""Devices with settings of their own, as clients see them: specification 9."""

import random
import re
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import uuid4

import attr
import psycopg2.errors
import pytest

from demo.client import JsonDict, Session, path, rules_path
from demo.homeserver import PASSWORD
from demo.process import free_port
from tests.conftest import FreshDeployment
from tests.harness.deployment import Deployment
from tests.harness.waiting import wait_until
from tests.server.helpers import RULES, assert_ok, assert_refused, own_rules, rule
from tests.server.rule_cases import (
    BODIES,
    GOOD,
    PATHS,
    RAW_BODIES,
    Case,
    needs_limits,
    prepare,
    restore,
)
from tests.server.syncing import (
    Sync,
    Waiting,
    account_data,
    caught_up,
    classic,
    sliding,
)

OWN = "org.matrix.msc3837.own"

MASTER = ("override", ".m.rule.master")
MENTIONS = ("override", ".m.rule.is_user_mention")


def own_path(device_id: str, api: str = "unstable") -> str:
    return path("pushrules", "device", device_id, OWN).replace("/client/v3/", f"/client/{api}/")


def switch(session: Session, device_id: str, on: bool) -> None:
    session.call("PUT", own_path(device_id), {"enabled": on})


def is_on(session: Session, device_id: str) -> bool:
    answer = session.call("GET", own_path(device_id))
    assert set(answer) == {"enabled"}
    return bool(answer["enabled"])


@attr.s(auto_attribs=True, frozen=True)
class Devices:
    """A user's phone, whose settings are switched, and another session."""

    phone: Session
    other: Session

    def switch(self, on: bool = True) -> None:
        switch(self.other, "PHONE", on)


@pytest.fixture
def devices(deployment: Deployment, alice: Session) -> Devices:
    return Devices(deployment.login(alice, "PHONE"), alice)


@pytest.fixture(params=[classic, sliding], ids=["sync", "sliding_sync"])
def sync(request: pytest.FixtureRequest) -> Sync:
    chosen: Sync = request.param
    return chosen


def names(ruleset: JsonDict) -> JsonDict:
    """The ids of a ruleset's rules that are no defaults, in their order."""
    return {kind: [shown["rule_id"] for shown in of] for kind, of in own_rules(ruleset).items()}


# --- Switching ----------------------------------------------------------------------------------


def test_it_is_off_until_somebody_switches_it_on(devices: Devices) -> None:
    assert not is_on(devices.phone, "PHONE")
    devices.switch()
    assert is_on(devices.other, "PHONE")
    assert is_on(devices.phone, "PHONE")
    assert not is_on(devices.other, devices.other.device_id)
    devices.switch(False)
    assert not is_on(devices.other, "PHONE")


@pytest.mark.parametrize("api", ["api/v1", "r0", "v3", "unstable"])
def test_it_is_under_each_version_of_the_api(devices: Devices, api: str) -> None:
    devices.phone.call("PUT", own_path("PHONE", api), {"enabled": True})
    assert devices.phone.call("GET", own_path("PHONE", api)) == {"enabled": True}


def test_a_look_locks_nothing(deployment: Deployment, devices: Devices) -> None:
    """On PostgreSQL a lock is written into the row: reading must not cost a write."""
    if deployment.kind == "sqlite":
        pytest.skip("SQLite has no locks of rows")

    def locked() -> list[tuple[Any, ...]]:
        return deployment.sql(
            "SELECT device_id, xmax::text FROM devices WHERE user_id = ? ORDER BY device_id",
            (devices.phone.user_id,),
        )

    def is_as_before() -> bool:
        before = locked()
        assert not is_on(devices.other, "PHONE")
        return locked() == before

    # Synapse itself writes to these rows at times; but a lock would be there each time.
    assert any(is_as_before() for _ in range(5))


def test_what_is_no_boolean_is_refused(devices: Devices) -> None:
    put = devices.phone.request
    no_booleans: list[Any] = [None, 0, 1, "true", [], {}]
    for body, errcode in (
        ({}, "M_MISSING_PARAM"),
        ({"on": True}, "M_MISSING_PARAM"),
        ([], "M_BAD_JSON"),
        (True, "M_BAD_JSON"),
        *(({"enabled": value}, "M_INVALID_PARAM") for value in no_booleans),
    ):
        assert_refused(put("PUT", own_path("PHONE"), body), 400, errcode, what=body)
    assert_refused(put("PUT", own_path("PHONE"), raw_body=b"{"), 400, "M_NOT_JSON")
    assert not is_on(devices.phone, "PHONE")


def test_a_device_that_the_user_does_not_have_is_unknown(
    deployment: Deployment, devices: Devices
) -> None:
    strangers = deployment.login(deployment.register(), "STRANGE").device_id
    for device_id in (strangers, "nothing", "a/b", "x" * 255):
        for method, on in (("GET", None), ("PUT", True), ("PUT", False)):
            answer = devices.phone.request(method, own_path(device_id), {"enabled": on})
            assert_refused(answer, 404, "M_NOT_FOUND", what=(device_id, method, on))


def test_a_device_id_that_can_be_no_profile_tag_is_refused(
    deployment: Deployment, alice: Session
) -> None:
    for device_id in ("global", "x" * 256, "line\nbreak"):
        odd = deployment.login(alice, device_id)
        for method in ("GET", "PUT"):
            answer = odd.request(method, own_path(device_id), {"enabled": True})
            assert_refused(answer, 400, "M_INVALID_PARAM", what=device_id)


@pytest.mark.parametrize("device_id", ["a/b", "two words", "📱", "..", "override", ".", "%2F"])
def test_odd_device_ids_will_do(deployment: Deployment, alice: Session, device_id: str) -> None:
    odd = deployment.login(alice, device_id)
    switch(odd, device_id, True)
    odd.put_rule("global", "room", "!r:x", rule("room"))
    assert names(alice.get_rules(device_id))["room"] == ["!r:x"]
    assert names(alice.get_rules("global"))["room"] == []


def test_who_may_not_use_the_push_rules_may_not_use_it(devices: Devices) -> None:
    stranger = attr.evolve(devices.phone, access_token="nonsense")
    for method in ("GET", "PUT"):
        answer = stranger.request(method, own_path("PHONE"), {"enabled": True})
        assert_refused(answer, 401, "M_UNKNOWN_TOKEN")
    stranger.close()
    for method, tail in (("DELETE", ""), ("PUT", "/more"), ("GET", "/more"), ("POST", "")):
        answer = devices.phone.request(method, own_path("PHONE") + tail, {"enabled": True})
        assert_refused(answer, what=(method, tail), status=answer.status)
        assert 400 <= answer.status < 500


# --- The copy -----------------------------------------------------------------------------------


def fill(session: Session) -> None:
    """Write rules to `global`, in another order than that of their ids, and change defaults."""
    for kind in RULES:
        for name in ("b", "c", "a"):
            session.put_rule("global", kind, name, rule(kind))
        session.set_rule_enabled("global", kind, "c", False)
    session.put_rule("global", "override", "last", rule(), after="b")
    session.set_rule_enabled("global", *MASTER, True)
    session.set_rule_enabled("global", *MASTER, False)
    session.set_rule_enabled("global", *MENTIONS, False)
    session.set_rule_actions("global", "underride", ".m.rule.message", [])
    session.set_rule_actions("global", "content", ".m.rule.contains_user_name", ["notify"])


def test_switching_on_copies_all_of_global(devices: Devices) -> None:
    fill(devices.other)
    before = devices.other.get_rules("global")
    devices.switch()
    assert devices.phone.get_rules("global") == before
    assert devices.other.get_rules("global") == before
    shown = devices.other.get_rules()["device"]["PHONE"]
    assert shown == own_rules(before), "without the server-default rules"


def test_without_rules_the_phone_reads_the_server_default_rules(devices: Devices) -> None:
    devices.switch()
    assert devices.phone.get_rules() == devices.other.get_rules()
    assert "device" not in devices.other.get_rules()


def test_rules_that_are_there_stay_in_front_and_keep_their_ids(devices: Devices) -> None:
    for kind in RULES:
        devices.other.put_rule("PHONE", kind, "b", rule(kind, []))
        devices.other.put_rule("PHONE", kind, "old", rule(kind, []))
        for name in ("a", "b", "c"):
            devices.other.put_rule("global", kind, name, rule(kind))
    devices.switch()
    ruleset = devices.phone.get_rules("global")
    for kind in RULES:
        assert names(ruleset)[kind] == ["old", "b", "c", "a"]
        assert [shown["actions"] for shown in own_rules(ruleset)[kind]] == [
            *([], []),
            *(["notify"], ["notify"]),
        ]


def test_a_repeat_changes_nothing(devices: Devices, sync: Sync) -> None:
    devices.other.put_rule("global", "room", "!a:x", rule("room"))
    devices.switch()
    devices.phone.delete_rule("global", "room", "!a:x")
    devices.other.put_rule("global", "room", "!b:x", rule("room"))
    news = caught_up(devices.phone, sync)
    devices.switch()
    assert names(devices.phone.get_rules("global"))["room"] == []
    assert sync(devices.phone, news.since).rules is None
    devices.switch(False)
    news = caught_up(devices.phone, sync)
    devices.switch(False)
    assert sync(devices.phone, news.since).rules is None
    assert names(devices.phone.get_rules("global"))["room"] == ["!b:x", "!a:x"]


def test_switching_off_leaves_what_was_there_and_what_was_meant_for_the_scope(
    devices: Devices,
) -> None:
    for name in ("there", "changed", "deleted"):
        devices.other.put_rule("PHONE", "room", name, rule("room"))
    for name in ("copy", "rewritten", "there"):
        devices.other.put_rule("global", "room", name, rule("room"))
    devices.switch()
    devices.phone.put_rule("global", "room", "by the phone", rule("room"))
    devices.phone.put_rule("global", "room", "changed", rule("room", []))
    devices.phone.delete_rule("global", "room", "deleted")
    devices.phone.put_rule("global", "room", "deleted", rule("room"))
    devices.other.put_rule("PHONE", "room", "for the scope", rule("room"))
    devices.other.put_rule("PHONE", "room", "rewritten", rule("room", []))
    devices.phone.set_rule_enabled("global", *MASTER, True)
    devices.switch(False)

    left = devices.other.get_rules("PHONE")
    assert names(left)["room"] == ["rewritten", "for the scope", "changed", "there"]
    assert names(devices.phone.get_rules("global"))["room"] == ["there", "rewritten", "copy"]
    devices.switch()
    of_master = devices.phone.call("GET", rules_path("global", *MASTER))
    assert not of_master["enabled"], "what the phone had changed is forgotten"


def test_switching_off_leaves_nothing_where_there_was_nothing(
    deployment: Deployment, devices: Devices
) -> None:
    fill(devices.other)
    devices.switch()
    devices.phone.put_rule("global", "room", "!r:x", rule("room"))
    devices.switch(False)
    assert "device" not in devices.phone.get_rules()
    assert left_of(deployment, devices.other.user_id) == []


def left_of(deployment: Deployment, user_id: str) -> list[tuple[Any, ...]]:
    """All that is stored of a user in the module's tables for device rules."""
    return [
        row
        for table in ("own_settings", "kept_rules", "device_rules")
        for row in deployment.sql(
            f"SELECT * FROM synapse_msc3881_{table} WHERE user_id = ?", [user_id]
        )
    ]


# --- While it is on -----------------------------------------------------------------------------

#: Server-default rules, which device scopes have not.
DEFAULTS = [
    Case("GET", "/override/.m.rule.master"),
    Case("GET", "/override/.m.rule.master/enabled"),
    Case("PUT", "/override/.m.rule.master", GOOD),
    Case("PUT", "/override/.m.rule.master/enabled", {"enabled": True}),
    Case("PUT", "/override/.m.rule.master/enabled", {"enabled": 1}),
    Case("PUT", "/override/.m.rule.master/enabled", {"enabled": False}),
    Case("PUT", "/override/.m.rule.nonsense/enabled", {"enabled": True}),
    Case("PUT", "/override/.m.rule.nonsense/actions", {"actions": []}),
    Case("PUT", "/content/.m.rule.master/enabled", {"enabled": True}),
    Case("DELETE", "/override/.m.rule.master"),
    Case("PUT", "/override/.m.rule.suppress_notices/enabled", {"enabled": False}),
    Case("PUT", "/override/.m.rule.suppress_notices/actions", {"actions": ["notify"]}),
    Case("PUT", "/override/new?before=.m.rule.suppress_notices", GOOD),
    Case("PUT", "/override/new?after=.m.rule.suppress_notices", GOOD),
    Case("DELETE", "/override/.m.rule.suppress_notices"),
    Case("DELETE", "/override/.m.rule.suppress_notices"),
    Case("PUT", "/underride/.m.rule.message/actions", {"actions": ["unknown"]}),
    Case("PUT", "/underride/.m.rule.message/actions", {"actions": "x"}),
    Case("PUT", "/underride/.m.rule.message/actions", {"actions": []}),
    Case("GET", "/underride/.m.rule.message/actions"),
    Case("PUT", "/override/.m.rule.master/actions", {"actions": ["notify"]}),
    Case("DELETE", "/override/.m.rule.master"),
    Case("GET", "/content/.m.rule.contains_user_name"),
]

AS_IN_GLOBAL = [
    *DEFAULTS,
    *(Case("GET", tail) for tail in PATHS),
    *(Case("DELETE", tail) for tail in PATHS),
    *(Case("PUT", tail, GOOD) for tail in PATHS),
    *(Case("PUT", tail, body) for tail, bodies in BODIES.items() for body in bodies),
    *(
        Case("PUT", tail, raw_body=raw)
        for raw in RAW_BODIES
        for tail in ("/override/new", "/override/mine/enabled", "/override/mine/actions")
    ),
    *(Case(method, "/override/mine", GOOD) for method in ("POST", "PATCH")),
]


def of_anybody(body: bytes, session: Session) -> bytes:
    """An answer without the name of the user it was given to."""
    localpart = session.user_id.partition(":")[0][1:]
    return body.replace(session.user_id.encode(), b"@user").replace(localpart.encode(), b"user")


def test_the_phone_is_answered_as_anybody_else_is(deployment: Deployment) -> None:
    """Byte for byte, for each request to `global`; and each leaves the same rules."""
    account, alice = deployment.register(), deployment.register()
    phone = deployment.login(alice, "PHONE")
    switch(phone, "PHONE", True)
    untouched = prepare(account, "global")
    assert prepare(phone, "global") == untouched

    wrong = []
    for case in AS_IN_GLOBAL:
        expected, got = case.send(account, "global"), case.send(phone, "global")
        if (got.status, of_anybody(got.body, phone)) != (
            expected.status,
            of_anybody(expected.body, account),
        ):
            wrong.append((case, expected.status, expected.body[:120], got.status, got.body[:120]))
        if case.method == "GET":
            continue
        wanted, left = (
            of_anybody(session.request("GET", rules_path("global") + "/").body, session)
            for session in (account, phone)
        )
        assert left == wanted, case
        rules = own_rules(account.get_rules("global"))
        if rules != untouched:
            restore(account, "global", untouched, rules)
            restore(phone, "global", untouched, rules)
    assert wrong == [], "\n".join(map(str, wrong))
    assert own_rules(alice.get_rules("global")) == {kind: [] for kind in RULES}


def test_random_changes_leave_what_they_leave_in_global(deployment: Deployment) -> None:
    account, alice = deployment.register(), deployment.register()
    phone = deployment.login(alice, "PHONE")
    rng = random.Random(3837)
    for session in (account, alice):
        fill(session)
    switch(phone, "PHONE", True)
    # Synapse does not show the last.
    ids = ["a", "b", "c", "org.matrix.msc1767"]
    for number in range(60):
        kind = rng.choice(list(RULES))
        which = rng.choice(ids)
        defaults = [MASTER, MENTIONS, ("underride", ".m.rule.message")]
        what = rng.choice(defaults) if rng.random() < 0.3 else (kind, which)
        some: list[list[str | JsonDict]] = [[], ["notify"], ["notify", {"set_tweak": "sound"}]]
        actions = rng.choice(some)
        change = rng.choice(["put", "put", "before", "after", "delete", "enabled", "actions"])
        flag = rng.random() < 0.5
        body, method, tail = rule(kind, actions), "PUT", "/".join(what)
        if change in ("before", "after"):
            tail += f"?{change}={rng.choice(ids)}"
        elif change == "delete":
            method = "DELETE"
        elif change == "enabled":
            tail, body = tail + "/enabled", {"enabled": flag}
        elif change == "actions":
            tail, body = tail + "/actions", {"actions": actions}
        case = Case(method, "/" + tail, body)
        expected, got = case.send(account, "global"), case.send(phone, "global")
        assert (got.status, got.body) == (expected.status, expected.body), (number, case)
        wanted, left = (
            of_anybody(session.request("GET", rules_path("global") + "/").body, session)
            for session in (account, phone)
        )
        assert left == wanted, (number, case)


def test_each_session_has_its_own_global(devices: Devices) -> None:
    devices.switch()
    devices.phone.put_rule("global", "room", "!phone:x", rule("room"))
    devices.other.put_rule("global", "room", "!all:x", rule("room"))
    devices.phone.set_rule_enabled("global", *MASTER, True)
    assert names(devices.phone.get_rules("global"))["room"] == ["!phone:x"]
    assert names(devices.other.get_rules("global"))["room"] == ["!all:x"]
    assert not devices.other.call("GET", rules_path("global", *MASTER))["enabled"]
    for session in (devices.phone, devices.other):
        assert names(session.get_rules("PHONE"))["room"] == ["!phone:x"]
        assert session.get_rules()["global"] == session.get_rules("global")
        assert account_data(session) == session.get_rules()


def test_two_devices_are_never_mixed(deployment: Deployment, alice: Session) -> None:
    sessions = [deployment.login(alice, f"DEVICE{number}") for number in range(3)]
    for number, session in enumerate(sessions):
        switch(session, session.device_id, True)
        session.put_rule("global", "room", f"!{number}:x", rule("room"))
    for sync in (classic, sliding):
        for number, session in enumerate(sessions):
            rules = sync(session).rules
            assert rules is not None
            assert names(rules["global"])["room"] == [f"!{number}:x"]
            assert rules == session.get_rules() == account_data(session)
    assert names(alice.get_rules("global"))["room"] == []


@pytest.mark.one_deployment
@needs_limits
def test_limits_are_those_of_global(fresh_deployment: FreshDeployment) -> None:
    limits = {"rule_count": 5, "rule_id_length": 40, "rule_size": 200}
    deployment = fresh_deployment(extra={"push_rules": {"limits": limits}})
    account, alice = deployment.register(), deployment.register()
    phone, tablet = deployment.login(alice, "PHONE"), deployment.login(alice, "TABLET")
    for session in (account, alice):
        for name in ("a", "b", "c"):
            session.put_rule("global", "override", name, rule())
    switch(phone, "PHONE", True)
    answer = tablet.request("PUT", own_path("TABLET"), {"enabled": True})
    assert_refused(answer, 400, "M_UNKNOWN", names="6 device push rules, and the limit is 5")
    assert not is_on(tablet, "TABLET")

    large = {"actions": [{"set_tweak": "x" * 200}]}
    for case in (
        Case("PUT", "/override/" + "x" * 60, GOOD),
        Case("PUT", "/override/new", {**GOOD, **large}),
        Case("PUT", "/override/a/actions", large),
        Case("PUT", "/override/d", GOOD),
        Case("PUT", "/override/.m.rule.master/actions", {"actions": []}),
        Case("PUT", "/override/e", GOOD),
        Case("PUT", "/override/e?after=a", GOOD),
        Case("PUT", "/override/.m.rule.roomnotif/actions", {"actions": []}),
        Case("PUT", "/override/a", GOOD),
    ):
        expected, got = case.send(account, "global"), case.send(phone, "global")
        assert (got.status, got.body) == (expected.status, expected.body), case


@pytest.mark.one_deployment
def test_a_user_has_so_many_scopes_with_or_without_rules(fresh_deployment: FreshDeployment) -> None:
    deployment = fresh_deployment(module_config={"limits": {"device_scopes_per_user": 2}})
    alice = deployment.register()
    sessions = [deployment.login(alice, name) for name in ("ONE", "TWO", "THREE")]
    for session in sessions[:2]:
        switch(session, session.device_id, True)
    for answer in (
        alice.request("PUT", own_path("THREE"), {"enabled": True}),
        alice.request("PUT", rules_path("more", "room", "x"), rule("room")),
    ):
        assert_refused(answer, 400, "M_UNKNOWN", names="Too many device scopes: the limit is 2")
    alice.put_rule("ONE", "room", "x", rule("room"))
    switch(alice, "TWO", False)
    switch(alice, "THREE", True)


# --- Syncs --------------------------------------------------------------------------------------


def test_syncs_show_each_device_its_own(devices: Devices, sync: Sync) -> None:
    since = {session.device_id: caught_up(session, sync).since for session in _both(devices)}
    changes: list[Callable[[], None]] = [
        devices.switch,
        lambda: devices.phone.put_rule("global", "room", "!r:x", rule("room")),
        lambda: devices.phone.set_rule_enabled("global", "room", "!r:x", False),
        lambda: devices.phone.set_rule_actions("global", *MASTER, []),
        lambda: devices.phone.set_rule_enabled("global", *MASTER, True),
        lambda: devices.other.put_rule("global", "room", "!s:x", rule("room")),
        lambda: devices.phone.delete_rule("global", "room", "!r:x"),
        lambda: devices.switch(False),
    ]
    for number, change in enumerate(changes):
        change()
        for session in _both(devices):
            news = sync(session, since[session.device_id])
            since[session.device_id] = news.since
            assert news.rules == session.get_rules() == account_data(session), number
            assert sync(session, news.since).rules is None, number


def _both(devices: Devices) -> tuple[Session, Session]:
    return devices.phone, devices.other


@pytest.mark.parametrize("change", ["on", "rule", "default", "account", "off", "logout"])
def test_a_waiting_sync_ends_with_the_rules_of_its_device(
    deployment: Deployment, devices: Devices, sync: Sync, change: str
) -> None:
    devices.other.put_rule("global", "room", "!r:x", rule("room"))
    if change != "on":
        devices.switch()
        devices.phone.delete_rule("global", "room", "!r:x")
        devices.phone.put_rule("global", "room", "!s:x", rule("room"))
    waits = devices.other if change == "logout" else devices.phone
    changes: dict[str, Callable[[], None]] = {
        "on": devices.switch,
        "rule": lambda: devices.phone.put_rule("global", "room", "!t:x", rule("room")),
        "default": lambda: devices.phone.set_rule_enabled("global", *MASTER, True),
        "account": lambda: devices.other.delete_rule("global", "room", "!r:x"),
        "off": lambda: devices.switch(False),
        "logout": devices.phone.logout,
    }
    news = Waiting(deployment, waits, sync).wakes_up_for(changes[change])
    assert news.rules is not None
    assert news.rules == waits.get_rules()
    assert ("device" in news.rules) == (change not in ("off", "logout"))


# --- Lifetimes ----------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["logout", "all", "delete", "delete_devices", "admin"])
def test_the_scope_goes_with_the_device(deployment: Deployment, devices: Devices, how: str) -> None:
    devices.other.put_rule("PHONE", "room", "there", rule("room"))
    devices.other.put_rule("plain", "room", "there", rule("room"))
    devices.other.put_rule("global", "room", "copy", rule("room"))
    devices.switch()
    devices.phone.set_rule_enabled("global", *MASTER, True)
    _log_out(deployment, devices, how)
    user_id = devices.other.user_id
    if how != "all":
        assert set(devices.other.get_rules()["device"]) == {"plain"}
        assert_refused(devices.other.request("GET", own_path("PHONE")), 404)
    assert {row[1] for row in left_of(deployment, user_id)} == {"plain"}

    again = deployment.login(user_id, "PHONE")
    assert not is_on(again, "PHONE")
    assert names(again.get_rules("global"))["room"] == ["copy"]
    assert not again.call("GET", rules_path("global", *MASTER))["enabled"]


def _log_out(deployment: Deployment, devices: Devices, how: str) -> None:
    if how == "logout":
        devices.phone.logout()
    elif how == "all":
        devices.phone.call("POST", path("logout", "all"), {})
    elif how == "delete":
        _authorised(devices.other, "DELETE", path("devices", "PHONE"), {})
    elif how == "delete_devices":
        _authorised(devices.other, "POST", path("delete_devices"), {"devices": ["PHONE"]})
    else:
        admin = deployment.homeserver.register(f"admin{uuid4().hex}", admin=True)
        where = f"/_synapse/admin/v2/users/{devices.other.user_id}/devices/PHONE"
        assert_ok(admin.request("DELETE", where))


def _authorised(session: Session, method: str, where: str, body: JsonDict) -> None:
    """Send a request that asks for the password."""
    challenge = session.request(method, where, body)
    if challenge.status == 200:
        return
    auth = {
        "type": "m.login.password",
        "identifier": {"type": "m.id.user", "user": session.user_id},
        "password": PASSWORD,
        "session": challenge.json["session"],
    }
    session.call(method, where, {**body, "auth": auth})


def test_a_device_and_its_scope_go_at_once(deployment: Deployment, devices: Devices) -> None:
    """Else a process that dies in between leaves the settings to the next login with that id."""
    database = deployment._database
    if database is None:
        pytest.skip("on SQLite nothing holds up one of the transactions")
    devices.switch()
    find = "SELECT device_id FROM devices WHERE user_id = ? AND device_id = 'PHONE'"
    with ThreadPoolExecutor() as pool, database.held_up("synapse_msc3881_own_settings") as waiting:
        logout = pool.submit(devices.phone.logout)
        wait_until(lambda: waiting() >= 1, "the scope waiting to be removed")
        assert deployment.sql(find, [devices.other.user_id]) == [("PHONE",)]
    logout.result()
    assert deployment.sql(find, [devices.other.user_id]) == []
    assert left_of(deployment, devices.other.user_id) == []


def test_a_deactivated_user_leaves_nothing(deployment: Deployment, devices: Devices) -> None:
    fill(devices.other)
    devices.switch()
    devices.other.deactivate(PASSWORD)
    assert left_of(deployment, devices.other.user_id) == []


def test_a_room_upgrade_copies_the_rules_of_the_scope(devices: Devices) -> None:
    room_id = devices.other.create_room()
    devices.switch()
    devices.phone.put_rule("global", "room", room_id, rule("room", []))
    new_room_id = devices.other.upgrade_room(room_id, "10")
    assert names(devices.phone.get_rules("global"))["room"] == [new_room_id, room_id]
    assert names(devices.other.get_rules("global"))["room"] == []
    devices.switch(False)
    assert "device" not in devices.other.get_rules()


def test_a_restart_finds_it_again_and_tidies_up(fresh_deployment: FreshDeployment) -> None:
    deployment = fresh_deployment()
    alice = deployment.register()
    phone, gone = deployment.login(alice, "PHONE"), deployment.login(alice, "GONE")
    for session in (phone, gone):
        switch(session, session.device_id, True)
        session.put_rule("global", "room", "!r:x", rule("room"))
    deployment.sql("DELETE FROM devices WHERE device_id = 'GONE'")
    deployment.restart()
    assert is_on(phone, "PHONE")
    phone.put_rule("global", "room", "!s:x", rule("room"))
    assert names(phone.get_rules("global"))["room"] == ["!s:x", "!r:x"]
    assert set(alice.get_rules()["device"]) == {"PHONE"}
    assert {row[1] for row in left_of(deployment, alice.user_id)} == {"PHONE"}


def test_a_logout_works_where_the_scope_cannot_be_removed(
    deployment: Deployment, devices: Devices
) -> None:
    devices.switch()
    devices.phone.put_rule("global", "room", "!r:x", rule("room"))
    table = "synapse_msc3881_kept_rules"
    before = forgotten(deployment)
    deployment.sql(f"ALTER TABLE {table} RENAME TO {table}_away")
    try:
        devices.phone.logout()
    finally:
        deployment.sql(f"ALTER TABLE {table}_away RENAME TO {table}")
    assert_refused(devices.phone.request("GET", rules_path("global") + "/"), 401)
    assert forgotten(deployment) == before + 1
    # All of it is there, so that the next start can tidy it up.
    assert {row[1] for row in left_of(deployment, devices.other.user_id)} == {"PHONE"}
    assert "msc3881: forget failed for " in deployment.log_text()


def forgotten(deployment: Deployment) -> float:
    """How often a scope could not be removed."""
    pattern = r'^synapse_msc3881_fallbacks_total\{reason="forget".*\} ([0-9.]+)$'
    return float(re.findall(pattern, deployment.metrics(), re.MULTILINE)[0])


# --- Costs --------------------------------------------------------------------------------------

_TRANSACTIONS = re.compile(
    r"^synapse_storage_transaction_time_count(?:_total)?\{[^}]*"
    r'desc="(msc3881_\w+)"[^}]*\} ([0-9.]+)$',
    re.MULTILINE,
)


def transactions(deployment: Deployment) -> Counter[str]:
    """How many transactions of the module's there were, by what they are for."""
    found = {desc: int(float(n)) for desc, n in _TRANSACTIONS.findall(deployment.metrics())}
    # The census is taken now and then, and so are the positions of pushers; and those of other
    # tests may try again.
    of_others = ("msc3881_census", "msc3881_move_pushers", "msc3881_push_action")
    return Counter({desc: n for desc, n in found.items() if not desc.startswith(of_others)})


def test_who_does_not_use_it_pays_nothing(
    deployment: Deployment, devices: Devices, bob: Session
) -> None:
    devices.switch()
    phone = deployment.login(bob, "PHONE")
    since = caught_up(bob, classic).since
    before = transactions(deployment)
    bob.put_rule("global", "room", "!r:x", rule("room"))
    bob.set_rule_enabled("global", *MASTER, True)
    bob.delete_rule("global", "room", "!r:x")
    phone.logout()
    assert transactions(deployment) - before == Counter()
    bob.get_rules()
    account_data(bob)
    assert classic(bob, since).rules is not None
    assert transactions(deployment) - before == Counter(msc3881_get_device_rules=3)


# --- Bad rows -----------------------------------------------------------------------------------


def test_a_condition_that_names_the_user_is_shown_as_in_global(devices: Devices) -> None:
    """Synapse puts the user's name in for its type."""
    named = {"kind": "event_match", "key": "content.body", "pattern_type": "user_localpart"}
    about_me = {**rule("override"), "conditions": [named]}
    for name, body in (("a", rule("override")), ("me", about_me), ("z", rule("override"))):
        devices.other.put_rule("global", "override", name, body)
    devices.switch()
    shown = devices.other.get_rules("global")
    assert (
        shown["override"][2]["conditions"][0]["pattern"] == devices.other.user_id[1:].split(":")[0]
    )
    assert devices.phone.get_rules("global") == shown
    assert account_data(devices.phone)["global"] == shown


def test_a_bad_row_costs_the_phone_that_row(deployment: Deployment, devices: Devices) -> None:
    for name in ("a", "b"):
        devices.other.put_rule("global", "room", name, rule("room"))
    devices.switch()
    good = devices.phone.get_rules("global")
    deployment.sql(
        "UPDATE synapse_msc3881_device_rules SET conditions = 'no JSON'"
        " WHERE user_id = ? AND rule_id = 'a'",
        [devices.other.user_id],
    )
    deployment.sql(
        "UPDATE synapse_msc3881_own_settings SET default_rules = '5' WHERE user_id = ?",
        [devices.other.user_id],
    )
    left = devices.phone.get_rules("global")
    good["room"] = [shown for shown in good["room"] if shown["rule_id"] == "b"]
    assert left == good
    deployment.allow_in_log("msc3881: read_rules failed for ")
    devices.phone.set_rule_enabled("global", *MASTER, True)
    assert devices.phone.call("GET", rules_path("global", *MASTER))["enabled"]


# --- Races --------------------------------------------------------------------------------------


def test_what_the_phone_writes_while_it_is_switched_on_is_not_lost(
    deployment: Deployment, devices: Devices
) -> None:
    """It is in `global` before the copy is made, or in the copy, but never beside both."""
    writing, switching = deployment.direct(devices.phone), deployment.direct(devices.other)
    for attempt in range(8):
        written = [f"!{attempt}-{number}:x" for number in range(6)]
        with ThreadPoolExecutor() as pool:
            writes = pool.submit(put_rooms, writing, written)
            time.sleep(attempt * 0.004)
            switch(switching, "PHONE", True)
            assert writes.result() == {200}
        assert names(devices.phone.get_rules("global"))["room"][:6] == written[::-1], attempt
        devices.switch(False)
        for name in names(devices.other.get_rules("global"))["room"]:
            devices.other.delete_rule("global", "room", name)
    writing.close()
    switching.close()


def test_a_logout_leaves_nothing_of_what_is_being_written(
    deployment: Deployment, devices: Devices
) -> None:
    for attempt in range(6):
        phone = deployment.login(devices.other, "PHONE")
        writing, logging_out = deployment.direct(phone), deployment.direct(phone)
        switch(phone, "PHONE", True)
        with ThreadPoolExecutor() as pool:
            writes = pool.submit(put_rooms, writing, [f"!{number}:x" for number in range(6)])
            time.sleep(attempt * 0.004)
            logging_out.logout()
            assert writes.result() <= {200, 401}
        assert left_of(deployment, devices.other.user_id) == [], attempt
        writing.close()
        logging_out.close()
    assert names(devices.other.get_rules("global"))["room"] == []


@pytest.mark.parametrize(
    ("what", "stays"), [("a rule", []), ("a room upgrade", []), ("switching off", ["there"])]
)
def test_a_logout_waits_for_what_is_changed_in_the_scope(
    deployment: Deployment, devices: Devices, what: str, stays: list[str]
) -> None:
    """It has been changed, all but for its place in the stream, when the device logs out."""
    database = deployment._database
    if database is None:
        pytest.skip("on SQLite one transaction follows the other")
    devices.other.put_rule("PHONE", "room", "there", rule("room"))
    devices.switch()
    room_id = devices.other.create_room()
    devices.phone.put_rule("global", "room", room_id, rule("room", []))
    changing = deployment.direct(devices.other)
    changes: dict[str, Callable[[], object]] = {
        "a rule": lambda: changing.put_rule("PHONE", "room", "new", rule("room")),
        "a room upgrade": lambda: changing.upgrade_room(room_id, "10"),
        "switching off": lambda: switch(changing, "PHONE", False),
    }
    with ThreadPoolExecutor() as pool, database.held_up("push_rules_stream") as waiting:
        change = pool.submit(changes[what])
        # How many wait does not tell: what an earlier logout has removed may just be told.
        wait_until(lambda: is_locked(deployment, devices.other.user_id), "the change under way")
        logout = pool.submit(devices.phone.logout)
        wait_until(lambda: logout.done() or waiting() >= 2, "the logout waiting, or over")
    change.result()
    logout.result()
    assert [row[3] for row in left_of(deployment, devices.other.user_id)] == stays
    changing.close()


def is_locked(deployment: Deployment, user_id: str) -> bool:
    """Whether a transaction holds the row of a device's own settings."""
    table = "synapse_msc3881_own_settings"
    try:
        deployment.sql(f"SELECT 1 FROM {table} WHERE user_id = ? FOR UPDATE NOWAIT", [user_id])
    except psycopg2.errors.LockNotAvailable:
        return True
    return False


def put_rooms(session: Session, rooms: list[str]) -> set[int]:
    """Write a rule for each room; the statuses of the answers."""
    where = (rules_path("global", "room", room_id) for room_id in rooms)
    return {session.request("PUT", each, rule("room")).status for each in where}


@pytest.mark.one_deployment
def test_requests_to_two_ports_take_turns(fresh_deployment: FreshDeployment) -> None:
    """Synapse serves each port by a servlet of its own, with a queue of its own."""
    deployment = fresh_deployment()
    ports = [deployment.homeserver.port, free_port()]
    listener = {"type": "http", "bind_addresses": ["127.0.0.1"], "tls": False}
    deployment.restart(
        extra={
            "listeners": [
                {**listener, "port": port, "resources": [{"names": ["client"]}]} for port in ports
            ]
        }
    )
    other = deployment.register()
    phone = deployment.login(other, "PHONE")
    here, there = (
        attr.evolve(phone, route=lambda *_, port=port: f"http://127.0.0.1:{port}") for port in ports
    )
    with ThreadPoolExecutor() as pool:
        for attempt in range(8):
            switches = [
                pool.submit(each.request, "PUT", own_path("PHONE"), {"enabled": True})
                for each in (here, there)
            ]
            assert {each.result().status for each in switches} == {200}
            writes = pool.submit(put_rooms, there, [f"!{number}:x" for number in range(8)])
            time.sleep(attempt * 0.002)
            switch(here, "PHONE", False)
            assert writes.result() == {200}
    here.close()
    there.close()
