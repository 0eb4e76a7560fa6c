# SPDX-License-Identifier: AGPL-3.0-or-later
"""A device's own settings as they are stored, and as each device reads its user's rules."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from synapse_msc3881.cascade.own_settings import (
    DefaultChange,
    OwnSettings,
    complete_rows,
    in_place_of_stand_ins,
    read_own_settings,
    stand_ins,
    write_defaults,
)
from synapse_msc3881.cascade.rulesets import KINDS, BadRowError, DeviceRule
from synapse_msc3881.push_rules import RulesByDevice, for_device

_ACTIONS = st.none() | st.lists(st.sampled_from(["notify", "é"])).map(
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
