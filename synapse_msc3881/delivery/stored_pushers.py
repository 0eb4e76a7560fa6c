# SPDX-License-Identifier: AGPL-3.0-or-later
"""Pushers as they are stored: written, read and deleted in one transaction with their tags."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import attr

from synapse_msc3881 import seams
from synapse_msc3881.cascade.profile_tags import DEFAULT_TAGS
from synapse_msc3881.delivery.own_devices import OwnDevices
from synapse_msc3881.delivery.tagged_config import profile_tags_of, with_tags
from synapse_msc3881.storage.pusher_tags import PusherKey, PusherTagStore, StoredTags

if TYPE_CHECKING:
    from synapse_msc3881.census import Census


@attr.s(auto_attribs=True, slots=True, eq=False)
class _Writing:
    """The pusher that a `set` in progress writes, for what the pool calls on the way.

    What the pool starts in the background sees it too, even later: hence `is_under_way`.
    """

    key: PusherKey
    stored: tuple[str, ...]
    tags: tuple[str, ...]
    #: Whether there is no such pusher yet.
    is_new: bool
    #: Whether it may be the first to follow its device's own settings.
    may_be_first: bool
    is_under_way: bool = True


_writing: ContextVar[_Writing | None] = ContextVar("msc3881_writing", default=None)


def _under_way() -> _Writing | None:
    writing = _writing.get()
    return writing if writing is not None and writing.is_under_way else None


class StoredPushers:
    """The pushers in the database, read on every process and written on the main one."""

    def __init__(self, tags: PusherTagStore, own: OwnDevices, census: Census) -> None:
        """
        Args:
            tags: the table of profile tags.
            own: whose devices may have settings of their own.
            census: hears that pushers have changed.
        """
        self._tags = tags
        self._own = own
        self._census = census

    @contextmanager
    def writing(
        self, key: PusherKey, stored: seams.PusherConfig | None, tags: tuple[str, ...]
    ) -> Iterator[None]:
        """Have what the pool writes and reads of a pusher meanwhile carry the tags it is to get.

        Args:
            key: the pusher.
            stored: the pusher as it is; None if there is none.
            tags: its profile tags from now on.
        """
        is_new = stored is None
        may_be_first = is_new and key.user_id in self._own.users
        writing = _Writing(key, profile_tags_of(stored), tags, is_new, may_be_first)
        token = _writing.set(writing)
        try:
            yield
        finally:
            writing.is_under_way = False
            _writing.reset(token)

    async def add_pusher(self, native: Callable[..., Awaitable[None]], **pusher: Any) -> None:
        """Wrap the write of a pusher, once nothing can be refused any more."""
        writing = _under_way()
        has_default = writing is None or writing.stored == writing.tags == DEFAULT_TAGS
        if writing is None or (has_default and not writing.may_be_first):
            await native(**pusher)
            if writing is not None and writing.is_new and writing.key.user_id in self._own.users:
                # A device was switched on another process, and this one has just heard of it.
                await self._tags.invalidate(writing.key.user_id)
        else:
            what = writing.key, writing.tags, writing.may_be_first
            put = seams.Joined(lambda txn: self._tags.put_txn(txn, *what), "pushers")
            await put.call(native, **pusher)
            if not put.ran:
                await self._tags.put(*what)
                await native(**pusher)  # Again, so that all processes read it with its tags.
        self._census.changed()

    async def get_pushers_by(
        self,
        native: Callable[..., Awaitable[Iterator[seams.PusherConfig]]],
        keyvalues: dict[str, Any],
    ) -> Iterator[seams.PusherConfig]:
        """Wrap the read of pushers."""
        writing = _under_way()
        if writing is None or writing.key.user_id in self._own.users:
            return await self.read(native, keyvalues)
        # The pool reads it again, before and after it is written.
        return with_tags(await native(keyvalues), StoredTags({writing.key: writing.tags}))

    async def read(
        self,
        native: Callable[..., Awaitable[Iterator[seams.PusherConfig]]],
        *keyvalues: dict[str, Any],
    ) -> Iterator[seams.PusherConfig]:
        """Read pushers, with their tags, as they are stored."""
        where = keyvalues[0] if keyvalues else {}
        read = seams.Joined(lambda txn: self._tags.get_txn(txn, where))
        pushers = await read.call(native, *keyvalues)
        if not read.ran:
            read.given = await self._tags.get(where)
        return with_tags(pushers, read.given or StoredTags({}))

    async def delete_pusher(
        self, native: Callable[..., Awaitable[None]], app_id: str, pushkey: str, user_id: str
    ) -> None:
        """Wrap the deletion of a pusher."""
        key = PusherKey(user_id, app_id, pushkey)
        delete = seams.Joined(lambda txn: self._tags.delete_txn(txn, key))
        await delete.call(native, app_id, pushkey, user_id)
        if not delete.ran:
            await self._tags.delete(key)
        self._census.changed()

    async def delete_all_pushers(
        self, native: Callable[..., Awaitable[None]], user_id: str
    ) -> None:
        """Wrap the deletion of all pushers of a user."""
        delete = seams.Joined(lambda txn: self._tags.delete_all_txn(txn, user_id))
        await delete.call(native, user_id)
        if not delete.ran:
            await self._tags.delete_all(user_id)
        self._census.changed()
