# SPDX-License-Identifier: AGPL-3.0-or-later
"""Malformed requests to every endpoint of the module: a Matrix error, and nothing stored.

A traceback in the server's log fails a test here too: the fixture `deployment` looks for one.
"""

import json
from typing import Any
from urllib.parse import quote_from_bytes

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from demo.client import CLIENT, Response, Session, path
from tests.harness.deployment import Deployment
from tests.server.helpers import (
    NOWHERE,
    SET_PUSHER,
    assert_ok,
    assert_refused,
    get_pusher,
    pusher,
    rule,
    set_pusher,
    stored,
)

DEVICE = f"{CLIENT}/pushrules/device"
OVERRIDE = f"{DEVICE}/phone/override"
CONTENT = f"{DEVICE}/phone/content"

# Bodies

NOT_JSON = [
    b"",
    b" ",
    b"{",
    b"}",
    b'{"a":',
    b"{'a': 1}",
    b'{"a": 1,}',
    b'{"a": 1} {"a": 2}',
    b"NaN",
    b"Infinity",
    b'{"enabled": NaN}',
    b'{"enabled": -Infinity}',
    b"\x00",
    b"\xff\xfe{\x00}\x00",
    b'{"a": "\xff"}',
    b'{"a": "\xed\xa0\x80"}',
    b'{"a": "\n"}',
    b'{"a": "\\x"}',
    b"[" * 100_000,
    b'{"a":' * 100_000,
    b'{"enabled": ' + b"9" * 5_000 + b"}",
    b"9" * 100_000,
    b"<html></html>",
    b"enabled=true&kind=http",
]

NO_OBJECT = [b"null", b"5", b"[]", b'["enabled"]', b'"text"', b"true", b"1e999", b"-0.0"]

#: Values that no field of these endpoints takes.
BAD_VALUES: list[tuple[str, str]] = [
    ("a lone surrogate", '"\\ud800"'),
    ("a lone surrogate in an object", '{"\\udfff": "\\udfff"}'),
    ("a huge number", "1e999"),
    ("a huge negative number", "-1e999"),
    ("a number of 4000 digits", "9" * 4_000),
    ("a number beyond 64 bits", "18446744073709551616"),
    ("a number", "-0.5"),
    ("null in an object", '{"a": null}'),
    ("null in a list", "[null]"),
    ("a list in a list", "[[]]"),
    ("a list of a lone surrogate", '["\\ud800"]'),
    ("a list of a text with a null character", '["\\u0000"]'),
    ("many lists in each other", "[" * 500 + "]" * 500),
    ("many objects in each other", '{"a":' * 500 + "1" + "}" * 500),
    ("keys that are there twice", '{"a": 1, "a": 2}'),
]

PUSHER_FIELDS = [
    "kind",
    "app_id",
    "app_display_name",
    "device_display_name",
    "pushkey",
    "lang",
    "profile_tag",
    "append",
    "enabled",
    "org.matrix.msc3881.enabled",
    "profile_tags",
    "org.matrix.msc3837.profile_tags",
]

URLS: list[Any] = [
    "",
    "http://[",
    "http://[::1/_matrix/push/v1/notify",
    "http://[v1.]/_matrix/push/v1/notify",
    "http://]/_matrix/push/v1/notify",
    "http://\ud800/_matrix/push/v1/notify",
    "http://\u2100/_matrix/push/v1/notify",
    "http://localhost/",
    "http://localhost/_matrix/push/v1/notify/\0",
    "_matrix/push/v1/notify",
    "\0",
    "x" * 100_000,
    None,
    5,
    True,
    [],
    {},
]

# Of a fixed seed: what comes of it does not differ from run to run.
LONG_TEXT = "".join(
    chr(0x21 + (number * number * 7919 + number) % 0x2F00) for number in range(5_000)
)


