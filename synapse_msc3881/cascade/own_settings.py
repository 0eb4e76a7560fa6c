# SPDX-License-Identifier: AGPL-3.0-or-later
"""A device's own settings as they are stored: a complete ruleset (specification 9)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import attr

from synapse_msc3881.cascade.rulesets import (
    KINDS,
    BadRowError,
    DeviceRule,
    Ruleset,
    by_priority,
    from_json,
    to_json,
)

# Synapse stores the changed actions of a server-default rule as a rule of this class.
_CHANGED_DEFAULT = -1


@attr.s(auto_attribs=True, frozen=True, slots=True)
class DefaultChange:
    """The changes to a server-default rule.

    Attributes:
        actions: its actions in JSON; None if they are the server's.
        enabled: whether it is on; None if the server's default applies.
    """

    actions: str | None = None
    enabled: bool | None = None


@attr.s(auto_attribs=True, frozen=True, slots=True)
class OwnSettings:
    """The own settings of a device that has them.

    Attributes:
        device_id: the device, and the profile tag of its scope.
        defaults: the changes to server-default rules, by the rule's name in the scope, such as
            ``override/.m.rule.master``.
    """

    device_id: str
    defaults: Mapping[str, DefaultChange]


def read_own_settings(device_id: object, default_rules: object) -> OwnSettings:
    """A device's own settings, from the columns of their row.

    Raises:
        BadRowError: a value is not of its column's type, or not the expected JSON.
    """
    where = f"the own settings of the device {device_id!r}"
    if not isinstance(device_id, str) or not isinstance(default_rules, str):
        raise BadRowError(where)
    try:
        stored = from_json(default_rules)
    except ValueError:
        raise BadRowError(where) from None
    if not isinstance(stored, dict):
        raise BadRowError(where)
    return OwnSettings(
        device_id, {name: _read_change(where, change) for name, change in stored.items()}
    )


def _read_change(where: str, stored: object) -> DefaultChange:
    if not isinstance(stored, dict):
        raise BadRowError(where)
    actions, enabled = stored.get("actions"), stored.get("enabled")
    if not isinstance(actions, list | None) or not isinstance(enabled, bool | None):
        raise BadRowError(where)
    return DefaultChange(None if actions is None else to_json(actions), enabled)


def write_defaults(defaults: Mapping[str, DefaultChange]) -> str:
    """The changes to server-default rules as JSON, which `read_own_settings` reads."""
    stored: dict[str, dict[str, object]] = {}
    for name, change in defaults.items():
        stored[name] = {}
        if change.actions is not None:
            stored[name]["actions"] = from_json(change.actions)
        if change.enabled is not None:
            stored[name]["enabled"] = change.enabled
    return to_json(stored)


def complete_rows(
    rules: Iterable[DeviceRule], own: OwnSettings
) -> tuple[list[tuple[str, int, str, str]], dict[str, bool]]:
    """A device's complete ruleset in the form in which Synapse stores a user's `global` rules.

    Args:
        rules: the user's device rules, in any scope.
        own: the device's own settings.

    Returns:
        For each rule its full name in `global`, priority class, conditions and actions in JSON,
        in the order of evaluation; and whether rules are on, by full name.
    """
    of_device = by_priority(rule for rule in rules if rule.profile_tag == own.device_id)
    rows = [
        (f"global/{rule.name}", KINDS[rule.kind], rule.conditions, rule.actions)
        for rule in of_device
    ]
    enabled = {f"global/{rule.name}": rule.enabled for rule in of_device}
    for name, change in own.defaults.items():
        if change.actions is not None:
            rows.append((f"global/{name}", _CHANGED_DEFAULT, "[]", change.actions))
        if change.enabled is not None:
            enabled[f"global/{name}"] = change.enabled
    return rows, enabled


def stand_ins(device_id: str) -> list[DeviceRule]:
    """A rule of each kind, which takes the place of all that a device has of that kind."""
    conditions = '[{"kind":"event_match","key":"room_id","pattern":"!stand-in"}]'
    return [DeviceRule(device_id, kind, "stand-in", 0, conditions, "[]", True) for kind in KINDS]


def in_place_of_stand_ins(complete: Ruleset, users: Ruleset) -> Ruleset:
    """A complete ruleset as clients read it.

    Args:
        complete: the same, with `stand_ins` for the rules that are not server-default ones.
        users: these rules.
    """
    return {
        kind: [
            each for rule in rules for each in ([rule] if rule["default"] else users.get(kind, ()))
        ]
        for kind, rules in complete.items()
    }


def is_shown_otherwise(rule: DeviceRule) -> bool:
    """Whether Synapse may show a rule in `global` other than as it is stored, or not at all."""
    # It leaves out, and does not evaluate, rules in whose ids it sees a proposal that is off.
    return (
        '_type"' in rule.conditions or '"_cache_key"' in rule.conditions or ".msc" in rule.rule_id
    )
