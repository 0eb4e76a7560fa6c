# SPDX-License-Identifier: AGPL-3.0-or-later
"""Switches a device's own settings on and off, and writes them (specification 9).

Complete scopes are written as Synapse's store writes `global`, with the same errors.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
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
from synapse_msc3881.cascade.own_settings import (
    DefaultChange,
    read_own_settings,
    write_defaults,
)
from synapse_msc3881.cascade.rulesets import BadRowError, to_json
from synapse_msc3881.failures import Failures, Fallback
from synapse_msc3881.storage.device_rules import DeviceRuleStore
from synapse_msc3881.storage.global_rules import (
    GlobalRule,
    changed_defaults,
    copies_of,
    read_global_txn,
)
from synapse_msc3881.storage.rule_statements import (
    RuleKey,
    conditions_txn,
    delete_rule_txn,
    forget_kept_txn,
    make_place_txn,
    own_devices_txn,
    set_enabled_txn,
    update_actions_txn,
    upsert_txn,
)
from synapse_msc3881.storage.rule_texts import check_tweaks, normalise

if TYPE_CHECKING:
    from synapse.module_api import LoggingTransaction, ModuleApi
    from synapse.server import HomeServer

logger = logging.getLogger(__name__)


class OwnSettingsStore:
    """Devices' own settings, switched and written on the process that writes push rules."""

    def __init__(
        self,
        hs: HomeServer,
        api: ModuleApi,
        rules: DeviceRuleStore,
        scope_removed_txn: Callable[[LoggingTransaction, str], None],
        failures: Failures,
    ) -> None:
        """
        Args:
            hs: the homeserver.
            api: runs the statements.
            rules: the device rules.
            scope_removed_txn: tells the process that writes push rules, as part of the
                transaction, that a user has lost a scope.
            failures: where rules that cannot be copied are reported.
        """
        self.rules = rules
        self._api = api
        self._writes = seams.writes_push_rules(hs)
        self._lock = seams.key_share_lock(hs)
        self._see_what_commits = seams.read_committed(hs)
        self._scope_removed_txn = scope_removed_txn
        self._failures = failures

    async def is_on(self, user_id: str, device_id: str) -> bool:
        """Whether a device has its own settings; raises NotFoundError for an unknown device."""

        def is_on_txn(txn: LoggingTransaction) -> bool:
            self._require_device_txn(txn, user_id, device_id)
            return device_id in own_devices_txn(txn, user_id)

        return await self._api.run_db_interaction("msc3881_get_own", is_on_txn)

    async def switch(self, user_id: str, device_id: str, on: bool) -> None:
        """Give a device its own settings, or take them away; does nothing if that is so already.

        Called for one of a user's requests at a time, like everything that writes their `global`.

        Raises:
            NotFoundError: the user has no such device.
            SynapseError: the copy of `global` would exceed a limit.
        """
        if await self.is_on(user_id, device_id) == on:
            return
        self.rules.own_users.add(user_id)
        name = f"device/{device_id}"

        def switch_txn(txn: LoggingTransaction) -> list[tuple[GlobalRule, InvalidRuleException]]:
            self.rules.own_changed_txn(txn, user_id)
            if on:
                self._require_device_txn(txn, user_id, device_id)
                return self._copy_global_txn(txn, user_id, device_id)
            _remove_copy_txn(txn, user_id, device_id)
            return []

        bad = await self.rules.change(user_id, name, "ADD" if on else "DELETE", switch_txn)
        for rule, error in bad:
            row = f"the rule {rule.kind!r}, {rule.rule_id!r} of `global`"
            self._failures.report(Fallback.COPY_GLOBAL, user_id, error, row)

    async def forget_devices(self, user_id: str, device_ids: Collection[str]) -> None:
        """Remove the scopes of those devices that have their own settings, after a logout.

        On any process. A user without such a device costs the process that writes push rules
        nothing, and any other a statement, since it may not yet have heard who has one.
        """
        if self._writes and user_id not in self.rules.own_users:
            return

        def forget_txn(txn: LoggingTransaction) -> None:
            if self._see_what_commits:
                # Deleting the row waits for what the device is just writing, which must go too.
                txn.execute(self._see_what_commits)
            found = own_devices_txn(txn, user_id).intersection(device_ids)
            for device_id in found:
                for delete in (_DELETE_OWN, _DELETE_KEPT, _DELETE_RULES):
                    txn.execute(delete, (user_id, device_id))
            if found:
                self.rules.invalidate_txn(txn, user_id)
                self.rules.own_changed_txn(txn, user_id)
                self._scope_removed_txn(txn, user_id)

        await self._api.run_db_interaction("msc3881_forget_own", forget_txn)

    async def tell_of_removed(self, user_id: str) -> None:
        """Wake up a user's syncs after a scope was removed on another process."""
        await self.rules.change(user_id, "device", "DELETE", lambda _txn: None)

    def scope_of(self, device_id: str) -> OwnScope:
        """A device's own settings, to be written like `global`."""
        return OwnScope(self, device_id)

    async def has_own(self, user_id: str, device_id: str | None) -> bool:
        """Whether `global` means the device's own scope when it writes.

        Raises:
            SynapseError: the device was logged out after its token was checked. If it had its own
                settings, what it writes must not end up in the account's.
        """
        if device_id is None or user_id not in self.rules.own_users:
            return False

        def has_own_txn(txn: LoggingTransaction) -> bool:
            if device_id in own_devices_txn(txn, user_id):
                return True
            if not self._has_device_txn(txn, user_id, device_id):
                raise _logged_out()
            return False

        return await self._api.run_db_interaction("msc3881_has_own", has_own_txn)

    def _require_device_txn(self, txn: LoggingTransaction, user_id: str, device_id: str) -> None:
        if not self._has_device_txn(txn, user_id, device_id):
            raise seams.NotFoundError("Unknown device")

    def _has_device_txn(self, txn: LoggingTransaction, user_id: str, device_id: str) -> bool:
        # The lock makes a logout of the device wait; it then finds what was written.
        txn.execute(
            "SELECT 1 FROM devices WHERE user_id = ? AND device_id = ? AND hidden = ?" + self._lock,
            (user_id, device_id, False),
        )
        return txn.fetchone() is not None

    def require_own_txn(
        self, txn: LoggingTransaction, user_id: str, device_id: str
    ) -> dict[str, DefaultChange]:
        """The changes to the server-default rules; a logout waits for the transaction.

        Raises:
            SynapseError: the device was logged out meanwhile.
        """
        txn.execute(
            "SELECT default_rules FROM synapse_msc3881_own_settings"
            " WHERE user_id = ? AND device_id = ?" + self._lock,
            (user_id, device_id),
        )
        row = txn.fetchone()
        if row is None:
            raise _logged_out()
        try:
            return dict(read_own_settings(device_id, row[0]).defaults)
        except BadRowError:
            return {}  # Just as when it is read.

    def _copy_global_txn(
        self, txn: LoggingTransaction, user_id: str, device_id: str
    ) -> list[tuple[GlobalRule, InvalidRuleException]]:
        existing = _existing_txn(txn, user_id)
        scopes = {key.profile_tag for key in existing} | own_devices_txn(txn, user_id)
        self.rules.check_scopes(scopes, device_id)
        in_scope = {
            key: priority for key, priority in existing.items() if key.profile_tag == device_id
        }
        global_rules, enabled = read_global_txn(txn, user_id)
        users = [rule for rule in global_rules if not rule.rule_id.startswith(".")]
        missing = [
            rule for rule in users if RuleKey(device_id, rule.kind, rule.rule_id) not in in_scope
        ]
        self._check_room(len(existing), missing)
        rows, bad = copies_of(device_id, missing, in_scope, enabled)
        txn.execute_batch(
            """
            INSERT INTO synapse_msc3881_device_rules (user_id, profile_tag, kind, rule_id,
                priority, conditions, actions, enabled)
            VALUES (?, ?, ?, ?, ?, ?, ?, ?)
            """,
            [(user_id, *row) for row in rows],
        )
        txn.execute_batch(
            """
            INSERT INTO synapse_msc3881_kept_rules (user_id, profile_tag, kind, rule_id)
            VALUES (?, ?, ?, ?)
            """,
            [(user_id, key.profile_tag, key.kind, key.rule_id) for key in in_scope],
        )
        txn.execute(
            """
            INSERT INTO synapse_msc3881_own_settings (user_id, device_id, default_rules)
            VALUES (?, ?, ?)
            """,
            (user_id, device_id, write_defaults(changed_defaults(global_rules, enabled, bad))),
        )
        return bad

    def _check_room(self, existing: int, copied: Sequence[GlobalRule]) -> None:
        limits = self.rules.limits
        size = sum(len(rule.conditions) + len(rule.actions) for rule in copied)
        for what, would_be, limit in (
            ("device push rules", existing + len(copied), limits.rule_count),
            ("bytes of rules", size, limits.rule_count * limits.rule_size),
        ):
            if would_be > limit:
                raise SynapseError(
                    HTTPStatus.BAD_REQUEST,
                    f"The device cannot have settings of its own: with a copy of the {len(copied)} "
                    f"rules in `global` there would be {would_be} {what}, and the limit is {limit}",
                    Codes.UNKNOWN,
                )