@pytest.fixture
def user(deployment: Deployment) -> Session:
    """A user with a pusher, tags and rules, all of which must stay as they are."""
    session = deployment.register()
    assert_ok(set_pusher(session, enabled=False, profile_tags=["phone"]))
    session.put_rule("phone", "override", "one", rule())
    session.put_rule("phone", "content", "two", rule("content"))
    session.put_rule("global", "override", "one", rule())
    return session


def with_raw(body: dict[str, Any], name: str, raw: str) -> bytes:
    """A JSON object with one more field, whose value is given as it is written."""
    rest = json.dumps({key: value for key, value in body.items() if key != name})
    return f'{rest[:-1]}, "{name}": {raw}}}'.encode()


class Unchanged:
    """Sees to it that the requests of a test are refused and change nothing."""

    def __init__(self, deployment: Deployment, user: Session) -> None:
        self._deployment, self._user = deployment, user
        self._before = stored(deployment, user)

    def assert_refused(
        self, method: str, where: str, body: bytes | None = None, what: str = ""
    ) -> None:
        response = self._user.request(method, where, raw_body=body)
        assert 400 <= response.status < 500, f"{what}: {_of(method, where, body, response)}"
        assert response.errcode, f"{what}: {_of(method, where, body, response)}"
        assert isinstance(response.json["error"], str)

    def assert_nothing_changed(self) -> None:
        assert stored(self._deployment, self._user) == self._before
        # What is stored can be read, too.
        self._user.get_pushers()
        self._user.get_rules()


def _of(method: str, where: str, body: bytes | None, response: Response) -> str:
    sent = f"{method} {where[-100:]} {(body or b'')[:200]!r}"
    return f"{sent} gave {response.status} {response.body[:300]!r}"


@pytest.fixture
def unchanged(deployment: Deployment, user: Session) -> Unchanged:
    return Unchanged(deployment, user)


def test_a_body_that_is_not_json_is_refused(unchanged: Unchanged) -> None:
    for body in NOT_JSON:
        unchanged.assert_refused("POST", SET_PUSHER, body)
        for where in (
            f"{OVERRIDE}/new",
            f"{OVERRIDE}/one",
            f"{OVERRIDE}/one/enabled",
            f"{OVERRIDE}/one/actions",
        ):
            unchanged.assert_refused("PUT", where, body)
    unchanged.assert_nothing_changed()


def test_a_body_that_is_no_object_is_refused(unchanged: Unchanged) -> None:
    for body in NO_OBJECT:
        unchanged.assert_refused("POST", SET_PUSHER, body)
        for kind in ("override", "content", "room", "sender", "underride"):
            unchanged.assert_refused("PUT", f"{DEVICE}/phone/{kind}/new", body)
        unchanged.assert_refused("PUT", f"{OVERRIDE}/one/actions", body)
        if body != b"true":
            unchanged.assert_refused("PUT", f"{OVERRIDE}/one/enabled", body)
    unchanged.assert_nothing_changed()


@pytest.mark.parametrize("name", PUSHER_FIELDS)
def test_a_bad_value_in_any_field_of_a_pusher_is_refused(unchanged: Unchanged, name: str) -> None:
    for what, raw in BAD_VALUES:
        body = with_raw(pusher(enabled=True), name, raw)
        unchanged.assert_refused("POST", SET_PUSHER, body, what=f"{name} is {what}")
        if name in ("app_id", "pushkey"):
            removal = with_raw(pusher(kind=None), name, raw)
            unchanged.assert_refused("POST", SET_PUSHER, removal, what=f"{name} is {what}, removal")
    unchanged.assert_nothing_changed()


def test_a_bad_url_of_a_pusher_is_refused(unchanged: Unchanged) -> None:
    for url in URLS:
        body = json.dumps(pusher(data={"url": url})).encode()
        unchanged.assert_refused("POST", SET_PUSHER, body)
    for data in ("null", "[]", '"text"', "5", "{}", '{"url": 1e999}', '[["url"]]'):
        unchanged.assert_refused("POST", SET_PUSHER, with_raw(pusher(), "data", data))
    huge = with_raw(pusher(), "data", f'{{"url": "{NOWHERE}", "more": 1e999}}')
    unchanged.assert_refused("POST", SET_PUSHER, huge)
    unchanged.assert_nothing_changed()


