# SPDX-License-Identifier: AGPL-3.0-or-later
"""Reads and writes the push rules of device scopes (specification 3 and 6)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import attr
from synapse.module_api.errors import (
    Codes,
    InvalidRuleException,
    RuleNotFoundException,
    SynapseError,
)

from synapse_msc3881 import seams
from synapse_msc3881.cascade.rulesets import (
    KINDS,
    BadRowError,
    DeviceRule,
    by_scope,
    from_json,
    parse_actions,
    read_rule,
    to_json,
)
from synapse_msc3881.failures import Failures, Fallback

if TYPE_CHECKING:
    from synapse.module_api import LoggingTransaction, ModuleApi
    from synapse.server import HomeServer


logger = logging.getLogger(__name__)

_COLUMNS = "profile_tag, kind, rule_id, priority, conditions, actions, enabled"

#: How many users one statement asks for.
_BATCH = 500


@attr.s(auto_attribs=True, frozen=True, slots=True)
class RuleKey:
    """Which rule of a user is meant."""

    profile_tag: str
    kind: str
    rule_id: str

    @property
    def stream_name(self) -> str:
        """The rule's full name, for the row in Synapse's push rules stream."""
        return f"device/{self.profile_tag}/{self.kind}/{self.rule_id}"


@attr.s(auto_attribs=True, frozen=True, slots=True)
class _Copy:
    """What is written for a rule about a room that was upgraded."""

    rule: DeviceRule
    key: RuleKey
    conditions: str  # JSON
    actions: str  # JSON


#: Rules that are not copied at a room upgrade, each with the reason.
_NotCopied = list[tuple[DeviceRule, Exception]]


class DeviceRuleStore:
    """The table of device rules. Written only on the process that writes the push rules stream."""

    def __init__(
        self,
        hs: HomeServer,
        api: ModuleApi,
        device_scopes_per_user: int,
        invalidate_txn: Callable[[LoggingTransaction, str], None],
        failures: Failures,
    ) -> None:
        """
        Args:
            hs: the homeserver.
            api: runs the statements.
            device_scopes_per_user: how many scopes a user may have.
            invalidate_txn: tells all processes, with the transaction, that a user's rules changed.
            failures: where bad rows are reported.
        """
        self._api = api
        self._stream = seams.PushRulesStream(hs, api)
        self._limits = seams.push_rule_limits(hs)
        self._scope_limit = device_scopes_per_user
        self._invalidate_txn = invalidate_txn
        self._failures = failures
        # One change of a user at a time, so that parallel requests cannot exceed the limits.
        self._queue = seams.make_linearizer(hs, "msc3881_device_rules")

    async def for_user(self, user_id: str) -> list[DeviceRule]:
        """All device rules of a user, in no particular order."""
        return (await self.for_users([user_id]))[user_id]

    async def for_users(self, user_ids: Collection[str]) -> dict[str, list[DeviceRule]]:
        """The device rules of each of the users, in no particular order.

        A row that is no rule is left out, and reported. The JSON in the others may still be bad.
        """
        rules, bad = await self._api.run_db_interaction(
            "msc3881_get_device_rules", _read_txn, user_ids
        )
        for user_id, error in bad:
            self._failures.report(Fallback.READ_RULES, user_id, error, str(error))
        return rules

    async def put(
        self,
        user_id: str,
        key: RuleKey,
        conditions: list[object],
        actions: list[object],
        *,
        before: str | None = None,
        after: str | None = None,
    ) -> None:
        """Write a rule. It comes first in its kind, or where `before` or `after` say.

        Args:
            user_id: whose rule.
            key: which rule; it may exist, and then keeps its `enabled`.
            conditions: as the client sent them.
            actions: as the client sent them.
            before: the id of the rule of the same scope and kind that this one is to precede.
            after: the id of the rule that it is to follow; not looked at with `before`.

        Raises:
            SynapseError: the rule would exceed a limit.
            InvalidRuleException: Synapse cannot parse the rule.
            RuleNotFoundException: there is no rule `before` or `after`.
        """
        stored = self._checked(key, conditions, actions)

        def write_txn(txn: LoggingTransaction) -> None:
            self._check_room_for(key, _existing_txn(txn, user_id))
            priority = _make_place_txn(txn, user_id, key, before, after)
            _put_txn(txn, user_id, key, priority, *stored)

        await self._change(user_id, key, "ADD", write_txn)

    async def delete(self, user_id: str, key: RuleKey) -> None:
        """Delete a rule; raises RuleNotFoundException where there is none."""

        def delete_txn(txn: LoggingTransaction) -> None:
            txn.execute(
                "DELETE FROM synapse_msc3881_device_rules WHERE " + _IS_RULE, _args(user_id, key)
            )
            _require_one(txn)

        await self._change(user_id, key, "DELETE", delete_txn)

    async def set_enabled(self, user_id: str, key: RuleKey, enabled: bool) -> None:
        """Turn a rule on or off; raises RuleNotFoundException where there is none."""

        def set_enabled_txn(txn: LoggingTransaction) -> None:
            txn.execute(
                "UPDATE synapse_msc3881_device_rules SET enabled = ? WHERE " + _IS_RULE,
                (int(enabled), *_args(user_id, key)),
            )
            _require_one(txn)

        await self._change(user_id, key, "ENABLE" if enabled else "DISABLE", set_enabled_txn)

    async def set_actions(self, user_id: str, key: RuleKey, actions: list[object]) -> None:
        """Change a rule's actions.

        Raises:
            SynapseError: the rule would exceed the limit on its size.
            InvalidRuleException: Synapse cannot parse the actions.
            RuleNotFoundException: there is no such rule.
        """
        raw = _encode(actions)
        _, normal = normalise(key.kind, [], actions)

        def set_actions_txn(txn: LoggingTransaction) -> None:
            txn.execute(
                "SELECT conditions FROM synapse_msc3881_device_rules WHERE " + _IS_RULE,
                _args(user_id, key),
            )
            row = txn.fetchone()
            if row is None:
                raise RuleNotFoundException("Push rule does not exist")
            self._check_size(row[0], raw)
            txn.execute(
                "UPDATE synapse_msc3881_device_rules SET actions = ? WHERE " + _IS_RULE,
                (normal, *_args(user_id, key)),
            )

        await self._change(user_id, key, "ACTIONS", set_actions_txn)

    async def copy_room_rules(self, user_id: str, old_room_id: str, new_room_id: str) -> None:
        """Copy a user's enabled rules about a room to its successor, as Synapse does for `global`.

        That is from the first to the last of each kind, the copy always in front: of rules that
        get the same id the last is left. What would exceed a limit or cannot be read is left out:
        nothing here may fail a room upgrade. All of it is one change, however many rules there are.
        """

        def find_txn(txn: LoggingTransaction) -> tuple[list[_Copy], _NotCopied]:
            # Here, and not on the reactor's thread, since there may be thousands.
            rules, _ = _read_txn(txn, [user_id])
            return self._find_copies(rules[user_id], old_room_id, new_room_id)

        def copy_txn(txn: LoggingTransaction) -> _NotCopied:
            not_copied = self._put_copies_txn(txn, user_id, copies)
            self._invalidate_txn(txn, user_id)
            return not_copied

        async with self._queue.queue(user_id):
            copies, not_copied = await self._api.run_db_interaction("msc3881_find_copies", find_txn)
            if copies:
                name = copies[-1].key.stream_name
                not_copied += await self._stream.change(user_id, name, "ADD", copy_txn)
        self._report_not_copied(user_id, new_room_id, not_copied)

    def _find_copies(
        self, rules: list[DeviceRule], old_room_id: str, new_room_id: str
    ) -> tuple[list[_Copy], _NotCopied]:
        """The copies that are left in the end, one of a kind in each scope, and what is not."""
        copies: dict[RuleKey, _Copy] = {}
        not_copied: _NotCopied = []
        mention = to_json(old_room_id)
        for of_scope in by_scope(rules).values():
            for rule in reversed(of_scope):
                key = RuleKey(rule.profile_tag, rule.kind, new_room_id)
                if key in copies or not rule.enabled or mention not in rule.conditions:
                    continue
                try:
                    copy = self._copy_of(rule, key, old_room_id)
                except (ValueError, TypeError, SynapseError, InvalidRuleException) as error:
                    not_copied.append((rule, error))
                else:
                    if copy is not None:
                        copies[key] = copy
        return list(copies.values()), not_copied

    def _copy_of(self, rule: DeviceRule, key: RuleKey, old_room_id: str) -> _Copy | None:
        conditions = from_json(rule.conditions)
        if not isinstance(conditions, list):
            raise TypeError("the conditions of a rule are no list")
        if not any(_is_about(condition, old_room_id) for condition in conditions):
            return None
        copied = [
            {**condition, "pattern": key.rule_id} if _is_room_condition(condition) else condition
            for condition in conditions
        ]
        return _Copy(rule, key, *self._checked(key, copied, parse_actions(rule.actions)))

    def _put_copies_txn(
        self, txn: LoggingTransaction, user_id: str, copies: Sequence[_Copy]
    ) -> _NotCopied:
        existing = _existing_txn(txn, user_id)
        not_copied: _NotCopied = []
        for copy in copies:
            try:
                self._check_room_for(copy.key, existing)
            except SynapseError as error:
                not_copied.append((copy.rule, error))
            else:
                existing.add(copy.key)
                priority = _make_place_txn(txn, user_id, copy.key, None, None)
                _put_txn(txn, user_id, copy.key, priority, copy.conditions, copy.actions)
        return not_copied

    def _report_not_copied(
        self, user_id: str, new_room_id: str, not_copied: Sequence[tuple[DeviceRule, Exception]]
    ) -> None:
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
                self._failures.report(Fallback.COPY, user_id, error, rule.where)

    async def delete_all(self, user_id: str) -> None:
        """Delete all device rules of a user, who is gone: nobody needs to hear of it by sync."""

        def delete_all_txn(txn: LoggingTransaction) -> None:
            txn.execute("DELETE FROM synapse_msc3881_device_rules WHERE user_id = ?", (user_id,))
            self._invalidate_txn(txn, user_id)

        async with self._queue.queue(user_id):
            await self._api.run_db_interaction("msc3881_delete_device_rules", delete_all_txn)

    async def _change(
        self, user_id: str, key: RuleKey, op: str, write: Callable[[LoggingTransaction], None]
    ) -> None:
        def change_txn(txn: LoggingTransaction) -> None:
            write(txn)
            self._invalidate_txn(txn, user_id)

        async with self._queue.queue(user_id):
            await self._stream.change(user_id, key.stream_name, op, change_txn)

    def _checked(
        self, key: RuleKey, conditions: list[object], actions: list[object]
    ) -> tuple[str, str]:
        """A rule's conditions and actions as they are stored, or what is wrong with them."""
        self._check_id_length(key)
        self._check_size(_encode(conditions), _encode(actions))
        return normalise(key.kind, conditions, actions)

    def _check_id_length(self, key: RuleKey) -> None:
        # As long as the same rule's name in `global`: the profile tag does not count.
        length = len(f"global/{key.kind}/{key.rule_id}".encode())
        if length > self._limits.rule_id_length:
            raise SynapseError(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
                f"The push rule's id is too long: {length} bytes with its kind, the limit is "
                f"{self._limits.rule_id_length}",
                Codes.UNKNOWN,
            )

    def _check_size(self, conditions: str, actions: str) -> None:
        size = len(conditions) + len(actions)
        if size > self._limits.rule_size:
            raise SynapseError(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
                f"The push rule is too large: {size} bytes of conditions and actions, the limit "
                f"is {self._limits.rule_size}",
                Codes.UNKNOWN,
            )

    def _check_room_for(self, key: RuleKey, existing: Collection[RuleKey]) -> None:
        if key in existing:
            return
        if len(existing) >= self._limits.rule_count:
            raise SynapseError(
                HTTPStatus.BAD_REQUEST,
                f"Too many device push rules: the limit is {self._limits.rule_count}",
                Codes.UNKNOWN,
            )
        scopes = {rule.profile_tag for rule in existing}
        if key.profile_tag not in scopes and len(scopes) >= self._scope_limit:
            raise SynapseError(
                HTTPStatus.BAD_REQUEST,
                f"Too many device scopes: the limit is {self._scope_limit}",
                Codes.UNKNOWN,
            )