class OwnScope:
    """One device's complete scope, in place of the store that holds `global`.

    Synapse's own servlet calls this just as it calls the store, and so answers as for `global`.
    """

    def __init__(self, store: OwnSettingsStore, device_id: str) -> None:
        self._store = store
        self._rules = store.rules
        self._device_id = device_id

    async def add_push_rule(
        self,
        user_id: str,
        rule_id: str,
        priority_class: int,  # noqa: ARG002 - that of its kind
        conditions: Sequence[Any],
        actions: Sequence[Any],
        before: str | None = None,
        after: str | None = None,
    ) -> None:
        """Write a rule: first in its kind, or where `before` or `after` puts it."""
        key = self._key(rule_id)
        limits = self._rules.limits
        if (length := len(rule_id.encode())) > limits.rule_id_length:
            raise _too_large("Push rule ID length", length, limits.rule_id_length)
        _check_size(to_json(conditions), to_json(actions), limits)
        stored = normalise(key.kind, conditions, actions)
        _refuse_unsendable(actions)

        def add_txn(txn: LoggingTransaction, defaults: dict[str, DefaultChange]) -> None:
            existing = _existing_txn(txn, user_id)
            if neighbour := before or after:
                self._check_neighbour(neighbour, existing, defaults)
            if key not in existing:
                self._check_count(existing, defaults)
            priority = make_place_txn(
                txn,
                user_id,
                key,
                before and self._key(before).rule_id,
                after and self._key(after).rule_id,
            )
            upsert_txn(txn, user_id, key, priority, *stored)

        await self._change(user_id, key, "ADD", add_txn)

    async def delete_push_rule(self, user_id: str, rule_id: str) -> None:
        """Delete a rule; or the changes to a server-default rule, if they include its actions."""
        key = self._key(rule_id)

        def delete_txn(txn: LoggingTransaction, defaults: dict[str, DefaultChange]) -> None:
            if key.rule_id.startswith("."):
                change = defaults.pop(_name(key), None)
                if change is None or change.actions is None:
                    raise seams.NotFoundError
                self._write_defaults_txn(txn, user_id, defaults)
                return
            try:
                delete_rule_txn(txn, user_id, key)
            except RuleNotFoundException:
                raise seams.NotFoundError from None
            forget_kept_txn(txn, user_id, key)

        await self._change(user_id, key, "DELETE", delete_txn)

    async def set_push_rule_enabled(
        self, user_id: str, rule_id: str, enabled: bool, is_default_rule: bool
    ) -> None:
        """Turn a rule on or off."""
        key = self._key(rule_id)

        def enable_txn(txn: LoggingTransaction, defaults: dict[str, DefaultChange]) -> None:
            if is_default_rule:
                change = defaults.get(_name(key), DefaultChange())
                defaults[_name(key)] = attr.evolve(change, enabled=enabled)
                self._write_defaults_txn(txn, user_id, defaults)
            else:
                set_enabled_txn(txn, user_id, key, enabled)

        await self._change(user_id, key, "ENABLE" if enabled else "DISABLE", enable_txn)

    async def set_push_rule_actions(
        self, user_id: str, rule_id: str, actions: list[Any], is_default_rule: bool
    ) -> None:
        """Change a rule's actions."""
        key = self._key(rule_id)
        raw = to_json(actions)
        _, normal = normalise(key.kind, [], actions)
        _refuse_unsendable(actions)

        def set_actions_txn(txn: LoggingTransaction, defaults: dict[str, DefaultChange]) -> None:
            if is_default_rule:
                _check_size("[]", raw, self._rules.limits)
                change = defaults.get(_name(key), DefaultChange())
                if change.actions is None:
                    self._check_count(_existing_txn(txn, user_id), defaults)
                # As in `global`, changing a default rule's actions switches it on, unless it has
                # been switched on or off before.
                on = True if change.enabled is None else change.enabled
                defaults[_name(key)] = DefaultChange(normal, on)
                self._write_defaults_txn(txn, user_id, defaults)
            else:
                _check_size(conditions_txn(txn, user_id, key), raw, self._rules.limits)
                update_actions_txn(txn, user_id, key, normal)

        await self._change(user_id, key, "ACTIONS", set_actions_txn)

    async def _change(
        self,
        user_id: str,
        key: RuleKey,
        op: str,
        write: Callable[[LoggingTransaction, dict[str, DefaultChange]], None],
    ) -> None:
        def change_txn(txn: LoggingTransaction) -> None:
            write(txn, self._store.require_own_txn(txn, user_id, self._device_id))

        await self._rules.change(user_id, key.stream_name, op, change_txn)

    def _write_defaults_txn(
        self, txn: LoggingTransaction, user_id: str, defaults: Mapping[str, DefaultChange]
    ) -> None:
        txn.execute(
            "UPDATE synapse_msc3881_own_settings SET default_rules = ?"
            " WHERE user_id = ? AND device_id = ?",
            (write_defaults(defaults), user_id, self._device_id),
        )

    def _check_count(
        self, existing: Collection[RuleKey], defaults: Mapping[str, DefaultChange]
    ) -> None:
        count = len(existing) + sum(change.actions is not None for change in defaults.values())
        limit = self._rules.limits.rule_count
        if count >= limit:
            raise SynapseError(
                HTTPStatus.BAD_REQUEST,
                "Creating a push rule would exceed the limit on the number of push rules "
                f"associated with your account ({count + 1} rules > {limit} rules)",
                Codes.UNKNOWN,
            )

    def _check_neighbour(
        self,
        rule_id: str,
        existing: Collection[RuleKey],
        defaults: Mapping[str, DefaultChange],
    ) -> None:
        key = self._key(rule_id)
        change = defaults.get(_name(key))
        if change is not None and change.actions is not None:
            raise RuleNotFoundException(
                "Given priority class does not match class of relative rule"
            )
        if key not in existing:
            raise RuleNotFoundException(f"before/after rule not found: {rule_id}")

    def _key(self, rule_id: str) -> RuleKey:
        if "\0" in rule_id:
            raise SynapseError(
                HTTPStatus.BAD_REQUEST,
                "A rule's id must not hold a null character",
                Codes.INVALID_PARAM,
            )
        _global, kind, name = rule_id.split("/", 2)
        return RuleKey(self._device_id, kind, name)


