# SPDX-License-Identifier: AGPL-3.0-or-later
"""A device's own settings as they are stored, and as each device reads its user's rules."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from synapse.push.clientformat import format_push_rules_for_user
from synapse.storage.databases.main.push_rule import _load_rules
from synapse.types import UserID

from synapse_msc3881 import seams
from synapse_msc3881.cascade.own_settings import (
    DefaultChange,
    OwnSettings,
    complete_rows,
    in_place_of_stand_ins,
    read_own_settings,
    stand_ins,
    write_defaults,
)
from synapse_msc3881.cascade.rulesets import (
    KINDS,
    BadRowError,
    DeviceRule,
    Ruleset,
    by_priority,
    format_for_client,
    to_json,
)
from synapse_msc3881.push_rules import RulesByDevice, for_device, shown_as_global
from synapse_msc3881.storage.rule_texts import normalise
from tests.harness.occasions import ACTIONS, CONDITIONS, PATTERNS, SETTINGS, USER, Setting

_ACTIONS = st.none() | st.lists(st.sampled_from(["notify", {"set_tweak": "é"}])).map(
    lambda actions: json.dumps(actions, separators=(",", ":"))
)
_CHANGES = st.builds(DefaultChange, _ACTIONS, st.none() | st.booleans())


@given(st.dictionaries(st.sampled_from(["override/.a", "content/.b", "underride/.c"]), _CHANGES))
def test_what_is_changed_of_default_rules_is_read_as_it_was_written(
    defaults: dict[str, DefaultChange],
) -> None:
    written = write_defaults(defaults)
    assert read_own_settings("PHONE", written) == OwnSettings("PHONE", defaults)


@pytest.mark.parametrize(
    "stored",
    [
        *("", "no JSON", "5", "[]", "null", '{"a": NaN}', '{"a": 5}', '{"a": []}'),
        *('{"a": {"enabled": 1}}', '{"a": {"actions": "notify"}}', None, 5, b"{}"),
    ],
)
def test_a_bad_row_is_told(stored: object) -> None:
    with pytest.raises(BadRowError, match="own settings of the device 'PHONE'"):
        read_own_settings("PHONE", stored)
    with pytest.raises(BadRowError):
        read_own_settings(5, "{}")


def test_a_complete_ruleset_has_the_rules_of_its_scope_in_order() -> None:
    def rule(tag: str, kind: str, rule_id: str, priority: int, enabled: bool = True) -> DeviceRule:
        return DeviceRule(tag, kind, rule_id, priority, "[]", '["notify"]', enabled)

    rules = [
        rule("PHONE", "room", "!low", -1),
        rule("PHONE", "room", "!high", 0, enabled=False),
        rule("PHONE", "override", "x", -5),
        rule("other", "override", "y", 7),
    ]
    own = OwnSettings(
        "PHONE",
        {
            "override/.m.rule.master": DefaultChange(enabled=True),
            "underride/.m.rule.message": DefaultChange(actions="[]"),
        },
    )
    rows, enabled = complete_rows(rules, own)
    assert rows == [
        ("global/override/x", 5, "[]", '["notify"]'),
        ("global/room/!high", 3, "[]", '["notify"]'),
        ("global/room/!low", 3, "[]", '["notify"]'),
        ("global/underride/.m.rule.message", -1, "[]", "[]"),
    ]
    assert enabled == {
        "global/override/x": True,
        "global/room/!high": False,
        "global/room/!low": True,
        "global/override/.m.rule.master": True,
    }


def test_the_rules_of_a_device_stand_where_those_of_an_account_do() -> None:
    def default(name: str) -> dict[str, object]:
        return {"rule_id": name, "default": True}

    def users(name: str) -> dict[str, object]:
        return {"rule_id": name, "default": False}

    ours: dict[str, list[dict[str, object]]] = {kind: [] for kind in KINDS}
    for rule in stand_ins("PHONE"):
        ours[rule.kind].append(users(rule.rule_id))
    complete = {
        **ours,
        "override": [default(".first"), *ours["override"], default(".last")],
        "postcontent": [default(".other")],
    }
    assert in_place_of_stand_ins(complete, {"override": [users("a"), users("b")]}) == {
        **{kind: [] for kind in KINDS},
        "override": [default(".first"), users("a"), users("b"), default(".last")],
        "postcontent": [default(".other")],
    }


# Synapse shows neither every condition as it is stored nor, by its id, every rule.
_ODD_CONDITIONS: st.SearchStrategy[dict[str, Any]] = st.dictionaries(
    st.sampled_from(["key", "pattern", "pattern_type", "value_type", "_type", "_cache_key", "_x"]),
    st.sampled_from(["user_id", "user_localpart", "content.body", 5, -0.0, 1.5, None, [{}]]),
).map(lambda odd: {"kind": "event_match" if "key" in odd else "odd", **odd})
_IDS = st.sampled_from(
    [
        *("a", "b", "stand-in", "msc", "ß", " ", "*", 'x_type"', "_cache_key"),
        *("org.matrix.msc1767", "x.org.matrix.msc3930", "!r:org.matrix.msc1767"),
        "@u:x.io.element.msc4306.rule.",
    ]
)


@st.composite
def _written(draw: st.DrawFn) -> list[DeviceRule]:
    """Rules as clients write them, to whatever scope."""
    names = draw(st.lists(st.tuples(st.sampled_from([*KINDS]), _IDS), unique=True, max_size=8))
    rules = []
    for priority, (kind, rule_id) in enumerate(names):
        body = {"pattern": draw(PATTERNS), "actions": draw(ACTIONS)}
        body["conditions"] = draw(st.lists(CONDITIONS | _ODD_CONDITIONS, max_size=2))
        conditions, actions = seams.rule_from_request(kind, rule_id, body)
        texts = to_json(conditions), to_json(actions)
        rules.append(DeviceRule("PHONE", kind, rule_id, priority, *texts, draw(st.booleans())))
    return rules


def _stored(rule: DeviceRule) -> DeviceRule:
    texts = normalise(rule.kind, json.loads(rule.conditions), json.loads(rule.actions))
    return DeviceRule(
        rule.profile_tag, rule.kind, rule.rule_id, rule.priority, *texts, rule.enabled
    )


def _in_global(
    setting: Setting, rules: list[DeviceRule], defaults: dict[str, DefaultChange]
) -> Ruleset:
    """What Synapse shows of the same rules in `global`."""
    rows = [
        (f"global/{rule.name}", KINDS[rule.kind], rule.conditions, rule.actions)
        for rule in by_priority(rules)
    ]
    enabled = {f"global/{rule.name}": rule.enabled for rule in rules}
    for name, change in defaults.items():
        if change.actions is not None:
            rows.append((f"global/{name}", -1, "[]", change.actions))
        if change.enabled is not None:
            enabled[f"global/{name}"] = change.enabled
    loaded = _load_rules(rows, enabled, setting.experimental)
    return format_push_rules_for_user(UserID.from_string(USER), loaded)["global"]


@given(
    SETTINGS,
    _written(),
    st.dictionaries(st.sampled_from(sorted(seams.default_rule_names())), _CHANGES, max_size=3),
)
def test_a_device_reads_what_synapse_shows_of_the_same_rules_in_global(
    setting: Setting, written: list[DeviceRule], defaults: dict[str, DefaultChange]
) -> None:
    """To the last byte."""
    stored = [_stored(rule) for rule in written]
    others = [
        DeviceRule("other", "override", "a", 0, '[{"_type":1}]', '["no action"]', True),
        DeviceRule("other", "override", "org.matrix.msc1767", 0, "[]", "[]", True),
    ]
    scopes = format_for_client(stored, lambda rule, error: pytest.fail(f"{rule}: {error}"))
    shown = shown_as_global(
        setting.homeserver,
        UserID.from_string(USER),
        [*stored, *others],
        OwnSettings("PHONE", defaults),
        scopes.get("PHONE", {}),
    )
    assert json.dumps(shown) == json.dumps(_in_global(setting, written, defaults))


def test_a_device_reads_one_set_or_the_other() -> None:
    account = {"global": {"room": ["account"]}, "device": {"PHONE": {}}}
    rules = RulesByDevice(
        account, {"PHONE": lambda: {"room": [{"rule_id": "phone"}]}, "BROKEN": lambda: None}
    )
    assert rules == account
    assert for_device(rules, "PHONE") == {**account, "global": {"room": [{"rule_id": "phone"}]}}
    for other in ("BROKEN", "OTHER", None):
        assert for_device(rules, other) == account
    assert for_device(account, "PHONE") is account
    assert for_device(None, "PHONE") is None
