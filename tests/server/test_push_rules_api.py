# SPDX-License-Identifier: AGPL-3.0-or-later
"""Device scopes in the push rules API over HTTP: specification 3."""

import itertools
import json
import threading
from typing import Any
from urllib.parse import quote

import attr
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from demo.client import CLIENT, JsonDict, Response, Session, path, rules_path
from tests.conftest import FreshDeployment
from tests.harness.deployment import Deployment
from tests.server.helpers import RULES, assert_ok, assert_refused, own_rules, rule, stored
from tests.server.rule_cases import (
    BODIES,
    GOOD,
    PATHS,
    RAW_BODIES,
    SYNAPSE_HAS_LIMITS,
    TWEAK,
    Case,
    needs_limits,
    prepare,
    restore,
)

ODD_TAGS = [
    "a/b",
    "/",
    "//",
    "two words",
    " ",
    "%2F",
    "%",
    "%zz",
    "📱",
    "هاتف",
    "\u202eenohp",
    "e\u0301",
    "é",
    "..",
    ".",
    "?",
    "#",
    "a?b=c&d#e",
    "a;b",
    "a+b",
    "\\",
    "GLOBAL",
    "device",
    "override",
    ".m.rule.master",
    "€" * 85,
]


# The same as in `global`


#: With these, Synapse of `SYNAPSE_HAS_LIMITS` answers 413.
LIMITED = [
    Case("PUT", "/override/" + "x" * (301 - len("global/override/")), GOOD),
    Case("PUT", "/override/" + "%C3%A9" * 142 + "x", GOOD),
    Case("PUT", "/override/new", {"conditions": [], "actions": [{"set_tweak": "x" * 1024}]}),
    Case("PUT", "/content/new", {"pattern": "x" * 1024, "actions": []}),
    Case("PUT", "/override/mine/actions", {"actions": [{"set_tweak": "x" * 1024}]}),
    Case("PUT", "/override/unknown/actions", {"actions": [{"set_tweak": "x" * 1024}]}),
    Case("PUT", "/override/new?before=unknown", {**GOOD, "actions": [{"set_tweak": "x" * 1024}]}),
]

SAME_AS_IN_GLOBAL = [
    *(Case("GET", tail) for tail in PATHS if not tail.startswith("/postcontent")),
    *(Case("DELETE", tail) for tail in PATHS),
    *(Case("PUT", tail, GOOD) for tail in PATHS),
    *(Case("PUT", tail, body) for tail, bodies in BODIES.items() for body in bodies),
    *(
        Case("PUT", tail, raw_body=raw)
        for raw in RAW_BODIES
        for tail in ("/override/new", "/override/mine/enabled", "/override/mine/actions")
    ),
    *(LIMITED if SYNAPSE_HAS_LIMITS else []),
    *(Case(method, "/override/mine", GOOD) for method in ("POST", "PATCH", "HEAD")),
]


def test_device_scopes_answer_as_global_does(deployment: Deployment) -> None:
    """Each request gets the same status and error code, and leaves the same rules."""
    in_global, in_device = deployment.register(), deployment.register()
    untouched = prepare(in_global, "global")
    assert prepare(in_device, "a/b") == untouched

    wrong = []
    for case in SAME_AS_IN_GLOBAL:
        expected, got = case.send(in_global, "global"), case.send(in_device, "a/b")
        if (got.status, got.errcode) != (expected.status, expected.errcode):
            wrong.append((case, expected.status, expected.body[:80], got.status, got.body[:80]))
        if case.method == "GET":
            continue
        left = own_rules(in_global.get_rules("global"))
        assert in_device.get_rules("a/b") == left, case
        if left != untouched:
            restore(in_global, "global", untouched, left)
            restore(in_device, "a/b", untouched, left)
    assert wrong == [], "\n".join(map(str, wrong))


#: What is no name of a tweak.
NO_NAMES: list[Any] = [[], {}, ["sound"], 5, 0.5, True, None]

#: Why a device scope does not answer as Synapse without the module does in `global`.
STORES_A_RULE_THAT_BREAKS_IT = "Synapse takes it, and then answers 500 to all that reads the rules"
BREAKS = "Synapse answers 500, on some database or version"
HANGS = "Synapse cannot send its answer, which quotes the lone surrogate"
WRONG_TYPE = "`global` takes and shows it; it never matches"
NOT_THE_SAME_PATH = "`global` decodes the path before it splits it, and so reads another path"
REPLACES = "`global` takes what is not UTF-8 for U+FFFD"
NOT_A_KIND = "`global` has one rule of this kind, where Synapse knows MSC4306; nobody can write one"

