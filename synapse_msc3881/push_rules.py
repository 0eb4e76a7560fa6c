# SPDX-License-Identifier: AGPL-3.0-or-later
"""A user's push rules as Synapse shows them, with the device scopes (specification 3)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from synapse_msc3881.cascade.rulesets import Ruleset, format_for_client
from synapse_msc3881.failures import Failures, Fallback

if TYPE_CHECKING:
    from synapse.module_api import UserID

    from synapse_msc3881.cascade.rulesets import DeviceRule
    from synapse_msc3881.storage.device_rules import DeviceRuleStore


class DevicePushRules:
    """The module's part in the push rules of one homeserver."""

    def __init__(self, rules: DeviceRuleStore, failures: Failures) -> None:
        self.rules = rules
        self._failures = failures

    async def shown(self, user_id: str) -> dict[str, Ruleset]:
        """A user's device scopes as clients see them.

        They are read from the database, not from a cache: a sync that the push rules stream wakes
        must see what woke it, even for a user's very first device rule.
        """

        def report_bad(rule: DeviceRule, error: Exception) -> None:
            self._failures.report(Fallback.READ_RULES, user_id, error, rule.where)

        return format_for_client(await self.rules.for_user(user_id), report_bad)

    async def push_rules_for_user(
        self, native: Callable[[UserID], Awaitable[dict[str, Any]]], user: UserID
    ) -> dict[str, Any]:
        """Wrap what /sync, sliding sync, account data and ``GET /pushrules/`` show."""
        rules = await native(user)
        scopes = await self.shown(user.to_string())
        return {**rules, "device": scopes} if scopes else rules

    async def copy_at_room_upgrade(
        self,
        native: Callable[[str, str, str], Awaitable[None]],
        old_room_id: str,
        new_room_id: str,
        user_id: str,
    ) -> None:
        """Wrap the copying of a user's rules about a room to its successor (specification 6)."""
        await native(old_room_id, new_room_id, user_id)
        try:
            await self.rules.copy_room_rules(user_id, old_room_id, new_room_id)
        except Exception as error:  # noqa: BLE001 - nothing of ours may fail an upgrade
            self._failures.report(Fallback.COPY, user_id, error)