def _logged_out() -> SynapseError:
    return SynapseError(HTTPStatus.UNAUTHORIZED, "The device was logged out", Codes.UNKNOWN_TOKEN)


def _name(key: RuleKey) -> str:
    return f"{key.kind}/{key.rule_id}"


def _refuse_unsendable(actions: Sequence[Any]) -> None:
    try:
        check_tweaks(actions)
    except InvalidRuleException as error:
        raise SynapseError(HTTPStatus.BAD_REQUEST, str(error)) from error


def _check_size(conditions: str, actions: str, limits: seams.PushRuleLimits) -> None:
    size = len(conditions) + len(actions)
    if size > limits.rule_size:
        raise _too_large("Push rule size", size, limits.rule_size)


def _too_large(what: str, size: int, limit: int) -> SynapseError:
    return SynapseError(
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        f"{what} exceeds server limit ({size} bytes > {limit} bytes).",
        Codes.UNKNOWN,
    )


# --- Statements ---

_DELETE_OWN = "DELETE FROM synapse_msc3881_own_settings WHERE user_id = ? AND device_id = ?"
_DELETE_KEPT = "DELETE FROM synapse_msc3881_kept_rules WHERE user_id = ? AND profile_tag = ?"
_DELETE_RULES = "DELETE FROM synapse_msc3881_device_rules WHERE user_id = ? AND profile_tag = ?"


