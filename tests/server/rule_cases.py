# SPDX-License-Identifier: AGPL-3.0-or-later
"""Requests to the push rules API, good and bad, to be sent in one scope and in another."""

from importlib.util import find_spec
from typing import Any

import attr
import pytest

from demo.client import CLIENT, JsonDict, Response, Session, rules_path
from tests.server.helpers import RULES, own_rules, rule

#: An older Synapse has no limits for push rules; there, only device rules are limited.
SYNAPSE_HAS_LIMITS = find_spec("synapse.config.push_rules") is not None
needs_limits = pytest.mark.skipif(not SYNAPSE_HAS_LIMITS, reason="Synapse has no such config")


def scope_root(scope: str) -> str:
    """Where a scope starts: `rules_path` encodes all that follows, these tests do not."""
    return f"{CLIENT}/pushrules/global" if scope == "global" else rules_path(scope)


@attr.s(auto_attribs=True, frozen=True)
class Case:
    """A request in a scope; `tail` is what follows the scope in the path, as it is sent."""

    method: str
    tail: str
    body: Any = None
    raw_body: bytes | None = None

    def send(self, session: Session, scope: str) -> Response:
        where = scope_root(scope) + self.tail
        return session.request(self.method, where, self.body, raw_body=self.raw_body)


GOOD = rule()

PATHS = [
    "",
    "/",
    "//",
    "///",
    "/override",
    "/override/",
    "/override//",
    "/override//enabled",
    "/content",
    "/nonsense",
    "/nonsense/",
    "/nonsense/mine",
    "/nonsense/mine/enabled",
    "/OVERRIDE/mine",
    "/postcontent/mine",
    "/postcontent/mine/enabled",
    "/override/mine",
    "/override/mine/",
    "/override/mine//",
    "/override/mine/enabled",
    "/override/mine/enabled/",
    "/override/mine/enabled/more",
    "/override/mine/actions",
    "/override/mine/rule_id",
    "/override/mine/default",
    "/override/mine/conditions",
    "/override/mine/pattern",
    "/override/mine/nonsense",
    "/override/unknown",
    "/override/unknown/enabled",
    "/override/unknown/actions",
    "/override/unknown/nonsense",
    "/content/mine/pattern",
    "/content/mine/conditions",
    "/room/mine",
    "/room/mine/conditions",
    "/sender/mine",
    "/override/.mine",
    "/override/.mine/enabled",
    "/override/.mine/actions",
    "/override/.mine/nonsense",
    "/override/..",
    "/override/.",
    "/override/%2Emine",
    "/override/a%5Cb",
    "/override/a\\b",
    "/%6Fverride/mine",
    "/override/m%69ne",
    "/override/mine/%65nabled",
    "/override/%",
    "/override/%zz",
    "/override/%25",
    "/override/a%3Fb",
    "/override/a%23b",
    "/override/a%20b",
    "/override/a+b",
    "/override/%C3%A9",
    "/override/%F0%9F%93%B1",
    "/override/%0A",
    "/override/mine?before=unknown",
    "/override/mine?after=unknown",
    "/override/mine?before=&after=",
    "/override/mine?before=mine",
    "/override/mine?after=mine",
    "/override/new?before=mine",
    "/override/new?after=mine",
    "/override/new?before=unknown&after=mine",
    "/override/new?before=mine&after=unknown",
    "/override/new?before=a&before=mine",
    "/override/new?before=.m.rule.master",
    "/override/new?before=a/b",
    "/override/new?before=global/override/mine",
    "/override/new?before=%FF",
    "/override/new?before=%C3%A9",
    "/content/new?before=mine",
    "/room/new?after=mine",
    "/override/mine/enabled?before=unknown",
    # The longest id, and one that is too long, in the request line too.
    "/override/" + "x" * (300 - len("global/override/")),
]

TWEAK: JsonDict = {"set_tweak": "sound", "value": "x"}