# By the reason: the tail of the path and the body of a PUT that is refused with 400 M_UNKNOWN.
REFUSED_BODIES: dict[str, list[tuple[str, Any]]] = {
    STORES_A_RULE_THAT_BREAKS_IT: [
        ("/override/new", {"conditions": "", "actions": []}),
        ("/override/new", {"conditions": {}, "actions": []}),
        ("/override/new", {"conditions": {"kind": "x"}, "actions": []}),
        ("/override/new", {"conditions": ["kind"], "actions": []}),
        ("/override/new", {"conditions": [["kind"]], "actions": []}),
        ("/override/new", {"conditions": [{"kind": "\ud800"}], "actions": []}),
        ("/override/new", {"conditions": [], "actions": [{"set_tweak": "\ud800"}]}),
        ("/override/mine/actions", {"actions": [{"set_tweak": "\ud800"}]}),
        ("/content/new", {"pattern": "\ud800", "actions": []}),
    ],
    BREAKS: [
        ("/override/new", {"conditions": None, "actions": []}),
        ("/override/new", {"conditions": 5, "actions": []}),
        ("/override/new", {"conditions": [5], "actions": []}),
        ("/override/new", {"conditions": [None], "actions": []}),
        ("/override/new", 5),
        ("/override/new", b"null"),
        ("/content/new", b"null"),
        ("/room/new", b"null"),
        ("/override/new", b'{"conditions": [], "actions": [{"set_tweak": 1e999}]}'),
        ("/override/mine/actions", b'{"actions": [{"set_tweak": 1e999}]}'),
    ],
    HANGS: [
        ("/override/new", {"conditions": [], "actions": ["\ud800"]}),
        ("/override/mine/actions", {"actions": ["\ud800"]}),
    ],
    WRONG_TYPE: [
        ("/override/new", {"conditions": [{"kind": None}], "actions": []}),
        ("/override/new", {"conditions": [{"kind": 5}], "actions": []}),
        ("/content/new", {"pattern": 5, "actions": []}),
        ("/content/new", {"pattern": None, "actions": []}),
    ],
    NOT_THE_SAME_PATH: [("/override/a%2Fb", GOOD)],
}

NOT_AS_IN_GLOBAL: list[tuple[Case, int, str]] = [
    *(
        (
            Case("PUT", tail, raw_body=body)
            if isinstance(body, bytes)
            else Case("PUT", tail, body),
            400,
            "M_UNKNOWN",
        )
        for bodies in REFUSED_BODIES.values()
        for tail, body in bodies
    ),
    # NOT_THE_SAME_PATH
    (Case("GET", "/override/mine%2Fenabled"), 404, "M_NOT_FOUND"),
    (Case("DELETE", "/override/mine%2Fx"), 404, "M_NOT_FOUND"),
    # BREAKS, REPLACES
    *(
        (Case(method, f"/override/{part}", body), 400, "M_INVALID_PARAM")
        for method, body in (("GET", None), ("PUT", GOOD), ("DELETE", None))
        for part in ("%00", "%FF", "%ED%A0%80")
    ),
    (Case("PUT", "/override/new?before=%00", GOOD), 400, "M_INVALID_PARAM"),
    (Case("PUT", "/override/new?after=a%00", GOOD), 400, "M_INVALID_PARAM"),
    # In `global`, these stop the user's pushers for good once they matched.
    *(
        (
            Case("PUT", tail, {"conditions": [], "actions": ["notify", {"set_tweak": name}]}),
            400,
            "M_UNKNOWN",
        )
        for name in NO_NAMES
        for tail in ("/override/new", "/underride/mine", "/room/mine", "/override/mine/actions")
    ),
    # NOT_A_KIND
    (Case("GET", "/postcontent/mine"), 400, "M_UNRECOGNIZED"),
    (Case("GET", "/postcontent/"), 400, "M_UNRECOGNIZED"),
]


def test_where_global_fails_a_device_scope_refuses(deployment: Deployment, alice: Session) -> None:
    prepare(alice, "phone")
    before = stored(deployment, alice)
    for case, status, errcode in NOT_AS_IN_GLOBAL:
        response = case.send(alice, "phone")
        assert_refused(response, status, errcode, what=case)
        assert stored(deployment, alice) == before, case


