# SPDX-License-Identifier: AGPL-3.0-or-later
"""A user's push rules where Synapse shows them, with the device scopes (SEMANTICS 3)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from synapse_msc3881.rulesets import by_scope, format_for_client

if TYPE_CHECKING:
    from synapse.types import UserID

    from synapse_msc3881.storage.device_rules import DeviceRuleStore


def with_device_scopes(
    native: Callable[[UserID], Awaitable[dict[str, Any]]], rules: DeviceRuleStore
) -> Callable[[UserID], Awaitable[dict[str, Any]]]:
    """Wrap what /sync, sliding sync, account data and ``GET /pushrules/`` show.

    The device scopes are read from the database, not from a cache: a sync that the push rules
    stream wakes up must see what woke it, also for a user's very first device rule.
    """

    async def push_rules_for_user(user: UserID) -> dict[str, Any]:
        shown = await native(user)
        scopes = by_scope(await rules.for_user(user.to_string()))
        if not scopes:
            return shown
        return {**shown, "device": {tag: format_for_client(scopes[tag]) for tag in scopes}}

    return push_rules_for_user


def copy_at_room_upgrade(
    native: Callable[[str, str, str], Awaitable[None]], rules: DeviceRuleStore
) -> Callable[[str, str, str], Awaitable[None]]:
    """Wrap the copying of a user's rules about a room to its successor (SEMANTICS 6)."""

    async def copy_push_rules_from_room_to_room_for_user(
        old_room_id: str, new_room_id: str, user_id: str
    ) -> None:
        await native(old_room_id, new_room_id, user_id)
        await rules.copy_room_rules(user_id, old_room_id, new_room_id)

    return copy_push_rules_from_room_to_room_for_user
