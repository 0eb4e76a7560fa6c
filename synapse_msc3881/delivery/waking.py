# SPDX-License-Identifier: AGPL-3.0-or-later
"""Whose pushers wake up when events were stored, or when a pusher starts (specification 5)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable

from synapse_msc3881.evaluation.device_scopes import DeviceScopes
from synapse_msc3881.storage.push_actions import PushActionStore


class Waking:
    """The module's part in waking up the pushers of one homeserver."""

    def __init__(self, scopes: DeviceScopes, push_actions: PushActionStore) -> None:
        """
        Args:
            scopes: knows whose pushers have profile tags.
            push_actions: what was decided for users.
        """
        self._scopes = scopes
        self._push_actions = push_actions

    async def users_to_wake(
        self,
        native: Callable[[int, int], Awaitable[Iterable[str]]],
        min_stream_ordering: int,
        max_stream_ordering: int,
    ) -> Iterable[str]:
        """Wrap the question whose pushers to wake up."""
        if not self._scopes.users:
            return await native(min_stream_ordering, max_stream_ordering)
        return await self._push_actions.users_to_wake(min_stream_ordering, max_stream_ordering)

    async def may_have_push(
        self, native: Callable[[str, int], Awaitable[bool]], user_id: str, min_stream_ordering: int
    ) -> bool:
        """Wrap the question whether a starting pusher may have something to push."""
        if user_id not in self._scopes.users:
            return await native(user_id, min_stream_ordering)
        return await self._push_actions.has_any(user_id, min_stream_ordering)