@pytest.mark.parametrize("reason", [STORES_A_RULE_THAT_BREAKS_IT, BREAKS, HANGS])
def test_where_synapse_fails_global_refuses_too(alice: Session, reason: str) -> None:
    """The module serves `global` as well, and a rule that cannot be read back breaks its user."""
    before = prepare(alice, "global")
    for tail, body in REFUSED_BODIES[reason]:
        case = (
            Case("PUT", tail, raw_body=body) if isinstance(body, bytes) else Case("PUT", tail, body)
        )
        assert_refused(case.send(alice, "global"), 400, "M_UNKNOWN", what=case)
        assert own_rules(alice.get_rules("global")) == before, case


#: Below `/pushrules`: the path of a rule that nobody may write, whatever it says.
NEVER_WRITTEN = [
    "/elsewhere/override/new",
    "/elsewhere/override/new/actions",
    "/global/override/.m.rule.master",
    "/global/override/.mine/actions",
    "/global/override/.mine/enabled",
    "/global/content/.m.rule.master/actions",
    "/global/override/mine/nonsense",
    "/global/override/a%2Fb",
    "/global/override/a%5Cb",
    "/global/nonsense/new",
]

#: What is no rule, and no attribute of one.
NO_RULES: list[Any] = [
    {},
    [],
    {"conditions": "text", "actions": []},
    {"actions": ["unknown"]},
    {"enabled": "text"},
]


def test_global_answers_as_without_the_module(
    deployment: Deployment, fresh_deployment: FreshDeployment
) -> None:
    """The module looks at a rule first, but leaves it to Synapse to refuse it."""
    ours, native = deployment.register(), fresh_deployment(with_module=False).register()
    kept = prepare(ours, "global")
    prepare(native, "global")
    paths = [*NEVER_WRITTEN, *(f"/global/{kind}/mine" for kind in ("override", "content"))]
    for where, body in itertools.product(paths, NO_RULES):
        request = ("PUT", f"{CLIENT}/pushrules{where}", body)
        expected, got = native.request(*request), ours.request(*request)
        assert expected.status in (400, 404), request
        assert (got.status, got.json) == (expected.status, expected.json), request
    assert own_rules(ours.get_rules("global")) == own_rules(native.get_rules("global")) == kept


# Where rules come


@attr.s(auto_attribs=True, frozen=True)
class Write:
    """A rule is written, perhaps next to another."""

    rule_id: str
    before: str | None
    after: str | None


def order_after(order: list[str], write: Write) -> list[str] | None:
    """The reference: the order after a write, None where it must be refused."""
    neighbour = write.before or write.after
    others = [rule_id for rule_id in order if rule_id != write.rule_id]
    if neighbour is None:
        return [write.rule_id, *others]
    if neighbour not in order:
        return None
    if neighbour == write.rule_id:
        return order
    place = others.index(neighbour) + (0 if write.before else 1)
    return [*others[:place], write.rule_id, *others[place:]]


IDS = st.sampled_from("abcd")
WRITES = st.lists(st.builds(Write, IDS, st.none() | IDS, st.none() | IDS), min_size=3, max_size=12)


