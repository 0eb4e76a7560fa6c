# SPDX-License-Identifier: AGPL-3.0-or-later
"""Pushers with profile tags: stored, read, started and stopped (SEMANTICS 2, 5 and 6)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from contextvars import ContextVar
from operator import attrgetter
from typing import TYPE_CHECKING, Any

import attr

from synapse_msc3881 import seams
from synapse_msc3881.cascade.profile_tags import DEFAULT_TAGS
from synapse_msc3881.delivery.backlog import Backlog, PusherStore
from synapse_msc3881.delivery.stopping import Stop
from synapse_msc3881.metrics import Failures
from synapse_msc3881.storage.push_actions import PushActionStore
from synapse_msc3881.storage.pusher_tags import PusherKey, PusherTagStore

if TYPE_CHECKING:
    from synapse.server import HomeServer

    from synapse_msc3881.census import Census
    from synapse_msc3881.metrics import Metrics

# The tags that the request under way sets. Synapse checks everything else first, and calls
# `add_pusher` in the same coroutine once nothing can be refused any more.
_tags_to_store: ContextVar[tuple[str, ...] | None] = ContextVar("msc3837_tags", default=None)


@attr.s(slots=True, auto_attribs=True)
class TaggedPusherConfig(seams.PusherConfig):
    """Synapse's config of a pusher, with its profile tags."""

    profile_tags: tuple[str, ...] = DEFAULT_TAGS


# At once, since there is one for each pusher of the server.
_native_fields = attrgetter(*(field.name for field in attr.fields(seams.PusherConfig)))


def profile_tags_of(config: seams.PusherConfig) -> tuple[str, ...]:
    """A pusher's profile tags; the default where its config was not read from the database."""
    return config.profile_tags if isinstance(config, TaggedPusherConfig) else DEFAULT_TAGS


class Pushers:
    """The module's part in the pushers of one homeserver."""

    def __init__(
        self,
        hs: HomeServer,
        tags: PusherTagStore,
        push_actions: PushActionStore,
        failures: Failures,
        metrics: Metrics,
        census: Census,
    ) -> None:
        self._metrics = metrics
        self._census = census
        self._hs = hs
        self._tags = tags
        self._push_actions = push_actions
        self._failures = failures

    # --- Stored and read ---

    async def add_or_update(self, *, profile_tags: tuple[str, ...], **pusher: Any) -> None:
        """Add or update a pusher with its tags; nothing is stored where Synapse refuses it.

        Args:
            profile_tags: the tags, checked.
            pusher: what Synapse's `PusherPool.add_or_update_pusher` takes.

        Raises:
            SynapseError, PusherConfigException: Synapse refuses the pusher.
        """
        token = _tags_to_store.set(profile_tags)
        try:
            await seams.pusher_pool(self._hs).add_or_update_pusher(**pusher)
        finally:
            _tags_to_store.reset(token)

    async def add_pusher(
        self, native: Callable[..., Awaitable[None]], *args: Any, **kwargs: Any
    ) -> None:
        """Wrap the write of a pusher."""
        tags = _tags_to_store.get()
        if tags is None:  # Synapse itself adds a pusher, say for e-mail at registration.
            await native(*args, **kwargs)
            self._census.changed()
            return
        key = PusherKey(kwargs["user_id"], kwargs["app_id"], kwargs["pushkey"])
        # First, so that whoever reads the pusher finds its tags.
        previous = (await self._tags.get(_columns(key))).get(key, DEFAULT_TAGS)
        if tags != previous:
            await self._tags.put(key, tags)
        try:
            await native(*args, **kwargs)
        except Exception:
            if tags != previous:
                await self._tags.put(key, previous)
            raise
        self._census.changed()

    async def get_pushers_by(
        self,
        native: Callable[[dict[str, Any]], Awaitable[Iterator[seams.PusherConfig]]],
        keyvalues: dict[str, Any],
    ) -> Iterator[seams.PusherConfig]:
        """Wrap the read of pushers."""
        # The tags first: Synapse goes on with what it read of a pusher at once.
        tags = await self._tags.get(keyvalues)
        return _tagged(await native(keyvalues), tags)

    async def get_enabled_pushers(
        self,
        native: Callable[[], Awaitable[Iterator[seams.PusherConfig]]],
    ) -> Iterator[seams.PusherConfig]:
        """Wrap the read of all pushers at startup."""
        tags = await self._tags.get({})
        return _tagged(await native(), tags)

    async def delete_pusher(
        self, native: Callable[..., Awaitable[None]], app_id: str, pushkey: str, user_id: str
    ) -> None:
        """Wrap the deletion of a pusher."""
        await native(app_id, pushkey, user_id)
        self._census.changed()
        await self._tags.delete(PusherKey(user_id, app_id, pushkey))

    async def delete_all_pushers(
        self, native: Callable[..., Awaitable[None]], user_id: str
    ) -> None:
        """Wrap the deletion of all pushers of a user."""
        await native(user_id)
        self._census.changed()
        await self._tags.delete_all(user_id)

    async def forget_tags(self, user_id: str) -> None:
        """Delete the tags of all pushers of a user, who is gone."""
        await self._tags.delete_all(user_id)

    # --- Started and stopped ---

    def equip(self, pusher: seams.Pusher, config: seams.PusherConfig) -> seams.Pusher:
        """Give a new pusher what stops it for good, and what walks its profile tags."""
        pusher.on_stop = Stop(pusher, self._running(pusher), self._is_running)  # type: ignore[method-assign]
        tags = profile_tags_of(config)
        if tags != DEFAULT_TAGS:
            key = PusherKey(pusher.user_id, pusher.app_id, pusher.pushkey)
            backlog = Backlog(key, tags, self._push_actions, self._failures, self._metrics)
            pusher.store = PusherStore(pusher.store, pusher, backlog)  # type: ignore[assignment]
        return pusher

    def _running(self, pusher: seams.Pusher) -> seams.Pusher | None:
        return seams.running_pusher(self._hs, pusher.user_id, pusher.app_id, pusher.pushkey)

    def _is_running(self, pusher: seams.Pusher) -> bool:
        return self._running(pusher) is not None


def _columns(key: PusherKey) -> Mapping[str, str]:
    return {"user_name": key.user_id, "app_id": key.app_id, "pushkey": key.pushkey}


def _tagged(
    pushers: Iterable[seams.PusherConfig], tags: Mapping[PusherKey, tuple[str, ...]]
) -> Iterator[seams.PusherConfig]:
    if not tags:
        yield from pushers
        return
    for pusher in pushers:
        listed = tags.get(PusherKey(pusher.user_name, pusher.app_id, pusher.pushkey))
        if listed is None:
            yield pusher
        else:
            yield TaggedPusherConfig(*(*_native_fields(pusher), listed))
