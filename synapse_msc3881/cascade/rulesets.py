# SPDX-License-Identifier: AGPL-3.0-or-later
"""The push rules of device scopes, as they are stored and as clients read them (MSC3837)."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import attr

#: The kinds of rules, by falling priority, with Synapse's number for each.
KINDS: Mapping[str, int] = {"override": 5, "content": 4, "room": 3, "sender": 2, "underride": 1}


#: Synapse's own parser goes no deeper into JSON, so no rule that the API accepted does.
MAX_DEPTH = 128

#: How much of a bad row's name the log shows.
_MAX_SHOWN = 200


class BadRowError(ValueError):
    """A row of ours with something the module never writes; the message says which row it is."""


@attr.s(auto_attribs=True, frozen=True, slots=True)
class DeviceRule:
    """A rule in a device scope, as stored."""

    profile_tag: str
    kind: str
    rule_id: str
    priority: int
    conditions: str  # JSON
    actions: str  # JSON
    enabled: bool

    @property
    def name(self) -> str:
        """The rule's name in its scope, such as ``room/!abc:example.org``."""
        return f"{self.kind}/{self.rule_id}"

    @property
    def where(self) -> str:
        """The rule's row, for the log."""
        return _where(self.profile_tag, self.kind, self.rule_id)


def read_rule(row: Sequence[Any]) -> DeviceRule:
    """A rule from the columns of its row, in the order of the attributes of `DeviceRule`.

    Its JSON is not parsed.

    Raises:
        BadRowError: a value does not have its column's type, or there is no such kind of rule.
    """
    tag, kind, rule_id, priority, conditions, actions, enabled = row
    # SQLite stores anything in any column.
    texts = type(tag) is type(rule_id) is type(conditions) is type(actions) is str
    if not texts or type(priority) is not int or type(enabled) is not int or kind not in KINDS:
        raise BadRowError(_where(tag, kind, rule_id))
    return DeviceRule(tag, kind, rule_id, priority, conditions, actions, bool(enabled))


def _where(tag: object, kind: object, rule_id: object) -> str:
    # As Python writes them, which keeps a line of the log one line.
    name = f"the rule {kind!r}, {rule_id!r} of the device scope {tag!r}"
    return name if len(name) <= _MAX_SHOWN else f"{name[:_MAX_SHOWN]}…"


def to_json(value: object) -> str:
    """JSON as Synapse writes it to its database: in ASCII, without spaces.

    Raises:
        ValueError: the value contains a number that JSON does not have (infinity).
    """
    return _ENCODER.encode(value)


# Created once: `json.dumps` would create one for each value.
_ENCODER = json.JSONEncoder(allow_nan=False, separators=(",", ":"))


def from_json(stored: str) -> Any:
    """Read JSON from a row of ours, which someone may have tampered with.

    Raises:
        ValueError: it is not JSON, or contains what could not be sent to any client or gateway: a
        number that JSON does not have, or half a character (Python alone would accept these);
        or it is nested deeper than `MAX_DEPTH`.
    """
    if not isinstance(stored, str):
        raise ValueError("it is no text")
    try:
        value = _DECODER.decode(stored)
    except RecursionError:
        raise ValueError("it is nested too deep") from None
    if stored.count("[") + stored.count("{") > MAX_DEPTH:
        _check_depth(value)
    if "\\ud" in stored.lower():
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    return value


def _check_depth(value: Any) -> None:
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [
            child
            for parent in level
            if isinstance(parent, (list, dict))
            for child in (parent.values() if isinstance(parent, dict) else parent)
        ]
        if not level:
            return
    raise ValueError("it is nested too deep")


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


# Created once: `json.loads` would create one for each rule.
_DECODER = json.JSONDecoder(parse_constant=_refuse)


def parse_actions(stored: str) -> list[Any]:
    """A rule's actions, from JSON.

    Raises:
        ValueError, TypeError: it is not a list.
    """
    actions = from_json(stored)
    if not isinstance(actions, list):
        raise TypeError("the actions of a rule are no list")
    return actions


def by_priority(rules: Iterable[DeviceRule]) -> list[DeviceRule]:
    """The rules of one scope, in the order in which they are evaluated."""
    return sorted(rules, key=lambda rule: (KINDS.get(rule.kind, 0), rule.priority), reverse=True)


def by_scope(rules: Iterable[DeviceRule]) -> dict[str, list[DeviceRule]]:
    """The rules of each device scope, in the order in which they are evaluated."""
    scopes: dict[str, list[DeviceRule]] = {}
    for rule in rules:
        scopes.setdefault(rule.profile_tag, []).append(rule)
    return {tag: by_priority(scopes[tag]) for tag in sorted(scopes)}


#: A ruleset as clients read it: for each kind its rules, in the form of the client-server API.
Ruleset = dict[str, list[dict[str, Any]]]


def format_for_client(
    rules: Iterable[DeviceRule], report_bad: Callable[[DeviceRule, Exception], None]
) -> dict[str, Ruleset]:
    """A user's device scopes, as clients read them (specification 3).

    Args:
        rules: the user's device rules.
        report_bad: called for a row that is not a rule, which is left out.

    Returns:
        The ruleset of each scope that has a rule.
    """
    scopes: dict[str, Ruleset] = {}
    for tag, scope_rules in by_scope(rules).items():
        ruleset: Ruleset = {kind: [] for kind in KINDS}
        for rule in scope_rules:
            try:
                ruleset[rule.kind].append(_format_rule(rule))
            except (ValueError, LookupError, TypeError) as error:
                report_bad(rule, error)
        scopes[tag] = ruleset
    return scopes


def _format_rule(rule: DeviceRule) -> dict[str, Any]:
    # In Synapse's order, so that a rule is the same to the last byte wherever it is shown.
    formatted: dict[str, Any] = {}
    conditions = from_json(rule.conditions)
    if rule.kind in ("override", "underride"):
        if not isinstance(conditions, list) or not all(isinstance(c, dict) for c in conditions):
            raise TypeError("the conditions of a rule are no list of objects")
        formatted["conditions"] = conditions
    formatted["actions"] = parse_actions(rule.actions)
    if rule.kind == "content":
        formatted["pattern"] = conditions[0]["pattern"]
    formatted["rule_id"] = rule.rule_id
    formatted["default"] = False
    formatted["enabled"] = rule.enabled
    return formatted