def test_what_is_too_long_for_a_database_is_refused(unchanged: Unchanged) -> None:
    """PostgreSQL refuses index rows of more than 2704 bytes, compressed."""
    for name in ("app_id", "pushkey"):
        for text in (LONG_TEXT, "x" * 3_000, "\0" * 10_000):
            body = pusher(**{"pushkey": "key", name: text})
            unchanged.assert_refused("POST", SET_PUSHER, json.dumps(body).encode(), what=name)
    unchanged.assert_nothing_changed()


def test_the_longest_names_of_a_pusher_can_be_stored(alice: Session) -> None:
    long = LONG_TEXT.encode()[:2_000].decode(errors="ignore")
    names = {"app_id": long[:80], "app_display_name": LONG_TEXT, "device_display_name": LONG_TEXT}
    assert_ok(set_pusher(alice, long, profile_tags=["\u00e9" * 127] * 10, **names))
    shown = get_pusher(alice, long)
    assert {name: shown[name] for name in names} == names


def test_odd_values_in_the_data_of_a_pusher_are_kept_or_refused(alice: Session) -> None:
    """Synapse has no opinion on what else `data` holds; whatever it takes, it can show."""
    for what, raw in BAD_VALUES:
        body = with_raw(pusher(), "data", f'{{"url": "{NOWHERE}", "more": {raw}}}')
        response = alice.request("POST", SET_PUSHER, raw_body=body)
        assert response.status in (200, 400), what
        if response.status == 200:
            assert get_pusher(alice)["data"]["more"] == json.loads(raw), what


def test_bad_conditions_patterns_and_actions_are_refused(unchanged: Unchanged) -> None:
    for what, raw in BAD_VALUES:
        for where, body in (
            (f"{OVERRIDE}/new", f'{{"actions": [], "conditions": {raw}}}'),
            (f"{OVERRIDE}/new", f'{{"actions": [], "conditions": [{{"kind": {raw}}}]}}'),
            (f"{OVERRIDE}/new", f'{{"conditions": [], "actions": {raw}}}'),
            (f"{OVERRIDE}/new", f'{{"conditions": [], "actions": ["notify", {raw}]}}'),
            (f"{CONTENT}/new", f'{{"actions": [], "pattern": {raw}}}'),
            (f"{OVERRIDE}/one/actions", f'{{"actions": {raw}}}'),
            (f"{OVERRIDE}/one/actions", f'{{"actions": [{raw}]}}'),
            (f"{OVERRIDE}/one/enabled", f'{{"enabled": {raw}}}'),
            (f"{OVERRIDE}/one/enabled", raw),
        ):
            unchanged.assert_refused("PUT", where, body.encode(), what)
    unchanged.assert_nothing_changed()


def test_odd_values_of_a_tweak_are_kept_or_refused(alice: Session) -> None:
    alice.put_rule("phone", "override", "one", rule())
    for what, raw in BAD_VALUES:
        action = f'{{"set_tweak": "x", "value": {raw}}}'
        condition = f'{{"kind": "x", "value": {raw}}}'
        for tail, body in (
            ("new", f'{{"conditions": [], "actions": [{action}]}}'),
            ("new", f'{{"conditions": [{condition}], "actions": []}}'),
            ("one/actions", f'{{"actions": [{action}]}}'),
        ):
            response = alice.request("PUT", f"{OVERRIDE}/{tail}", raw_body=body.encode())
            if response.status != 200:
                assert response.status in (400, 413), what
                assert response.errcode, what
            alice.get_rules()


# Paths


BAD_PARTS = ["%00", "a%00b", "%FF", "%ED%A0%80", "%C0%AF", "%F8%88%80%80%80", "%80", "a%FFb"]