_IS_RULE = "user_id = ? AND profile_tag = ? AND kind = ? AND rule_id = ?"


def _args(user_id: str, key: RuleKey) -> tuple[str, str, str, str]:
    return user_id, key.profile_tag, key.kind, key.rule_id


def _existing_txn(txn: LoggingTransaction, user_id: str) -> set[RuleKey]:
    txn.execute(
        "SELECT profile_tag, kind, rule_id FROM synapse_msc3881_device_rules WHERE user_id = ?",
        (user_id,),
    )
    return {RuleKey(*row) for row in txn}


def _put_txn(
    txn: LoggingTransaction,
    user_id: str,
    key: RuleKey,
    priority: int,
    conditions: str,
    actions: str,
) -> None:
    txn.execute(
        """
        INSERT INTO synapse_msc3881_device_rules
            (user_id, profile_tag, kind, rule_id, priority, conditions, actions)
        VALUES (?, ?, ?, ?, ?, ?, ?)
        ON CONFLICT (user_id, profile_tag, kind, rule_id) DO UPDATE SET
            priority = EXCLUDED.priority,
            conditions = EXCLUDED.conditions,
            actions = EXCLUDED.actions,
            enabled = CASE WHEN synapse_msc3881_device_rules.enabled = 0 THEN 0 ELSE 1 END
        """,
        (user_id, key.profile_tag, key.kind, key.rule_id, priority, conditions, actions),
    )


