# SPDX-License-Identifier: AGPL-3.0-or-later
"""Device rules as clients see them, and as they are stored."""

import attr
import pytest
from hypothesis import given

from synapse_msc3881.cascade.rulesets import KINDS, DeviceRule, by_scope, format_for_client, to_json
from tests.unit.test_matching import ROOMS, device_rules, rule


@given(device_rules())
def test_clients_see_every_rule_of_a_scope_in_the_order_of_evaluation(
    rules: list[DeviceRule],
) -> None:
    problems: list[Exception] = []
    shown = format_for_client(rules, problems.append)
    assert not problems
    if not rules:
        assert shown == {}
        return
    assert set(shown) == {"phone"}
    assert list(shown["phone"]) == [*KINDS]
    flat = [(kind, rule["rule_id"]) for kind, rules in shown["phone"].items() for rule in rules]
    assert flat == [(rule.kind, rule.rule_id) for rule in by_scope(rules)["phone"]]
    for kind, of_kind in shown["phone"].items():
        more = {"override": {"conditions"}, "underride": {"conditions"}, "content": {"pattern"}}
        for entry in of_kind:
            keys = {"rule_id", "default", "enabled", "actions"}
            assert set(entry) == keys | more.get(kind, set())


def test_a_broken_row_is_left_out_of_what_clients_see() -> None:
    rows = [
        rule("room", ROOMS[0], ["notify"]),
        attr.evolve(rule("room", ROOMS[1], []), actions="no JSON"),
        attr.evolve(rule("content", "a", []), conditions="[]"),
        attr.evolve(rule("content", "b", []), conditions="[1]"),
        attr.evolve(rule("underride", "c", []), kind="unknown"),
    ]
    problems: list[Exception] = []
    shown = format_for_client(rows, problems.append)["phone"]
    assert [entry["rule_id"] for rules in shown.values() for entry in rules] == [ROOMS[0]]
    assert len(problems) == 4


def test_json_is_what_both_databases_can_store() -> None:
    assert to_json([{"a": "ß\u0000"}]) == '[{"a":"\\u00df\\u0000"}]'
    with pytest.raises(ValueError, match="compliant"):
        to_json(float("inf"))