def test_a_path_that_is_no_text_is_refused(unchanged: Unchanged) -> None:
    for part in BAD_PARTS:
        for where in (
            f"{DEVICE}/{part}/override/one",
            f"{DEVICE}/phone/{part}/one",
            f"{DEVICE}/phone/override/{part}",
            f"{DEVICE}/phone/override/one/{part}",
            f"{DEVICE}/phone/override/one/enabled/{part}",
            f"{DEVICE}/{part}",
            f"{DEVICE}/{part}/",
            f"{DEVICE}/phone/{part}/",
        ):
            unchanged.assert_refused("GET", where)
            unchanged.assert_refused("PUT", where, b'{"conditions": [], "actions": []}')
            unchanged.assert_refused("PUT", where, b'{"enabled": false}')
            unchanged.assert_refused("DELETE", where)
    unchanged.assert_nothing_changed()


def test_a_query_that_is_no_text_is_refused(unchanged: Unchanged) -> None:
    body = json.dumps(rule()).encode()
    for name in ("before", "after"):
        for value in ["%00", "one%00", "%FF", "%ED%A0%80", "%C3%A9", "x" * 10_000, "a/b", "%zz"]:
            unchanged.assert_refused("PUT", f"{OVERRIDE}/new?{name}={value}", body)
    unchanged.assert_nothing_changed()


