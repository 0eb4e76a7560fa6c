# SPDX-License-Identifier: AGPL-3.0-or-later
"""Switches a device's own settings on and off (specification 9)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING

from synapse.module_api.errors import (
    Codes,
    InvalidRuleException,
    SynapseError,
)

from synapse_msc3881 import seams
from synapse_msc3881.cascade.own_settings import (
    DefaultChange,
    read_own_settings,
    write_defaults,
)
from synapse_msc3881.cascade.rulesets import BadRowError
from synapse_msc3881.failures import Failures, Fallback
from synapse_msc3881.storage.device_rules import DeviceRuleStore
from synapse_msc3881.storage.global_rules import (
    CopiedTexts,
    GlobalRule,
    changed_defaults,
    copies_of,
    read_global_txn,
)
from synapse_msc3881.storage.rule_statements import (
    RuleKey,
    existing_txn,
    own_devices_txn,
)

if TYPE_CHECKING:
    from synapse.module_api import LoggingTransaction, ModuleApi
    from synapse.server import HomeServer


#: Synapse's own deletion of a user's devices.
DeleteDevices = Callable[[str, Collection[str]], Awaitable[None]]

# Every supported Synapse deletes so many in one transaction.
_DELETED_AT_ONCE = 100


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
        self._exclusive_lock = seams.update_lock(hs)
        self._see_what_commits = seams.read_committed(hs)
        self._scope_removed_txn = scope_removed_txn
        self._failures = failures

    async def is_on(self, user_id: str, device_id: str) -> bool:
        """Whether a device has its own settings; raises NotFoundError for an unknown device."""

        def is_on_txn(txn: LoggingTransaction) -> bool:
            # Without the lock, which PostgreSQL would write to disk at each look.
            self._require_device_txn(txn, user_id, device_id, lock="")
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
        texts = await self._copied_texts(user_id) if on else CopiedTexts()

        def switch_txn(txn: LoggingTransaction) -> list[tuple[GlobalRule, InvalidRuleException]]:
            self.rules.own_changed_txn(txn, user_id)
            self._require_device_txn(txn, user_id, device_id)
            if on:
                return self._copy_global_txn(txn, user_id, device_id, texts)
            _remove_copy_txn(txn, user_id, device_id)
            return []

        bad = await self.rules.change(user_id, name, "ADD" if on else "DELETE", switch_txn)
        for rule, error in bad:
            row = f"the rule {rule.kind!r}, {rule.rule_id!r} of `global`"
            self._failures.report(Fallback.COPY_GLOBAL, user_id, error, row)

    async def delete_devices(
        self, native: DeleteDevices, user_id: str, device_ids: Collection[str]
    ) -> None:
        """Delete devices as Synapse does, and in the same transaction the scopes of some.

        Of those that have their own settings. So whoever logs in later with the id of one of them
        finds nothing of it, even if the process dies meanwhile.
        """
        remaining = list(device_ids)
        while remaining:
            some, remaining = remaining[:_DELETED_AT_ONCE], remaining[_DELETED_AT_ONCE:]
            # The lock waits for what is just being written to the scope, which must go too; and
            # for switching off, after which the scope stays.
            delete = seams.Joined(
                partial(self._forget_txn, user_id=user_id, device_ids=some),
                first=self._see_what_commits,
            )
            await delete.call(native, user_id, some)
            if not delete.ran:
                await self.forget_devices(user_id, some)

    async def forget_devices(self, user_id: str, device_ids: Collection[str]) -> None:
        """Remove the scopes of those devices that have their own settings, after a logout.

        A user without such a device costs the process that writes push rules nothing, and any other
        a statement, since it may not yet have heard who has one.
        """
        if self._writes and user_id not in self.rules.own_users:
            return

        def forget_txn(txn: LoggingTransaction) -> None:
            if self._see_what_commits:
                txn.execute(self._see_what_commits)
            self._forget_txn(txn, user_id, device_ids)

        await self._api.run_db_interaction("msc3881_forget_own", forget_txn)

    def _forget_txn(
        self, txn: LoggingTransaction, user_id: str, device_ids: Collection[str]
    ) -> None:
        found = own_devices_txn(txn, user_id, self._exclusive_lock).intersection(device_ids)
        for device_id in found:
            for delete in (_DELETE_OWN, _DELETE_KEPT, _DELETE_RULES):
                txn.execute(delete, (user_id, device_id))
        if found:
            self.rules.invalidate_txn(txn, user_id)
            self.rules.own_changed_txn(txn, user_id)
            self._scope_removed_txn(txn, user_id)

    async def tell_of_removed(self, user_id: str) -> None:
        """Wake up a user's syncs after a scope was removed on another process."""
        await self.rules.change(user_id, "device", "DELETE", lambda _txn: None)

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

    def _require_device_txn(
        self, txn: LoggingTransaction, user_id: str, device_id: str, lock: str | None = None
    ) -> None:
        if not self._has_device_txn(txn, user_id, device_id, lock):
            raise seams.NotFoundError("Unknown device")

    def _has_device_txn(
        self, txn: LoggingTransaction, user_id: str, device_id: str, lock: str | None = None
    ) -> bool:
        # The lock makes a logout of the device wait; it then finds what was written.
        txn.execute(
            "SELECT 1 FROM devices WHERE user_id = ? AND device_id = ? AND hidden = ?"
            + (self._lock if lock is None else lock),
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

    async def _copied_texts(self, user_id: str) -> CopiedTexts:
        """What is copied of the user's rules in `global`, as far as they stay as they are now."""
        rules, _ = await self._api.run_db_interaction(
            "msc3881_read_global", read_global_txn, user_id
        )
        texts = CopiedTexts()
        await texts.prepare(rules, lambda: self._api.sleep(0))
        return texts

    def _copy_global_txn(
        self, txn: LoggingTransaction, user_id: str, device_id: str, texts: CopiedTexts
    ) -> list[tuple[GlobalRule, InvalidRuleException]]:
        existing = existing_txn(txn, user_id)
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
        copies, bad = copies_of(device_id, missing, in_scope, enabled, texts)
        defaults = changed_defaults(global_rules, enabled, bad)
        _insert_copy_txn(txn, user_id, device_id, copies, keep=in_scope, defaults=defaults)
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


def _logged_out() -> SynapseError:
    return SynapseError(HTTPStatus.UNAUTHORIZED, "The device was logged out", Codes.UNKNOWN_TOKEN)


# --- Statements ---

_DELETE_OWN = "DELETE FROM synapse_msc3881_own_settings WHERE user_id = ? AND device_id = ?"
_DELETE_KEPT = "DELETE FROM synapse_msc3881_kept_rules WHERE user_id = ? AND profile_tag = ?"
_DELETE_RULES = "DELETE FROM synapse_msc3881_device_rules WHERE user_id = ? AND profile_tag = ?"


def _insert_copy_txn(
    txn: LoggingTransaction,
    user_id: str,
    device_id: str,
    copies: Sequence[tuple[object, ...]],
    *,
    keep: Iterable[RuleKey],
    defaults: Mapping[str, DefaultChange],
) -> None:
    """Give the device its own settings: the copied rules, and which others of the scope stay."""
    txn.execute_batch(
        """
        INSERT INTO synapse_msc3881_device_rules (user_id, profile_tag, kind, rule_id,
            priority, conditions, actions, enabled)
        VALUES (?, ?, ?, ?, ?, ?, ?, ?)
        """,
        [(user_id, *row) for row in copies],
    )
    txn.execute_batch(
        """
        INSERT INTO synapse_msc3881_kept_rules (user_id, profile_tag, kind, rule_id)
        VALUES (?, ?, ?, ?)
        """,
        [(user_id, key.profile_tag, key.kind, key.rule_id) for key in keep],
    )
    txn.execute(
        """
        INSERT INTO synapse_msc3881_own_settings (user_id, device_id, default_rules)
        VALUES (?, ?, ?)
        """,
        (user_id, device_id, write_defaults(defaults)),
    )


def _remove_copy_txn(txn: LoggingTransaction, user_id: str, device_id: str) -> None:
    """Remove the device's own settings, and all rules of the scope except those that stay."""
    txn.execute(_DELETE_OWN, (user_id, device_id))  # First, as everybody locks it first.
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