#: By the tail of the path.
BODIES: dict[str, list[Any]] = {
    "/override/new": [
        {},
        [],
        [1],
        {"actions": []},
        {"conditions": []},
        {"conditions": [], "actions": []},
        {"conditions": [{}], "actions": []},
        {"conditions": [{"key": "x"}], "actions": []},
        {"conditions": [{"kind": "unknown", "more": [1, {"a": None}]}], "actions": []},
        {"conditions": [{"kind": ""}], "actions": []},
        {"conditions": "text", "actions": []},
        {"conditions": {}, "actions": "x"},
        {"conditions": [[]], "actions": []},
        {"conditions": ["text"], "actions": []},
        {"conditions": []},
        {"conditions": [], "actions": None},
        {"conditions": [], "actions": {}},
        {"conditions": [], "actions": "notify"},
        {"conditions": [], "actions": [None]},
        {"conditions": [], "actions": ["unknown"]},
        {"conditions": [], "actions": [[]]},
        {"conditions": [], "actions": [{}]},
        {"conditions": [], "actions": [{"value": "x"}]},
        {"conditions": [], "actions": ["notify", "unknown"]},
        {"conditions": [], "actions": ["notify", TWEAK]},
        {"conditions": [], "actions": ["dont_notify"]},
        {"conditions": [], "actions": ["coalesce"]},
        {"conditions": [], "actions": ["notify", "notify"]},
        {"conditions": [], "actions": [{"set_tweak": "highlight"}]},
        {"conditions": [], "actions": [{"set_tweak": "x", "value": {"a": [1, None]}}]},
        {"conditions": [], "actions": [{"set_tweak": "x", "more": 1}]},
        {"conditions": [], "actions": [{"\udc00": 1}]},
        "text",
        {"conditions": [], "actions": [], "enabled": False, "default": True, "rule_id": "x"},
        {"conditions": [], "actions": [], "pattern": 5},
    ],
    "/content/new": [
        {},
        {"actions": []},
        {"pattern": "x"},
        {"pattern": "", "actions": []},
        {"pattern": "*", "actions": ["notify"]},
        {"pattern": "x", "actions": ["unknown"]},
        {"pattern": "x", "actions": [], "conditions": [{}]},
    ],
    "/room/new": [{}, {"actions": []}, {"actions": ["unknown"]}],
    "/sender/new": [{}, {"actions": []}, {"actions": [1]}],
    "/underride/new": [{"actions": []}, {"conditions": [], "actions": []}],
    "/override/mine/enabled": [
        {"enabled": False},
        {"enabled": True},
        {"enabled": None},
        {"enabled": "false"},
        {"enabled": 0},
        {"enabled": []},
        {"enabled": {"enabled": True}},
        {"other": True},
        {},
        [],
        [True],
        False,
        0,
        "true",
    ],
    "/override/mine/actions": [
        {"actions": []},
        {"actions": ["notify", TWEAK]},
        {"actions": ["unknown"]},
        {"actions": [None]},
        {"actions": None},
        {"actions": "notify"},
        {"actions": {}},
        {},
        [],
        ["notify"],
        True,
        "notify",
    ],
    "/override/unknown/enabled": [{"enabled": True}, {"enabled": 5}],
    "/override/unknown/actions": [{"actions": []}, {"actions": ["unknown"]}],
    "/override/.mine/enabled": [{"enabled": True}, {"enabled": 5}],
    "/override/.mine/actions": [{"actions": []}, {"actions": 5}],
    "/nonsense/new": [{}, {"actions": []}],
    "/postcontent/new": [{}, {"actions": []}, {"conditions": [], "actions": []}],
}

RAW_BODIES = [
    b"",
    b"{",
    b"nul",
    b"\xff",
    b'"\xed\xa0\x80"',
    b'{"a": NaN}',
    b"\xef\xbb\xbf{}",
]


def prepare(session: Session, scope: str) -> JsonDict:
    """Write the rule `mine` in each kind of a scope, and return the ruleset."""
    for kind in RULES:
        session.put_rule(scope, kind, "mine", rule(kind))
    return own_rules(session.get_rules(scope))


def restore(session: Session, scope: str, wanted: JsonDict, left: JsonDict) -> None:
    """Make a scope that differs from what `prepare` made the same again."""
    for kind in RULES:
        for shown in left[kind]:
            if shown["rule_id"] != "mine":
                session.delete_rule(scope, kind, shown["rule_id"])
        if wanted[kind] != left[kind]:
            session.put_rule(scope, kind, "mine", rule(kind))
            session.set_rule_enabled(scope, kind, "mine", True)