def _remove_copy_txn(txn: LoggingTransaction, user_id: str, device_id: str) -> None:
    """Remove the device's own settings, and all rules of the scope except those that stay."""
    txn.execute(
        """
        DELETE FROM synapse_msc3881_device_rules
        WHERE user_id = ? AND profile_tag = ? AND NOT EXISTS (
            SELECT 1 FROM synapse_msc3881_kept_rules AS k
            WHERE k.user_id = synapse_msc3881_device_rules.user_id
                AND k.profile_tag = synapse_msc3881_device_rules.profile_tag
                AND k.kind = synapse_msc3881_device_rules.kind
                AND k.rule_id = synapse_msc3881_device_rules.rule_id
        )
        """,
        (user_id, device_id),
    )
    txn.execute(_DELETE_KEPT, (user_id, device_id))
    txn.execute(_DELETE_OWN, (user_id, device_id))


def _existing_txn(txn: LoggingTransaction, user_id: str) -> dict[RuleKey, int]:
    """A user's device rules, with the priority of each."""
    txn.execute(
        "SELECT profile_tag, kind, rule_id, CAST(priority AS INTEGER)"
        " FROM synapse_msc3881_device_rules WHERE user_id = ?",
        (user_id,),
    )
    return {RuleKey(tag, kind, rule_id): priority for tag, kind, rule_id, priority in txn}
