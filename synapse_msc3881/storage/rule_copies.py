# SPDX-License-Identifier: AGPL-3.0-or-later
"""Copies of device rules about a room to its successor (specification 6)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import attr
from synapse.module_api.errors import InvalidRuleException, SynapseError

from synapse_msc3881.cascade.rulesets import (
    DeviceRule,
    by_scope,
    from_json,
    parse_actions,
    to_json,
)
from synapse_msc3881.failures import Failures, Fallback
from synapse_msc3881.storage.rule_statements import (
    RuleKey,
    exists_txn,
    keep_copy_txn,
    make_place_txn,
    rules_by_scope_txn,
    upsert_txn,
)

if TYPE_CHECKING:
    from synapse.module_api import LoggingTransaction

logger = logging.getLogger(__name__)

#: A rule's conditions and actions as they are stored; raises what is wrong with them.
Checked = Callable[[RuleKey, list[object], list[object]], tuple[str, str]]


@attr.s(auto_attribs=True, frozen=True, slots=True)
class Copy:
    """What is written for a rule about a room that was upgraded."""

    rule: DeviceRule
    key: RuleKey
    conditions: str  # JSON
    actions: str  # JSON


#: Rules that are not copied at a room upgrade, each with the reason.
NotCopied = list[tuple[DeviceRule, Exception]]


def find_copies(
    rules: list[DeviceRule], old_room_id: str, new_room_id: str, checked: Checked
) -> tuple[list[Copy], NotCopied]:
    """The copies that remain in the end, one per kind and scope, and the rules left out."""
    copies: dict[RuleKey, Copy] = {}
    not_copied: NotCopied = []
    mention = to_json(old_room_id)
    for of_scope in by_scope(rules).values():
        for rule in reversed(of_scope):
            key = RuleKey(rule.profile_tag, rule.kind, new_room_id)
            if key in copies or not rule.enabled or mention not in rule.conditions:
                continue
            try:
                copy = _copy_of(rule, key, old_room_id, checked)
            except (ValueError, TypeError, SynapseError, InvalidRuleException) as error:
                not_copied.append((rule, error))
            else:
                if copy is not None:
                    copies[key] = copy
    return list(copies.values()), not_copied


def _copy_of(rule: DeviceRule, key: RuleKey, old_room_id: str, checked: Checked) -> Copy | None:
    conditions = from_json(rule.conditions)
    if not isinstance(conditions, list):
        raise TypeError("the conditions of a rule are no list")
    if not any(_is_about(condition, old_room_id) for condition in conditions):
        return None
    copied = [
        {**condition, "pattern": key.rule_id} if _is_room_condition(condition) else condition
        for condition in conditions
    ]
    return Copy(rule, key, *checked(key, copied, parse_actions(rule.actions)))


def put_copies_txn(
    txn: LoggingTransaction,
    user_id: str,
    copies: Sequence[Copy],
    check_room_for: Callable[[RuleKey, Mapping[str, int]], None],
    *,
    has_own: bool,
) -> NotCopied:
    """Write the copies; returns the rules for whose copies there was no room.

    Args:
        txn: the transaction.
        user_id: whose rules.
        copies: what to write.
        check_room_for: raises SynapseError if another rule would exceed a limit.
        has_own: whether a device of the user may have its own settings.
    """
    by_scope = rules_by_scope_txn(txn, user_id)
    not_copied: NotCopied = []
    for copy in copies:
        if not exists_txn(txn, user_id, attr.evolve(copy.key, rule_id=copy.rule.rule_id)):
            continue  # The device with whose own settings it went has logged out.
        if not exists_txn(txn, user_id, copy.key):
            try:
                check_room_for(copy.key, by_scope)
            except SynapseError as error:
                not_copied.append((copy.rule, error))
                continue
            # It is no new scope, as the rule itself is in it.
            by_scope[copy.key.profile_tag] += 1
        priority = make_place_txn(txn, user_id, copy.key, None, None)
        upsert_txn(txn, user_id, copy.key, priority, copy.conditions, copy.actions)
        if has_own:
            keep_copy_txn(txn, user_id, copy.key, copy.rule.rule_id)
    return not_copied


def report_not_copied(
    failures: Failures, user_id: str, new_room_id: str, not_copied: NotCopied
) -> None:
    """Log what a limit kept from being copied, and report rules that are none."""
    refused = [error.msg for _, error in not_copied if isinstance(error, SynapseError)]
    if refused:
        logger.warning(
            "msc3881: %d device rules of %s were not copied to %s: %s",
            len(refused),
            user_id,
            new_room_id,
            refused[0],
        )
    for rule, error in not_copied:
        if not isinstance(error, SynapseError):
            failures.report(Fallback.COPY, user_id, error, rule.where)


def _is_room_condition(condition: object) -> bool:
    return isinstance(condition, dict) and condition.get("key") == "room_id"


def _is_about(condition: object, room_id: str) -> bool:
    return (
        isinstance(condition, dict)
        and _is_room_condition(condition)
        and condition.get("pattern") == room_id
    )
