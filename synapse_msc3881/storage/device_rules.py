# SPDX-License-Identifier: AGPL-3.0-or-later
"""Reads and writes the push rules of device scopes (specification 3 and 6)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator, Mapping
from http import HTTPStatus
from typing import TYPE_CHECKING, TypeVar

import attr
from synapse.module_api.errors import (
    Codes,
    SynapseError,
)

from synapse_msc3881 import seams
from synapse_msc3881.cascade.own_settings import OwnSettings, read_own_settings
from synapse_msc3881.cascade.rulesets import (
    BadRowError,
    DeviceRule,
    read_rule,
)
from synapse_msc3881.failures import Failures, Fallback
from synapse_msc3881.storage.rule_copies import (
    Copy,
    NotCopied,
    find_copies,
    put_copies_txn,
    report_not_copied,
)
from synapse_msc3881.storage.rule_statements import (
    DELETE_ALL,
    RuleKey,
    conditions_txn,
    delete_rule_txn,
    exists_txn,
    forget_kept_txn,
    keep_txn,
    make_place_txn,
    own_devices_txn,
    rules_by_scope_txn,
    set_enabled_txn,
    update_actions_txn,
    upsert_txn,
)
from synapse_msc3881.storage.rule_texts import encode, normalise, normalise_actions

if TYPE_CHECKING:
    from synapse.module_api import LoggingTransaction, ModuleApi
    from synapse.server import HomeServer


logger = logging.getLogger(__name__)

T = TypeVar("T")

_COLUMNS = "profile_tag, kind, rule_id, priority, conditions, actions, enabled"

#: How many users one statement asks for.
_BATCH = 400


@attr.s(auto_attribs=True, frozen=True, slots=True)
class StoredRules:
    """All that is stored of a user's rules in device scopes.

    Attributes:
        rules: the rules, in no particular order.
        own: the devices with settings of their own, by their ids.
    """

    rules: list[DeviceRule] = attr.Factory(list)
    own: dict[str, OwnSettings] = attr.Factory(dict)


class DeviceRuleStore:
    """The table of device rules. Written only on the process that writes the push rules stream."""

    def __init__(
        self,
        hs: HomeServer,
        api: ModuleApi,
        device_scopes_per_user: int,
        invalidate_txn: Callable[[LoggingTransaction, str], None],
        failures: Failures,
        own_users: set[str],
        own_changed_txn: Callable[[LoggingTransaction, str], None] = lambda _txn, _user_id: None,
    ) -> None:
        """
        Args:
            hs: the homeserver.
            api: runs the statements.
            device_scopes_per_user: how many scopes a user may have.
            invalidate_txn: tells all processes, with the transaction, that a user's rules changed.
            failures: where bad rows are reported.
            own_users: the users who have devices with settings of their own. On the process that
                writes push rules it has all of them, and perhaps some more.
            own_changed_txn: tells all processes, with the transaction, that own settings of a
                user's device were switched on or off.
        """
        self.own_users = own_users
        self.own_changed_txn = own_changed_txn
        self._api = api
        self._stream = seams.PushRulesStream(hs, api)
        self._lock = seams.key_share_lock(hs)
        self.limits = seams.push_rule_limits(hs)
        self.scope_limit = device_scopes_per_user
        self.invalidate_txn = invalidate_txn
        self._failures = failures
        # One change of a user at a time, so that parallel requests cannot exceed the limits.
        self._queue = seams.make_linearizer(hs, "msc3881_device_rules")

    async def for_user(self, user_id: str) -> list[DeviceRule]:
        """All device rules of a user, in no particular order."""
        return (await self.for_users([user_id]))[user_id]

    async def for_users(self, user_ids: Collection[str]) -> dict[str, list[DeviceRule]]:
        """The device rules of each of the users, in no particular order.

        A row that is not a rule is left out, and reported. The JSON in the others may still be bad.
        """
        return {user_id: stored.rules for user_id, stored in (await self.read(user_ids)).items()}

    async def read(self, user_ids: Collection[str]) -> dict[str, StoredRules]:
        """The device rules of each of the users, and which of their devices have own settings.

        In one statement, so that both describe the same moment. A bad row is left out, and
        reported; if it is that of a device's own settings, the server-default rules are as the
        server has them. The JSON in rules may still be bad.
        """
        stored, bad = await self._api.run_db_interaction(
            "msc3881_get_device_rules", _read_txn, user_ids
        )
        for user_id, error in bad:
            self._failures.report(Fallback.READ_RULES, user_id, error, str(error))
        return stored

    async def own_devices(self, user_ids: Collection[str]) -> dict[str, set[str]]:
        """The devices with settings of their own; users who have none are left out."""

        def own_devices_txn(txn: LoggingTransaction) -> dict[str, set[str]]:
            found: dict[str, set[str]] = {}
            for batch in _batches(user_ids):
                txn.execute(
                    "SELECT user_id, device_id FROM synapse_msc3881_own_settings"
                    f" WHERE user_id IN ({_marks(batch)})",
                    batch,
                )
                for user_id, device_id in txn:
                    found.setdefault(user_id, set()).add(device_id)
            return found

        return await self._api.run_db_interaction("msc3881_get_own_devices", own_devices_txn)

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
        """Write a rule. It comes first in its kind, or where `before` or `after` says.

        Args:
            user_id: whose rule.
            key: which rule; it may exist, and then keeps its `enabled`.
            conditions: as the client sent them.
            actions: as the client sent them.
            before: the ID of the rule, in the same scope and kind, that this one should precede.
            after: the ID of the rule that it should follow; ignored together with `before`.

        Raises:
            SynapseError: the rule would exceed a limit.
            InvalidRuleException: Synapse cannot parse the rule.
            RuleNotFoundException: there is no rule `before` or `after`.
        """
        stored = self._checked(key, conditions, actions)

        def write_txn(txn: LoggingTransaction) -> None:
            own = self._locked_own_txn(txn, user_id)
            if not exists_txn(txn, user_id, key):
                self._check_room_for(key, rules_by_scope_txn(txn, user_id), own)
            priority = make_place_txn(txn, user_id, key, before, after)
            upsert_txn(txn, user_id, key, priority, *stored)
            if key.profile_tag in own:
                keep_txn(txn, user_id, key)

        await self._change(user_id, key, "ADD", write_txn)

    async def delete(self, user_id: str, key: RuleKey) -> None:
        """Delete a rule; raises RuleNotFoundException if there is none."""

        def delete_txn(txn: LoggingTransaction) -> None:
            delete_rule_txn(txn, user_id, key)
            if user_id in self.own_users:
                forget_kept_txn(txn, user_id, key)

        await self._change(user_id, key, "DELETE", delete_txn)

    async def set_enabled(self, user_id: str, key: RuleKey, enabled: bool) -> None:
        """Turn a rule on or off; raises RuleNotFoundException if there is none."""

        def write_txn(txn: LoggingTransaction) -> None:
            set_enabled_txn(txn, user_id, key, enabled)

        await self._change(user_id, key, "ENABLE" if enabled else "DISABLE", write_txn)

    async def set_actions(self, user_id: str, key: RuleKey, actions: list[object]) -> None:
        """Change a rule's actions.

        Raises:
            SynapseError: the rule would exceed the limit on its size.
            InvalidRuleException: Synapse cannot parse the actions.
            RuleNotFoundException: there is no such rule.
        """
        raw, normal = normalise_actions(key.kind, actions, self.limits.rule_size)

        def set_actions_txn(txn: LoggingTransaction) -> None:
            self._check_size(conditions_txn(txn, user_id, key), raw)
            update_actions_txn(txn, user_id, key, normal)

        await self._change(user_id, key, "ACTIONS", set_actions_txn)

    async def copy_room_rules(self, user_id: str, old_room_id: str, new_room_id: str) -> None:
        """Copy a user's enabled rules about a room to its successor, as Synapse does for `global`.

        Rules are copied from the first to the last of each kind, each copy going in front: of rules
        that get the same ID, the last is left. Whatever would exceed a limit or cannot be read is
        left out: nothing here may fail a room upgrade. It is one change, however many rules there
        are.
        """

        def find_txn(txn: LoggingTransaction) -> tuple[list[Copy], NotCopied]:
            # Here and not on the reactor's thread, since there may be thousands.
            stored, _ = _read_txn(txn, [user_id])
            return find_copies(stored[user_id].rules, old_room_id, new_room_id, self._checked)

        def copy_txn(txn: LoggingTransaction) -> NotCopied:
            has_own = bool(self._locked_own_txn(txn, user_id))
            not_copied = put_copies_txn(txn, user_id, copies, self._check_room_for, has_own=has_own)
            self.invalidate_txn(txn, user_id)
            return not_copied

        async with self._queue.queue(user_id):
            copies, not_copied = await self._api.run_db_interaction("msc3881_find_copies", find_txn)
            if copies:
                name = copies[-1].key.stream_name
                not_copied += await self._stream.change(user_id, name, "ADD", copy_txn)
        report_not_copied(self._failures, user_id, new_room_id, not_copied)

    async def delete_all(self, user_id: str) -> None:
        """Delete all device rules of a user who is gone: no sync needs to hear of it."""

        def delete_all_txn(txn: LoggingTransaction) -> None:
            for delete in DELETE_ALL:
                txn.execute(delete, (user_id,))
            self.invalidate_txn(txn, user_id)

        async with self._queue.queue(user_id):
            await self._api.run_db_interaction("msc3881_delete_device_rules", delete_all_txn)

    async def _change(
        self, user_id: str, key: RuleKey, op: str, write: Callable[[LoggingTransaction], None]
    ) -> None:
        await self.change(user_id, key.stream_name, op, write)

    async def change(
        self, user_id: str, name: str, op: str, write: Callable[[LoggingTransaction], T]
    ) -> T:
        """Change a user's device scopes, one change at a time, and tell everyone concerned.

        Args:
            user_id: whose.
            name: what is changed, for the row in Synapse's push rules stream.
            op: what happens to it, in the stream's terms.
            write: makes the change. If it raises, nothing is changed.
        """

        def change_txn(txn: LoggingTransaction) -> T:
            result = write(txn)
            self.invalidate_txn(txn, user_id)
            return result

        async with self._queue.queue(user_id):
            return await self._stream.change(user_id, name, op, change_txn)

    def _locked_own_txn(self, txn: LoggingTransaction, user_id: str) -> set[str]:
        """The devices with settings of their own, whose logout waits for the transaction."""
        return own_devices_txn(txn, user_id, self._lock) if user_id in self.own_users else set()

    def _checked(
        self, key: RuleKey, conditions: list[object], actions: list[object]
    ) -> tuple[str, str]:
        """A rule's conditions and actions as they are stored, or what is wrong with them."""
        self._check_id_length(key)
        self._check_size(encode(conditions), encode(actions))
        return normalise(key.kind, conditions, actions)

    def _check_id_length(self, key: RuleKey) -> None:
        # As long as the same rule's name in `global`: the profile tag does not count.
        length = len(f"global/{key.kind}/{key.rule_id}".encode())
        if length > self.limits.rule_id_length:
            raise SynapseError(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
                f"The push rule's id is too long: {length} bytes with its kind, the limit is "
                f"{self.limits.rule_id_length}",
                Codes.UNKNOWN,
            )

    def _check_size(self, conditions: str, actions: str) -> None:
        size = len(conditions) + len(actions)
        if size > self.limits.rule_size:
            raise SynapseError(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
                f"The push rule is too large: {size} bytes of conditions and actions, the limit "
                f"is {self.limits.rule_size}",
                Codes.UNKNOWN,
            )

    def _check_room_for(
        self, key: RuleKey, by_scope: Mapping[str, int], own: Collection[str] = ()
    ) -> None:
        """Raise SynapseError if a user may have no further rule, or not in this scope.

        Args:
            key: the rule.
            by_scope: how many rules each scope has.
            own: the devices with settings of their own.
        """
        if sum(by_scope.values()) >= self.limits.rule_count:
            raise SynapseError(
                HTTPStatus.BAD_REQUEST,
                f"Too many device push rules: the limit is {self.limits.rule_count}",
                Codes.UNKNOWN,
            )
        self.check_scopes({*own, *by_scope}, key.profile_tag)

    def check_scopes(self, scopes: Collection[str], profile_tag: str) -> None:
        """Raise SynapseError if a user with these scopes may not have another one."""
        if profile_tag not in scopes and len(scopes) >= self.scope_limit:
            raise SynapseError(
                HTTPStatus.BAD_REQUEST,
                f"Too many device scopes: the limit is {self.scope_limit}",
                Codes.UNKNOWN,
            )


