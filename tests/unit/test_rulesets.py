# SPDX-License-Identifier: AGPL-3.0-or-later
"""Device rules as clients see them, and as they are stored."""

from typing import Any

import attr
import pytest
from hypothesis import given

from synapse_msc3881.cascade.rulesets import (
    KINDS,
    MAX_DEPTH,
    BadRowError,
    DeviceRule,
    by_scope,
    format_for_client,
    from_json,
    read_rule,
    to_json,
)
from tests.harness.occasions import ROOMS, device_rules, rule


@given(device_rules())
def test_clients_see_every_rule_of_a_scope_in_the_order_of_evaluation(
    rules: list[DeviceRule],
) -> None:
    problems: list[DeviceRule] = []
    shown = format_for_client(rules, lambda rule, _: problems.append(rule))
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
        attr.evolve(rule("underride", "d", []), conditions="{}"),
        attr.evolve(rule("underride", "e", []), conditions="[5]"),
        attr.evolve(rule("override", "f", []), conditions="[" * 5000 + "]" * 5000),
        attr.evolve(rule("override", "g", []), actions="[" * 200 + "]" * 200),
    ]
    problems: list[DeviceRule] = []
    shown = format_for_client(rows, lambda rule, _: problems.append(rule))["phone"]
    assert [entry["rule_id"] for rules in shown.values() for entry in rules] == [ROOMS[0]]
    assert {rule.rule_id for rule in problems} == {row.rule_id for row in rows[1:]}


ROW = ("phone", "override", "r", 0, "[]", "[]", 1)


def test_a_row_is_a_rule() -> None:
    assert read_rule(ROW) == DeviceRule("phone", "override", "r", 0, "[]", "[]", True)


@pytest.mark.parametrize("column", range(len(ROW)))
@pytest.mark.parametrize("value", [None, b"x", 0.5, "nonsense"])
def test_a_row_with_a_value_of_another_type_is_named(column: int, value: object) -> None:
    row: list[Any] = [*ROW]
    row[column] = value
    if value == "nonsense" and column in (0, 2, 4, 5):
        assert read_rule(row).profile_tag == row[0]  # JSON is for later.
        return
    with pytest.raises(BadRowError) as raised:
        read_rule(row)
    assert repr(row[2]) in str(raised.value)


def test_the_name_of_a_row_is_one_short_line() -> None:
    named = rule("override", "a\nb", []).where
    assert "\n" not in named
    assert "'a\\nb'" in named
    assert len(rule("override", "x" * 1000, []).where) < 300


@pytest.mark.parametrize("depth", [1, 50, MAX_DEPTH, MAX_DEPTH + 1, 990, 5000])
@pytest.mark.parametrize("pair", ["[]", "{}"])
def test_what_is_nested_too_deep_is_an_error(depth: int, pair: str) -> None:
    opening, closing = ("[", "]") if pair == "[]" else ('{"a":', "}")
    stored = opening * (depth - 1) + pair + closing * (depth - 1)
    if depth <= MAX_DEPTH:
        assert to_json(from_json(stored)) == stored
    else:
        with pytest.raises(ValueError, match="deep"):
            from_json(stored)


@pytest.mark.parametrize("stored", [None, 5, b"[]", "", "[NaN]", "[1e999x]", '"\\ud800"'])
def test_what_is_no_json_is_an_error(stored: Any) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - of whatever text
        from_json(stored)


def test_json_is_what_both_databases_can_store() -> None:
    assert to_json([{"a": "ß\u0000"}]) == '[{"a":"\\u00df\\u0000"}]'
    with pytest.raises(ValueError, match="compliant"):
        to_json(float("inf"))
