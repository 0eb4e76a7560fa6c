# SPDX-License-Identifier: AGPL-3.0-or-later
"""What a pusher with profile tags sees of the database (specification 5).

Synapse's pushers reach the database through their `store` attribute. For a pusher with profile
tags, that is a `PusherStore`: it says what there is to push, by walking the tags over each stored
outcome.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from synapse_msc3881 import seams
from synapse_msc3881.delivery.backlog import Backlog


class PusherStore:
    """Synapse's store, as a pusher with profile tags sees it."""

    __slots__ = ("_note_position", "_pusher", "_store", "backlog")

    def __init__(
        self,
        store: Any,
        pusher: seams.Pusher,
        backlog: Backlog,
        note_position: Callable[[seams.Pusher, Backlog], None],
    ) -> None:
        """
        Args:
            store: Synapse's store.
            pusher: whose store this becomes.
            backlog: decides what to push.
            note_position: called if the pusher found nothing to push.
        """
        self._store = store
        self._pusher = pusher
        self._note_position = note_position
        self.backlog = backlog

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def get_unread_push_actions_for_user_in_range_for_http(
        self,
        user_id: str,  # noqa: ARG002 - always the pusher's
        min_stream_ordering: int,
        max_stream_ordering: int,
        limit: int = 20,
    ) -> list[seams.HttpPushAction]:
        """What an http pusher should push, oldest first."""
        waiting = await self.backlog.next(min_stream_ordering, max_stream_ordering, limit)
        if not waiting:
            self._note_position(self._pusher, self.backlog)
        return [
            seams.HttpPushAction(
                event_id=decided.row.event_id,
                room_id=decided.row.room_id,
                stream_ordering=decided.row.stream_ordering,
                actions=decided.actions,  # type: ignore[arg-type]
            )
            for decided in waiting
        ]

    async def get_unread_push_actions_for_user_in_range_for_email(
        self,
        user_id: str,  # noqa: ARG002 - always the pusher's
        min_stream_ordering: int,
        max_stream_ordering: int,
        limit: int = 20,
    ) -> list[seams.EmailPushAction]:
        """What an e-mail pusher should push, newest first."""
        waiting = await self.backlog.next(min_stream_ordering, max_stream_ordering, limit)
        waiting = sorted(waiting, key=lambda decided: decided.row.received_ts or 0, reverse=True)
        return [
            seams.EmailPushAction(
                event_id=decided.row.event_id,
                room_id=decided.row.room_id,
                stream_ordering=decided.row.stream_ordering,
                actions=decided.actions,  # type: ignore[arg-type]
                received_ts=decided.row.received_ts,
            )
            for decided in waiting
        ]

    async def update_pusher_last_stream_ordering_and_success(
        self,
        app_id: str,
        pushkey: str,
        user_id: str,
        last_stream_ordering: int,
        last_success: int,
    ) -> bool:
        """Record that everything up to here has been pushed."""
        if self.backlog.is_of_a_scope_alone(last_stream_ordering):
            # The count has not changed. Without this the next receipt would send no badge, and the
            # notification would stay on the phone.
            seams.forget_badge(self._pusher)
        still_exists: bool = await self._store.update_pusher_last_stream_ordering_and_success(
            app_id, pushkey, user_id, last_stream_ordering, last_success
        )
        return still_exists


def backlog_of(pusher: seams.Pusher) -> Backlog | None:
    """The backlog of a running pusher with profile tags; None for one without."""
    store: object = pusher.store
    return store.backlog if isinstance(store, PusherStore) else None
