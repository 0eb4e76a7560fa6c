# SPDX-License-Identifier: AGPL-3.0-or-later
"""What sets and removes pushers, one request at a time (specification 2 and 6)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import attr
from synapse.module_api.errors import Codes, SynapseError

from synapse_msc3881 import seams
from synapse_msc3881.delivery.stored_pushers import StoredPushers
from synapse_msc3881.storage.pusher_tags import PusherKey

if TYPE_CHECKING:
    from synapse.server import HomeServer

    from synapse_msc3881.metrics import Metrics


@attr.s(auto_attribs=True, frozen=True, slots=True)
class PusherChange:
    """What a request makes of a pusher, checked.

    Attributes:
        fields: what Synapse's `PusherPool.add_or_update_pusher` takes, except for what follows.
        enabled: whether it pushes.
        profile_tags: the scopes that it tries.
        append: whether other users keep their pushers with the same app and pushkey.
        undone: the fields that the request omits and whose stored value was not the default.
    """

    fields: Mapping[str, Any]
    enabled: bool
    profile_tags: tuple[str, ...]
    append: bool
    undone: tuple[str, ...] = ()


class Pushers:
    """Pushers, set and removed.

    On the main process, where pushers are written, everything that writes or removes one waits in
    the queue of its app and pushkey: what a request does depends on what is stored, for other
    users too, and Synapse stops a pusher before it deletes it, so that a `set` in between would
    leave one running that no longer exists. Nothing waits for a queue while it is in one.
    """

    def __init__(self, hs: HomeServer, stored: StoredPushers, metrics: Metrics) -> None:
        """
        Args:
            hs: the homeserver.
            stored: where pushers are written, with their tags.
            metrics: counts what requests undo by omission.
        """
        self._hs = hs
        self._stored = stored
        self._metrics = metrics
        self._pool = seams.PusherPool(hs)
        self._queue = seams.make_linearizer(hs, "msc3881_pusher")

    async def set(
        self,
        key: PusherKey,
        device_id: str | None,
        decide: Callable[[seams.PusherConfig | None], PusherChange],
    ) -> None:
        """Add or update a pusher with its tags, and remove other users' (specification 2).

        If anything is refused, nothing is stored and nobody's pusher is removed.

        Args:
            key: the pusher.
            device_id: the device of the request, which a new pusher then belongs to.
            decide: what the request makes of the stored pusher, which is None if there is none.
                Whatever it raises is passed on.

        Raises:
            SynapseError, PusherConfigException: Synapse refuses the pusher, or the device logged
                out in the meantime (401).
        """
        async with self._queue.queue((key.app_id, key.pushkey)):
            holders = await self._pool.read(key.app_id, key.pushkey)
            stored = next((held for held in holders if held.user_name == key.user_id), None)
            change = decide(stored)
            with self._stored.writing(key, stored, change.profile_tags):
                await self._pool.add_or_update(
                    user_id=key.user_id,
                    device_id=device_id,
                    enabled=change.enabled,
                    **change.fields,
                )
            await self._check_login(key, device_id, stored)
            is_own = stored is None or stored.device_id in (None, device_id)
            for field in change.undone:
                self._metrics.undone_by_omission(field)
            if is_own and not change.append:
                for held in holders:
                    if held.user_name != key.user_id:
                        await self._pool.remove(held.app_id, held.pushkey, held.user_name)

    async def _check_login(
        self, key: PusherKey, device_id: str | None, stored: seams.PusherConfig | None
    ) -> None:
        """Remove a pusher that has just been written while its device, or the user, was going.

        A logout deletes the device and then looks for its pushers, perhaps before this one was
        there. Those that it finds, it removes itself.
        """
        if await self._is_logged_in(key.user_id, device_id):
            return
        owner = stored.device_id if stored else device_id
        if owner == device_id or not await self._is_logged_in(key.user_id, owner):
            await self._pool.remove(key.app_id, key.pushkey, key.user_id)
            raise SynapseError(
                HTTPStatus.UNAUTHORIZED, "The device has logged out", Codes.UNKNOWN_TOKEN
            )

    async def _is_logged_in(self, user_id: str, device_id: str | None) -> bool:
        return device_id is None or await seams.is_logged_in(self._hs, user_id, device_id)

    async def remove(self, key: PusherKey) -> None:
        """Remove a pusher with its tags, if there is one."""
        async with self._queue.queue((key.app_id, key.pushkey)):
            await self._pool.remove(key.app_id, key.pushkey, key.user_id)

    async def add_or_update_pusher(
        self, native: Callable[..., Awaitable[Any]], **pusher: Any
    ) -> Any:
        """Wrap what sets a pusher: Synapse does so itself, for e-mail, say. It keeps its tags."""
        async with self._queue.queue((pusher["app_id"], pusher["pushkey"])):
            return await native(**pusher)

    async def remove_pusher(
        self, _native: Callable[..., Awaitable[None]], app_id: str, pushkey: str, user_id: str
    ) -> None:
        """Wrap what removes a pusher: its device logs out, or the gateway rejects the pushkey."""
        await self.remove(PusherKey(user_id, app_id, pushkey))