def test_a_path_of_any_length_is_answered(unchanged: Unchanged) -> None:
    body = json.dumps(rule()).encode()
    for length in (256, 3_000, 10_000):
        for text in ("x" * length, "%F0%9F%93%B1" * (length // 12), "%2F" * (length // 3)):
            unchanged.assert_refused("PUT", f"{DEVICE}/phone/override/{text}x{'y' * 300}", body)
            unchanged.assert_refused("PUT", f"{DEVICE}/{text}{'y' * 256}/override/one", body)
            unchanged.assert_refused("GET", f"{DEVICE}/phone/{text}/")
            unchanged.assert_refused("DELETE", f"{DEVICE}/phone/override/{text}")
    unchanged.assert_refused("GET", DEVICE + "/phone/override/one" + "/x" * 5_000)
    unchanged.assert_refused("PUT", DEVICE + "/x" * 5_000, body)
    unchanged.assert_nothing_changed()


def test_other_methods_are_refused(unchanged: Unchanged) -> None:
    everything = {"GET", "PUT", "POST", "DELETE", "PATCH"}
    for where, methods in {
        f"{OVERRIDE}/one": {"GET", "PUT", "DELETE"},
        path("pushers"): {"GET"},
        SET_PUSHER: {"POST"},
        path("notifications"): {"GET"},
        "/_matrix/client/versions": {"GET"},
    }.items():
        for method in everything - methods:
            unchanged.assert_refused(method, where, b"{}")
    unchanged.assert_nothing_changed()


def test_the_other_endpoints_refuse_or_ignore_what_they_are_asked(user: Session) -> None:
    for where in (
        path("pushers") + "?x=%FF&y=%00",
        path("pushers") + "/",
        "/_matrix/client/versions?x=%FF",
        *(
            path("notifications") + f"?{query}"
            for query in (
                "from=x",
                "from=1.5",
                "from=%00",
                "from=%FF",
                "from=-1",
                "from=" + "9" * 18,
                "from=" + "9" * 30,
                "from=-" + "9" * 30,
                "from=" + "9" * 5_000,
                "limit=x",
                "limit=-1",
                "limit=1e3",
                "limit=" + "9" * 30,
                "limit=" + "9" * 5_000,
                "only=%00",
                "only=x",
            )
        ),
    ):
        response = user.request("GET", where)
        assert response.status in (200, 400, 404), (where, response)
        assert isinstance(response.json, dict), where


# Anything


SETTINGS = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    database=None,
    # The fixtures are a server and a user: it does not matter that the examples share them.
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

TEXT = st.text(st.characters(), max_size=20) | st.sampled_from(
    ["\ud800", "\0", "a\0", "", "notify", "event_match", "http", "email", "global", "phone"]
)
NUMBERS = st.integers() | st.floats() | st.sampled_from([10**400, 2**63, 2**64, -(2**63) - 1])


def lists_and_objects(of: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.lists(of, max_size=4) | st.dictionaries(TEXT, of, max_size=4)


VALUES = st.recursive(st.none() | st.booleans() | NUMBERS | TEXT, lists_and_objects, max_leaves=8)
NAMES = st.sampled_from([*PUSHER_FIELDS, "data", "url", "actions", "conditions", "pattern"])


def is_answered_well(response: Response) -> bool:
    if response.status == 200:
        return response.json == {} or response.json is not None
    return 400 <= response.status < 500 and response.errcode is not None


@given(changes=st.dictionaries(NAMES, VALUES, min_size=1, max_size=3), data=st.none() | VALUES)
@SETTINGS
def test_any_pusher_is_stored_or_refused(user: Session, changes: dict[str, Any], data: Any) -> None:
    body = pusher(**changes)
    if data is not None:
        body["data"] = {"url": NOWHERE, "more": data}
    before = user.get_pushers()
    response = user.request("POST", SET_PUSHER, body)
    assert is_answered_well(response), response
    after = user.get_pushers()
    assert response.status == 200 or after == before
    for shown in after:
        if shown not in before:
            user.delete_pusher(shown["pushkey"], shown["app_id"])


CONDITIONS = st.lists(
    st.dictionaries(st.sampled_from(["kind", "key", "pattern", "is", "value"]), VALUES) | VALUES,
    max_size=3,
)
ACTIONS = st.lists(
    st.sampled_from(["notify", "dont_notify"])
    | st.dictionaries(st.sampled_from(["set_tweak", "value"]), VALUES)
    | VALUES,
    max_size=3,
)
RULE_BODIES = VALUES | st.fixed_dictionaries(
    {},
    optional={
        "conditions": CONDITIONS | VALUES,
        "actions": ACTIONS | VALUES,
        "pattern": VALUES,
        "enabled": VALUES,
    },
)
KINDS = st.sampled_from(["override", "content", "room", "sender", "underride", "other"])


@given(kind=KINDS, tail=st.sampled_from(["", "/enabled", "/actions"]), body=RULE_BODIES)
@SETTINGS
def test_any_rule_is_stored_or_refused(user: Session, kind: str, tail: str, body: Any) -> None:
    before = user.get_rules()
    raw = json.dumps(body).encode()
    response = user.request("PUT", f"{DEVICE}/phone/{kind}/one{tail}", raw_body=raw)
    assert is_answered_well(response), (body, response)
    after = user.get_rules()
    assert response.status == 200 or after == before
    assert after["global"] == before["global"]


# Parts of a path: any bytes, and what means something there.
PARTS = st.binary(max_size=12) | st.sampled_from(
    [b"", b".", b"..", b"/", b"%", b"global", b"device", b"phone", b"override", b"one", b"enabled"]
)


@given(
    method=st.sampled_from(["GET", "PUT", "DELETE"]),
    parts=st.lists(PARTS, max_size=5),
    body=st.sampled_from([b'{"conditions": [], "actions": []}', b'{"enabled": true}', b"{}"]),
)
@SETTINGS
def test_any_path_is_answered(user: Session, method: str, parts: list[bytes], body: bytes) -> None:
    encoded = "/".join(quote_from_bytes(part, safe="") for part in parts)
    response = user.request(method, f"{DEVICE}/{encoded}", raw_body=body)
    assert is_answered_well(response), response
    assert "global" in user.get_rules()


def test_a_refused_request_names_what_is_wrong_and_no_more(user: Session) -> None:
    """What the message quotes of the request can be sent back, whatever it is."""
    for body in (
        {"conditions": [], "actions": ["\ud800"]},
        {"conditions": [], "actions": ["x" * 50_000]},
        {"conditions": [], "actions": [{"\udc00": "\0"}]},
    ):
        response = user.request("PUT", f"{OVERRIDE}/new", body)
        assert_refused(response, 400, "M_UNKNOWN", names="Unrecognised action")