@given(writes=WRITES, kind=st.sampled_from(sorted(RULES)))
@settings(
    max_examples=12,
    deadline=None,
    derandomize=True,
    database=None,
    # The fixture is a server: it does not matter that the examples share it.
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_rules_come_where_they_are_put_as_in_global(
    deployment: Deployment, writes: list[Write], kind: str
) -> None:
    user = deployment.register()
    order: list[str] = []
    for write in writes:
        expected = order_after(order, write)
        where = {"before": write.before, "after": write.after}
        for scope in ("global", "phone"):
            response = user.request(
                "PUT", rules_path(scope, kind, write.rule_id, query=where), rule(kind)
            )
            assert response.status == (400 if expected is None else 200), (scope, write)
        order = order if expected is None else expected
        rules = user.get_rules()
        for scope, ruleset in (("global", rules["global"]), ("phone", device(rules, "phone"))):
            shown = own_rules(ruleset).get(kind, [])
            assert [each["rule_id"] for each in shown] == order, (scope, write)


def device(rules: JsonDict, tag: str) -> JsonDict:
    ruleset: JsonDict = rules.get("device", {}).get(tag, {})
    return ruleset


@pytest.mark.parametrize("scope", ["global", "phone"])
def test_a_rule_written_again_keeps_its_enabled_and_comes_first(alice: Session, scope: str) -> None:
    for rule_id in ("one", "two"):
        alice.put_rule(scope, "content", rule_id, rule("content"))
    alice.set_rule_enabled(scope, "content", "one", False)
    alice.put_rule(scope, "content", "one", {"pattern": "other", "actions": []})

    rules = own_rules(alice.get_rules(scope))["content"]
    assert rules == [
        {
            "rule_id": "one",
            "default": False,
            "enabled": False,
            "pattern": "other",
            "actions": [],
        },
        {
            "rule_id": "two",
            "default": False,
            "enabled": True,
            "pattern": "x",
            "actions": ["notify"],
        },
    ]


# What is shown


@pytest.mark.parametrize("kind", RULES)
def test_every_level_shows_what_was_written(alice: Session, kind: str) -> None:
    actions: list[str | JsonDict] = ["notify", TWEAK]
    shown: JsonDict = {"rule_id": "!r:x", "default": False, "enabled": True, "actions": actions}
    if kind not in {"room", "sender"}:
        shown.update(RULES[kind])
    alice.put_rule("phone", kind, "!r:x", rule(kind, actions))

    ruleset = {each: [shown] if each == kind else [] for each in RULES}
    levels: list[tuple[str, Any]] = [
        (path("pushrules", "device", ""), {"phone": ruleset}),
        (rules_path("phone", ""), ruleset),
        (rules_path("phone", kind, ""), [shown]),
        (rules_path("phone", kind, "!r:x"), shown),
        *(
            (rules_path("phone", kind, "!r:x", name), {name: value})
            for name, value in shown.items()
        ),
    ]
    for where, expected in levels:
        assert alice.call("GET", where) == expected, where
        head = alice.request("HEAD", where)
        assert (head.status, head.body) == (200, b""), where
    rules = alice.get_rules()
    assert set(rules) == {"global", "device"}
    assert rules["device"] == {"phone": ruleset}
    assert rules["global"] == alice.get_rules("global")


def test_a_scope_exists_while_it_has_a_rule(alice: Session) -> None:
    def scopes() -> list[str]:
        shown = alice.get_rules()
        assert shown.get("device", {}) == alice.call("GET", path("pushrules", "device", ""))
        return sorted(shown["device"]) if "device" in shown else []

    assert scopes() == []
    assert_refused(alice.request("GET", rules_path("a", "")), 404, "M_NOT_FOUND")

    alice.put_rule("a", "override", "one", rule())
    alice.put_rule("a", "room", "two", rule("room"))
    alice.put_rule("b", "override", "one", rule())
    assert scopes() == ["a", "b"]
    alice.delete_rule("a", "override", "one")
    assert scopes() == ["a", "b"]
    alice.delete_rule("a", "room", "two")
    assert scopes() == ["b"]
    for tail in ("", "override/", "override/one", "override/one/enabled"):
        where = rules_path("a", *tail.split("/"))
        assert_refused(alice.request("GET", where), 404, "M_NOT_FOUND", what=where)
    alice.delete_rule("b", "override", "one")
    assert "device" not in alice.get_rules()


def test_a_disabled_rule_keeps_its_scope(alice: Session) -> None:
    alice.put_rule("a", "override", "one", rule())
    alice.set_rule_enabled("a", "override", "one", False)
    assert alice.get_rules("a")["override"][0]["enabled"] is False


def test_rules_of_two_scopes_may_share_an_id(alice: Session) -> None:
    alice.put_rule("global", "override", "one", rule(actions=["notify"]))
    alice.put_rule("a", "override", "one", rule(actions=[]))
    alice.put_rule("b", "override", "one", rule(actions=["notify"]))
    before = own_rules(alice.get_rules("global"))

    alice.set_rule_enabled("a", "override", "one", False)
    alice.set_rule_actions("b", "override", "one", [{"set_tweak": "highlight"}])
    assert alice.get_rules("a")["override"][0]["enabled"] is False
    assert alice.get_rules("a")["override"][0]["actions"] == []
    assert alice.get_rules("b")["override"][0]["enabled"] is True
    alice.delete_rule("a", "override", "one")
    assert alice.get_rules("b")["override"][0]["actions"] == [{"set_tweak": "highlight"}]
    assert own_rules(alice.get_rules("global")) == before

    alice.delete_rule("global", "override", "one")
    assert alice.get_rules("b")["override"] != []


def test_nobody_sees_or_changes_the_rules_of_another_user(alice: Session, bob: Session) -> None:
    alice.put_rule("phone", "override", "one", rule())
    before = alice.get_rules()
    assert "device" not in bob.get_rules()
    for method, tail, body in (
        ("GET", ("override", "one"), None),
        ("DELETE", ("override", "one"), None),
        ("PUT", ("override", "one", "enabled"), {"enabled": False}),
        ("PUT", ("override", "one", "actions"), {"actions": []}),
    ):
        response = bob.request(method, rules_path("phone", *tail), body)
        assert_refused(response, 404, "M_NOT_FOUND", what=(method, tail))
    bob.put_rule("phone", "override", "one", rule(actions=[]))
    bob.delete_rule("phone", "override", "one")
    assert alice.get_rules() == before


def test_all_of_it_needs_a_token(alice: Session) -> None:
    alice.put_rule("phone", "override", "one", rule())
    for method in ("GET", "PUT", "DELETE"):
        where = rules_path("phone", "override", "one")
        response = alice.request(method, where, rule(actions=[]), token=False)
        assert_refused(response, 401, "M_MISSING_TOKEN", what=method)
    assert alice.get_rules("phone")["override"][0]["actions"] == ["notify"]


@pytest.mark.parametrize("prefix", ["api/v1", "r0", "v3", "unstable"])
def test_every_prefix_serves_device_scopes(alice: Session, prefix: str) -> None:
    root = f"/_matrix/client/{prefix}/pushrules/device/a%2Fb"
    one = f"{root}/override/one"
    alice.call("PUT", one, rule())
    alice.call("PUT", f"{one}/enabled", {"enabled": False})
    alice.call("PUT", f"{one}/actions", {"actions": []})
    shown = alice.call("GET", one)
    assert (shown["enabled"], shown["actions"]) == (False, [])
    assert alice.call("GET", f"{root}/") == alice.get_rules("a/b")
    alice.call("DELETE", one)
    assert "device" not in alice.get_rules()


# Profile tags in the path


def test_a_tag_may_be_any_text(alice: Session) -> None:
    for tag in ODD_TAGS:
        alice.put_rule(tag, "override", "one", rule())
        assert list(alice.get_rules()["device"]) == [tag], tag
        assert list(alice.call("GET", path("pushrules", "device", ""))) == [tag]
        alice.set_rule_enabled(tag, "override", "one", False)
        alice.set_rule_actions(tag, "override", "one", [])
        (shown,) = alice.get_rules(tag)["override"]
        assert (shown["rule_id"], shown["enabled"], shown["actions"]) == ("one", False, [])
        alice.delete_rule(tag, "override", "one")
        assert "device" not in alice.get_rules(), tag


def test_a_tag_is_the_same_however_it_is_encoded(alice: Session) -> None:
    root = f"{CLIENT}/pushrules/device"
    alice.put_rule("a b~é", "override", "one", rule())
    for spelled in ("a%20b~%C3%A9", "%61%20%62%7e%c3%a9"):
        assert alice.call("GET", f"{root}/{spelled}/") == alice.get_rules("a b~é")
        assert alice.call("GET", f"{CLIENT}/pushrules/%64evice/{spelled}/override/one")
    # A plus sign is a plus sign in a path, and %252F is what stands there for %2F.
    assert_refused(alice.request("GET", f"{root}/a+b~%C3%A9/"), 404, "M_NOT_FOUND")
    alice.put_rule("%2F", "override", "one", rule())
    assert_refused(alice.request("GET", f"{root}/%2F/"), 404, "M_NOT_FOUND")
    assert_ok(alice.request("GET", f"{root}/%252F/"))


def test_the_scope_may_be_encoded_as_one_part_of_the_path(alice: Session) -> None:
    """As libraries do it to which a scope is one name: matrix-nio, mautrix, mautrix-go."""
    for tag in ODD_TAGS:
        root = f"{CLIENT}/pushrules/{quote(f'device/{tag}', safe='')}"
        alice.call("PUT", f"{root}/override/one", rule())
        assert list(alice.get_rules()["device"]) == [tag], tag
        alice.call("PUT", f"{root}/override/one/enabled", {"enabled": False})
        alice.call("PUT", f"{root}/override/one/actions", {"actions": []})
        (shown,) = alice.get_rules(tag)["override"]
        assert (shown["enabled"], shown["actions"]) == (False, []), tag
        assert alice.call("GET", f"{root}/") == alice.get_rules(tag), tag
        alice.call("DELETE", f"{root}/override/one")
        assert "device" not in alice.get_rules(), tag


def test_a_bad_scope_that_is_one_part_of_the_path_is_refused(alice: Session) -> None:
    for tag in ("global", "a%00", "%0A", "%FF", "a" * 256):
        for method in ("GET", "PUT", "DELETE"):
            where = f"{CLIENT}/pushrules/device%2F{tag}/override/one"
            response = alice.request(method, where, rule() if method == "PUT" else None)
            assert_refused(response, 400, "M_INVALID_PARAM", what=(method, tag))
    # Nothing else is a scope for having a slash in it.
    for scope in ("devices%2Fphone", "global%2Fphone", "%2Fdevice%2Fphone"):
        response = alice.request("PUT", f"{CLIENT}/pushrules/{scope}/override/one", rule())
        assert_refused(response, 400, what=scope)
    assert "device" not in alice.get_rules()


BAD_TAGS = [
    ("empty", ""),
    ("256 bytes", "a" * 256),
    ("256 bytes in 86 characters", quote("€" * 85 + "a")),
    ("a null character", "a%00"),
    ("a line feed", "%0A"),
    ("delete", "%7F"),
    ("a C1 control", "%C2%85"),
    ("not UTF-8", "%FF"),
    ("a surrogate in UTF-8", "%ED%A0%80"),
    ("an overlong slash", "%C0%AF"),
    ("global", "global"),
    ("global, encoded", "%67lobal"),
]


def test_a_bad_tag_is_refused_on_every_verb(deployment: Deployment, alice: Session) -> None:
    alice.put_rule("phone", "override", "one", rule())
    before = stored(deployment, alice)
    for what, tag in BAD_TAGS:
        root = f"{CLIENT}/pushrules/device/{tag}"
        requests: list[tuple[str, str, Any]] = [
            ("GET", f"{root}/", None),
            ("GET", f"{root}/override/", None),
            ("GET", f"{root}/override/one", None),
            ("PUT", f"{root}/override/one", rule()),
            ("PUT", f"{root}/override/one/enabled", {"enabled": True}),
            ("PUT", f"{root}/override/one/actions", {"actions": []}),
            ("DELETE", f"{root}/override/one", None),
        ]
        for method, where, body in requests:
            response = alice.request(method, where, body)
            assert_refused(response, 400, "M_INVALID_PARAM", what=(what, method, where))
    assert stored(deployment, alice) == before


# Limits


def test_a_user_may_have_twenty_device_scopes(alice: Session, bob: Session) -> None:
    for number in range(20):
        alice.put_rule(f"tag{number}", "override", "one", rule())
    refused = alice.request("PUT", rules_path("tag20", "override", "one"), rule())
    assert_refused(refused, 400, "M_UNKNOWN", names="20")
    # There is room in those that are there, for others, and once one is gone.
    alice.put_rule("tag7", "override", "two", rule())
    alice.put_rule("tag7", "override", "one", rule())
    bob.put_rule("tag20", "override", "one", rule())
    alice.delete_rule("tag0", "override", "one")
    alice.put_rule("tag20", "override", "one", rule())
    assert len(alice.get_rules()["device"]) == 20


def test_the_size_of_a_rule_is_limited_at_1024_bytes(alice: Session) -> None:
    """The bytes of its conditions and of its actions, as JSON without spaces."""

    def of_size(size: int) -> JsonDict:
        used = len('[][{"set_tweak":""}]')
        return {"conditions": [], "actions": [{"set_tweak": "x" * (size - used)}]}

    where = rules_path("phone", "override", "one")
    assert_ok(alice.request("PUT", where, of_size(1024)))
    for tail, body in (("", of_size(1025)), ("/actions", of_size(1025))):
        assert_refused(alice.request("PUT", where + tail, body), 413, "M_UNKNOWN", what=tail)
    assert len(json.dumps(alice.get_rules("phone")["override"][0]["actions"])) < 1025


@needs_limits
@pytest.mark.one_deployment
@pytest.mark.parametrize("is_own", [False, True])
@pytest.mark.parametrize("scope", ["global", "phone"])
def test_what_is_too_large_is_refused_as_that_however_deep_it_is(
    alice: Session, scope: str, is_own: bool
) -> None:
    """As plain Synapse does, which does not see how deep it is until it reads it back."""
    if is_own:
        alice.call("PUT", rules_path(alice.device_id, "org.matrix.msc3837.own"), {"enabled": True})
    alice.put_rule(scope, "override", "there", rule())

    def refused(size: int, tail: str) -> int:
        value: Any = "x" * size
        for _ in range(200):
            value = [value]
        body = {"conditions": [], "actions": [{"set_tweak": "x", "value": value}]}
        return alice.request("PUT", rules_path(scope, "override", *tail.split("/")), body).status

    for tail, status in (("new", 413), ("there", 413), ("there/actions", 413), ("no/actions", 404)):
        assert refused(1000, tail) == status, tail
    for tail in ("new", "there", "there/actions", "x" * 299):
        assert refused(1, tail) == (413 if len(tail) > 200 else 400), tail
    left = [each["rule_id"] for each in alice.get_rules(scope)["override"]]
    assert [name for name in left if not name.startswith(".")] == ["there"]


def test_the_length_of_a_rule_id_is_limited_as_in_global(alice: Session) -> None:
    """300 bytes with `global/<kind>/` before it; a long tag takes nothing of that."""
    tag = "t" * 255
    longest = "é" * 142
    assert_ok(alice.request("PUT", rules_path(tag, "override", longest), rule()))
    refused = alice.request("PUT", rules_path(tag, "override", longest + "x"), rule())
    assert_refused(refused, 413, "M_UNKNOWN")


@pytest.fixture(scope="module")
def strict(module_deployment: FreshDeployment) -> Deployment:
    """A server with low limits."""
    return module_deployment(
        module_config={"limits": {"device_scopes_per_user": 2}},
        extra={"push_rules": {"limits": {"rule_count": 3, "rule_id_length": 30, "rule_size": 100}}},
    )


@needs_limits
def test_the_limits_of_synapse_apply_to_device_rules_on_their_own(strict: Deployment) -> None:
    user = strict.register()

    def put(scope: str, rule_id: str, kind: str = "room") -> Response:
        return user.request("PUT", rules_path(scope, kind, rule_id), rule(kind))

    for number in range(3):
        assert_ok(put("global", f"r{number}"))
        assert_ok(put(f"tag{number % 2}", f"r{number}"))
    for scope in ("global", "tag0", "tag1"):
        assert_refused(put(scope, "more"), 400, "M_UNKNOWN", what=scope)
        assert_ok(put(scope, {"tag1": "r1"}.get(scope, "r0")), scope)
    user.delete_rule("tag0", "room", "r0")
    assert_refused(put("tag2", "more"), 400, "M_UNKNOWN", names="2")
    assert_ok(put("tag1", "more"))
    assert_refused(put("global", "more"), 400, "M_UNKNOWN")

    for scope in ("global", "tag1"):
        user.delete_rule(scope, "room", "r1")
        assert_ok(put(scope, "x" * 18), scope)
        assert_refused(put(scope, "x" * 19), 413, "M_UNKNOWN", what=scope)
        large = {"actions": [{"set_tweak": "x" * 100}]}
        for tail in ((), ("actions",)):
            where = rules_path(scope, "room", "x" * 18, *tail)
            assert_refused(user.request("PUT", where, large), 413, "M_UNKNOWN", what=scope)


def test_many_changes_at_once_do_not_exceed_the_limit_of_scopes(
    deployment: Deployment, alice: Session
) -> None:
    """Each on a connection of its own, so that the server works on them side by side."""
    devices = [attr.evolve(alice) for _ in range(8)]
    for number in range(18):
        alice.put_rule(f"tag{number}", "override", "one", rule())

    def put(session: Session) -> None:
        where = rules_path(f"new{id(session)}", "override", "one")
        statuses.append(session.request("PUT", where, rule()).status)
        session.close()

    statuses: list[int] = []
    threads = [threading.Thread(target=put, args=[session]) for session in devices]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(statuses) == [200] * 2 + [400] * 6
    assert len(alice.get_rules()["device"]) == 20
    deployment.assert_log_is_clean()
