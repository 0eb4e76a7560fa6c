# SPDX-License-Identifier: AGPL-3.0-or-later
"""A user's rules in `global`, read to be copied into a device's own settings (specification 9)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import attr
from synapse.module_api.errors import InvalidRuleException

from synapse_msc3881.cascade.own_settings import DefaultChange
from synapse_msc3881.cascade.rulesets import KINDS, from_json
from synapse_msc3881.storage.rule_statements import RuleKey
from synapse_msc3881.storage.rule_texts import check_tweaks, normalise

if TYPE_CHECKING:
    from synapse.module_api import LoggingTransaction

#: After so many rules others get their turn: these take about a millisecond.
_SLICE = 50


@attr.s(auto_attribs=True, frozen=True, slots=True)
class GlobalRule:
    """A row of a user's rules in `global`."""

    kind: str
    rule_id: str
    priority_class: int
    priority: int
    conditions: str  # JSON
    actions: str  # JSON


def read_global_txn(
    txn: LoggingTransaction, user_id: str
) -> tuple[list[GlobalRule], dict[str, bool]]:
    """A user's rows of `global`, first to last of each kind; and which rules are on or off."""
    txn.execute(
        "SELECT rule_id, priority_class, priority, conditions, actions FROM push_rules"
        " WHERE user_name = ?",
        (user_id,),
    )
    rules = [GlobalRule(*_split(name), *row) for name, *row in txn if _is_global(name)]
    rules.sort(key=lambda rule: (-rule.priority_class, -rule.priority))
    txn.execute("SELECT rule_id, enabled FROM push_rules_enable WHERE user_name = ?", (user_id,))
    enabled = {name.partition("/")[2]: bool(on) for name, on in txn if _is_global(name)}
    return rules, enabled


def _is_global(name: str) -> bool:
    return name.startswith("global/") and name.count("/") > 1


def _split(name: str) -> tuple[str, str]:
    _global, kind, rule_id = name.split("/", 2)
    return kind, rule_id


class CopiedTexts:
    """Conditions and actions of rules in `global` as a device scope stores them.

    Putting thousands of rules into this form takes time, so this can be done before the transaction
    that writes them, which on SQLite makes all others wait.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[str, int, str, str], tuple[str, str] | InvalidRuleException] = {}

    async def prepare(
        self, rules: Sequence[GlobalRule], pause: Callable[[], Awaitable[None]]
    ) -> None:
        """Find them out for rules that may be copied, with a pause after every few."""
        for start in range(0, len(rules), _SLICE):
            for rule in rules[start : start + _SLICE]:
                self._find(rule)
            await pause()

    def of(self, rule: GlobalRule) -> tuple[str, str]:
        """A rule's conditions and actions; raises InvalidRuleException if it cannot be copied."""
        found = self._find(rule)
        if isinstance(found, InvalidRuleException):
            raise found
        return found

    def _find(self, rule: GlobalRule) -> tuple[str, str] | InvalidRuleException:
        # By all that it depends on: the rule may have been changed in the meantime.
        key = rule.kind, rule.priority_class, rule.conditions, rule.actions
        found = self._known.get(key)
        if found is None:
            found = self._known[key] = _copied_text(rule)
        return found


def _copied_text(rule: GlobalRule) -> tuple[str, str] | InvalidRuleException:
    try:
        if KINDS.get(rule.kind) != rule.priority_class:
            raise ValueError("its kind and its priority class disagree")
        conditions, actions = normalise(
            rule.kind, from_json(rule.conditions), from_json(rule.actions)
        )
        check_tweaks(from_json(actions))
    except (InvalidRuleException, ValueError) as error:
        return InvalidRuleException(str(error))
    return conditions, actions


def copies_of(
    device_id: str,
    rules: Sequence[GlobalRule],
    in_scope: Mapping[RuleKey, int],
    enabled: Mapping[str, bool],
    texts: CopiedTexts,
) -> tuple[list[tuple[object, ...]], list[tuple[GlobalRule, InvalidRuleException]]]:
    """The rows of the copies, below the rules that are in the scope; and which were no rules."""
    rows: list[tuple[object, ...]] = []
    bad: list[tuple[GlobalRule, InvalidRuleException]] = []
    lowest = dict.fromkeys(KINDS, 0)
    for key, priority in in_scope.items():
        if key.kind in lowest:
            lowest[key.kind] = min(lowest[key.kind], priority)
    for rule in rules:
        try:
            conditions, actions = texts.of(rule)
        except InvalidRuleException as error:
            bad.append((rule, error))
            continue
        lowest[rule.kind] -= 1
        on = enabled.get(f"{rule.kind}/{rule.rule_id}", True)
        name = device_id, rule.kind, rule.rule_id
        rows.append((*name, lowest[rule.kind], conditions, actions, int(on)))
    return rows, bad


def changed_defaults(
    rules: Sequence[GlobalRule],
    enabled: Mapping[str, bool],
    bad: list[tuple[GlobalRule, InvalidRuleException]],
) -> dict[str, DefaultChange]:
    """What a user changed of the server-default rules."""
    changed = {
        name: DefaultChange(enabled=on)
        for name, on in enabled.items()
        if name.partition("/")[2].startswith(".")
    }
    for rule in rules:
        if not rule.rule_id.startswith("."):
            continue
        name = f"{rule.kind}/{rule.rule_id}"
        try:
            _, actions = normalise(rule.kind, [], from_json(rule.actions))
        except (InvalidRuleException, ValueError) as error:
            bad.append((rule, InvalidRuleException(str(error))))
            continue
        changed[name] = attr.evolve(changed.get(name, DefaultChange()), actions=actions)
    return changed
