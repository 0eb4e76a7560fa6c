# SPDX-License-Identifier: AGPL-3.0-or-later
"""Writes a device's complete scope as Synapse's store writes `global` (specification 9).

The errors too are those that a client gets for `global`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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
from synapse_msc3881.cascade.own_settings import DefaultChange, write_defaults
from synapse_msc3881.cascade.rulesets import to_json
from synapse_msc3881.storage.own_settings import OwnSettingsStore
from synapse_msc3881.storage.rule_statements import (
    RuleKey,
    conditions_txn,
    delete_rule_txn,
    exists_txn,
    forget_kept_txn,
    make_place_txn,
    rules_by_scope_txn,
    set_enabled_txn,
    update_actions_txn,
    upsert_txn,
)
from synapse_msc3881.storage.rule_texts import check_tweaks, normalise, normalise_actions

if TYPE_CHECKING:
    from synapse.module_api import LoggingTransaction


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
            if neighbour := before or after:
                self._check_neighbour(txn, user_id, neighbour, defaults)
            if not exists_txn(txn, user_id, key):
                self._check_count(txn, user_id, defaults)
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
        raw, normal = normalise_actions(key.kind, actions, self._rules.limits.rule_size)
        _refuse_unsendable(actions)

        def set_actions_txn(txn: LoggingTransaction, defaults: dict[str, DefaultChange]) -> None:
            if is_default_rule:
                _check_size("[]", raw, self._rules.limits)
                change = defaults.get(_name(key), DefaultChange())
                if change.actions is None:
                    self._check_count(txn, user_id, defaults)
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
        self, txn: LoggingTransaction, user_id: str, defaults: Mapping[str, DefaultChange]
    ) -> None:
        count = sum(rules_by_scope_txn(txn, user_id).values()) + sum(
            change.actions is not None for change in defaults.values()
        )
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
        txn: LoggingTransaction,
        user_id: str,
        rule_id: str,
        defaults: Mapping[str, DefaultChange],
    ) -> None:
        key = self._key(rule_id)
        change = defaults.get(_name(key))
        if change is not None and change.actions is not None:
            raise RuleNotFoundException(
                "Given priority class does not match class of relative rule"
            )
        if not exists_txn(txn, user_id, key):
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