def _batches(user_ids: Collection[str]) -> Iterator[list[str]]:
    remaining = list(dict.fromkeys(user_ids))
    while remaining:
        yield remaining[:_BATCH]
        remaining = remaining[_BATCH:]


def _marks(values: Collection[str]) -> str:
    return ", ".join("?" * len(values))


def _read_txn(
    txn: LoggingTransaction, user_ids: Collection[str]
) -> tuple[dict[str, StoredRules], list[tuple[str, BadRowError]]]:
    """The rules of each user; and what rows of which user are none."""
    stored = {user_id: StoredRules() for user_id in user_ids}
    bad: list[tuple[str, BadRowError]] = []
    for batch in _batches(user_ids):
        marks = _marks(batch)
        txn.execute(
            f"""
            SELECT user_id, {_COLUMNS} FROM synapse_msc3881_device_rules
            WHERE user_id IN ({marks})
            UNION ALL
            SELECT user_id, device_id, NULL, '', 0, default_rules, '', 0
            FROM synapse_msc3881_own_settings WHERE user_id IN ({marks})
            """,
            batch * 2,
        )
        for user_id, *row in txn:
            is_rule = row[1] is not None  # The kind, which a device's own settings have not.
            try:
                if is_rule:
                    stored[user_id].rules.append(read_rule(row))
                else:
                    stored[user_id].own[row[0]] = read_own_settings(row[0], row[4])
            except BadRowError as error:
                bad.append((user_id, error))
                if not is_rule:
                    stored[user_id].own[row[0]] = OwnSettings(row[0], {})
    return stored, bad
