# SPDX-License-Identifier: AGPL-3.0-or-later
"""Ending the work of a pusher that was disabled or removed (specification 6).

Synapse lets a stopped pusher finish the work in progress. That is right for one that was replaced
(repeating a `set` creates a new object), which still delivers what it had begun, but wrong for one
that was disabled or removed. None of this gets in the way of a running pusher: what ends its work
is put in place when it is stopped.
"""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary, WeakSet

from synapse_msc3881 import seams


class Stopping:
    """Ends the work of the pushers of one process."""

    def __init__(self) -> None:
        # For each pusher that replaced another or was replaced: all with its name, which may still
        # be at work. Most pushers never are.
        self._generations: WeakKeyDictionary[seams.Pusher, WeakSet[seams.Pusher]] = (
            WeakKeyDictionary()
        )

    def replace(self, replaced: seams.Pusher, pusher: seams.Pusher) -> None:
        """A pusher replaces the running one with the same name."""
        generations = self._generations.setdefault(replaced, WeakSet([replaced]))
        generations.add(pusher)
        self._generations[pusher] = generations

    def end(self, pusher: seams.Pusher) -> None:
        """Have a pusher, and those that it replaced, push and write nothing from now on."""
        for each in self._generations.get(pusher, (pusher,)):
            _end_work(each)


def _end_work(pusher: seams.Pusher) -> None:
    pusher.store = StoppedStore(pusher.store)  # type: ignore[assignment]
    if isinstance(pusher, seams.HttpPusher):
        pusher.http_client = StoppedHttpClient(pusher.http_client)  # type: ignore[assignment]
    elif isinstance(pusher, seams.EmailPusher):
        pusher.send_notification = _send_nothing  # type: ignore[method-assign]


async def _send_nothing(*_: Any, **__: Any) -> None:
    pass


class StoppedStore:
    """Synapse's store, as seen by a pusher that was stopped for good."""

    def __init__(self, store: Any) -> None:
        self._store = store

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def get_unread_push_actions_for_user_in_range_for_http(
        self, *_: Any, **__: Any
    ) -> list[seams.HttpPushAction]:
        """Nothing to push."""
        return []

    async def get_unread_push_actions_for_user_in_range_for_email(
        self, *_: Any, **__: Any
    ) -> list[seams.EmailPushAction]:
        """Nothing to push."""
        return []

    async def update_pusher_last_stream_ordering_and_success(self, *_: Any, **__: Any) -> bool:
        """Write no position; False ends the pusher's work.

        A pusher that was enabled again has a new position, which the old work must not undo.
        """
        return False

    async def update_pusher_last_stream_ordering(self, *_: Any, **__: Any) -> None:
        """Write no position."""

    async def update_pusher_failing_since(self, *_: Any, **__: Any) -> None:
        """Do not write since when the pusher fails."""

    async def set_throttle_params(self, *_: Any, **__: Any) -> None:
        """Write no throttle of an e-mail pusher."""


class StoppedHttpClient:
    """Synapse's HTTP client, as seen by an http pusher that was stopped for good."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    async def post_json_get_json(self, *_: Any, **__: Any) -> Any:
        """Post nothing.

        The empty answer, which rejects no pushkey, lets the pusher finish: its next step is to
        write its position, and there its work ends.
        """
        return {}