def _require_one(txn: LoggingTransaction) -> None:
    if txn.rowcount == 0:
        raise RuleNotFoundException("Push rule does not exist")


def _read_txn(
    txn: LoggingTransaction, user_ids: Collection[str]
) -> tuple[dict[str, list[DeviceRule]], list[tuple[str, BadRowError]]]:
    """The rules of each user; and what rows of which user are none."""
    rules: dict[str, list[DeviceRule]] = {user_id: [] for user_id in user_ids}
    bad: list[tuple[str, BadRowError]] = []
    remaining = list(rules)
    while remaining:
        batch, remaining = remaining[:_BATCH], remaining[_BATCH:]
        marks = ", ".join("?" * len(batch))
        txn.execute(
            f"SELECT user_id, {_COLUMNS} FROM synapse_msc3881_device_rules"
            f" WHERE user_id IN ({marks})",
            batch,
        )
        for user_id, *row in txn:
            try:
                rules[user_id].append(read_rule(row))
            except BadRowError as error:
                bad.append((user_id, error))
    return rules, bad


def _make_place_txn(
    txn: LoggingTransaction, user_id: str, key: RuleKey, before: str | None, after: str | None
) -> int:
    """Find the priority for a rule, moving those above it up where it goes between two."""
    neighbour = before or after
    if not neighbour:
        txn.execute(
            "SELECT MAX(CAST(priority AS INTEGER)) FROM synapse_msc3881_device_rules"
            " WHERE user_id = ? AND profile_tag = ? AND kind = ?",
            (user_id, key.profile_tag, key.kind),
        )
        (highest,) = txn.fetchone() or (None,)
        return 0 if highest is None else highest + 1

    txn.execute(
        "SELECT CAST(priority AS INTEGER) FROM synapse_msc3881_device_rules WHERE " + _IS_RULE,
        (user_id, key.profile_tag, key.kind, neighbour),
    )
    row = txn.fetchone()
    if row is None:
        raise RuleNotFoundException(f"before/after rule not found: {neighbour}")
    # The higher priority comes first; the neighbour that the rule follows moves up with the rest.
    priority: int = row[0] + 1 if before else row[0]
    txn.execute(
        "UPDATE synapse_msc3881_device_rules SET priority = priority + 1"
        " WHERE user_id = ? AND profile_tag = ? AND kind = ? AND priority >= ?",
        (user_id, key.profile_tag, key.kind, priority),
    )
    return priority


def normalise(kind: str, conditions: Sequence[Any], actions: Sequence[Any]) -> tuple[str, str]:
    """A rule's conditions and actions in JSON, as Synapse shows them once it has parsed them.

    Raises:
        InvalidRuleException: Synapse cannot parse the rule.
    """
    normal = seams.normalise_rule(
        "rule", KINDS.get(kind, KINDS["override"]), _encode(conditions), _encode(actions)
    )
    return _encode(normal[0]), _encode(normal[1])


def _encode(value: object) -> str:
    try:
        return to_json(value)
    except ValueError as error:
        raise InvalidRuleException(f"The rule is not valid JSON: {error}") from error


def _is_room_condition(condition: object) -> bool:
    return isinstance(condition, dict) and condition.get("key") == "room_id"


def _is_about(condition: object, room_id: str) -> bool:
    return (
        isinstance(condition, dict)
        and _is_room_condition(condition)
        and condition.get("pattern") == room_id
    )
