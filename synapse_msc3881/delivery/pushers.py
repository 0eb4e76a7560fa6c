# SPDX-License-Identifier: AGPL-3.0-or-later
"""Pushers with profile tags: stored, read, started and stopped (specification 2, 5 and 6)."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from contextvars import ContextVar
from http import HTTPStatus
from operator import attrgetter
from typing import TYPE_CHECKING, Any

import attr
from synapse.module_api.errors import Codes, SynapseError

from synapse_msc3881 import seams
from synapse_msc3881.cascade.profile_tags import DEFAULT_TAGS
from synapse_msc3881.delivery.backlog import Backlog
from synapse_msc3881.delivery.mail_backlog import MailBacklog
from synapse_msc3881.delivery.own_devices import OwnDevices
from synapse_msc3881.delivery.positions import Positions
from synapse_msc3881.delivery.pusher_store import PusherStore, backlog_of
from synapse_msc3881.delivery.starting import PusherStart
from synapse_msc3881.delivery.stopping import Stopping
from synapse_msc3881.failures import Failures, Fallback
from synapse_msc3881.storage.push_actions import PushActionStore
from synapse_msc3881.storage.pusher_tags import PusherKey, PusherTagStore, StoredTags

if TYPE_CHECKING:
    from synapse.server import HomeServer

    from synapse_msc3881.census import CallLater, Census
    from synapse_msc3881.metrics import Metrics


@attr.s(slots=True, auto_attribs=True)
class TaggedPusherConfig(seams.PusherConfig):
    """Synapse's config of a pusher, with its profile tags.

    Attributes:
        profile_tags: as they were set.
        device_has_own: whether its device has settings of its own.
    """

    profile_tags: tuple[str, ...] = DEFAULT_TAGS
    device_has_own: bool = False


# A pusher that starts within this many seconds of a switch may have been read before it.
_SWITCH_SECONDS = 60.0

# Milliseconds until another try, if a switch could not be read.
_RETRY_MS = 60_000.0

# At once, since there is one for each pusher of the server.
_native_fields = attrgetter(*(field.name for field in attr.fields(seams.PusherConfig)))


def profile_tags_of(config: seams.PusherConfig) -> tuple[str, ...]:
    """A pusher's profile tags; the default if its config was not read from the database."""
    return config.profile_tags if isinstance(config, TaggedPusherConfig) else DEFAULT_TAGS


def own_device_of(config: seams.PusherConfig) -> str | None:
    """The device whose own settings a pusher follows; None if it follows its profile tags."""
    if isinstance(config, TaggedPusherConfig) and config.device_has_own:
        return config.device_id if config.profile_tags == DEFAULT_TAGS else None
    return None


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


@attr.s(auto_attribs=True, slots=True, eq=False)
class _Writing:
    """The pusher that a `set` in progress writes, for what the pool calls on the way.

    What the pool starts in the background sees it too, even later: hence `is_under_way`.
    """

    key: PusherKey
    stored: tuple[str, ...]
    tags: tuple[str, ...]
    #: Whether it may be the first to follow its device's own settings.
    may_be_first: bool
    is_under_way: bool = True


_writing: ContextVar[_Writing | None] = ContextVar("msc3881_writing", default=None)


def _under_way() -> _Writing | None:
    writing = _writing.get()
    return writing if writing is not None and writing.is_under_way else None


class Pushers:
    """The module's part in the pushers of one homeserver.

    On the main process, where pushers are written, everything that writes or removes one waits in
    the queue of its app and pushkey: what a request does depends on what is stored, for other
    users too, and Synapse stops a pusher before it deletes it, so that a `set` in between would
    leave one running that no longer exists. Nothing waits for a queue while it is in one.
    """

    def __init__(
        self,
        hs: HomeServer,
        is_main: bool,
        tags: PusherTagStore,
        push_actions: PushActionStore,
        positions: Positions,
        failures: Failures,
        metrics: Metrics,
        census: Census,
        own: OwnDevices,
        call_later: CallLater,
    ) -> None:
        self._metrics = metrics
        self._census = census
        self._own = own
        self._call_later = call_later
        self._switches = seams.make_linearizer(hs, "msc3881_own_settings")
        # For whom a switch was heard of, and when.
        self._switched: dict[str, float] = {}
        own.on_switch = self._hear_of_switch
        self._hs = hs
        self._is_main = is_main
        self._pool = seams.PusherPool(hs)
        self._queue = seams.make_linearizer(hs, "msc3881_pusher")
        self._tags = tags
        self._push_actions = push_actions
        self._positions = positions
        self._failures = failures
        self._start = PusherStart()
        self._stopping = Stopping()

    # --- Set and removed ---

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
            await self._write(key, device_id, stored, change)
            await self._check_login(key, device_id, stored)
            is_own = stored is None or stored.device_id in (None, device_id)
            for field in change.undone:
                self._metrics.undone_by_omission(field)
            if is_own and not change.append:
                for held in holders:
                    if held.user_name != key.user_id:
                        await self._pool.remove(held.app_id, held.pushkey, held.user_name)

    async def _write(
        self,
        key: PusherKey,
        device_id: str | None,
        stored: seams.PusherConfig | None,
        change: PusherChange,
    ) -> None:
        tags = profile_tags_of(stored) if stored else DEFAULT_TAGS
        is_new = stored is None and key.user_id in self._own.users
        writing = _Writing(key, tags, change.profile_tags, is_new)
        token = _writing.set(writing)
        try:
            await self._pool.add_or_update(
                user_id=key.user_id, device_id=device_id, enabled=change.enabled, **change.fields
            )
        finally:
            writing.is_under_way = False
            _writing.reset(token)

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
        """Synapse itself sets a pusher, say for e-mail at registration; it keeps its tags."""
        async with self._queue.queue((pusher["app_id"], pusher["pushkey"])):
            return await native(**pusher)

    async def remove_pusher(
        self, _native: Callable[..., Awaitable[None]], app_id: str, pushkey: str, user_id: str
    ) -> None:
        """Synapse removes a pusher: its device logs out, or the gateway rejects the pushkey."""
        await self.remove(PusherKey(user_id, app_id, pushkey))

    # --- Stored and read: a pusher and its tags in one transaction ---

    async def add_pusher(self, native: Callable[..., Awaitable[None]], **pusher: Any) -> None:
        """Write a pusher, once nothing can be refused any more."""
        writing = _under_way()
        has_default = writing is None or writing.stored == writing.tags == DEFAULT_TAGS
        if writing is None or (has_default and not writing.may_be_first):
            await native(**pusher)
        else:
            key, tags, is_new = writing.key, writing.tags, writing.may_be_first
            put = seams.Joined(lambda txn: self._tags.put_txn(txn, key, tags, is_new), "pushers")
            await put.call(native, **pusher)
            if not put.ran:
                await self._tags.put(key, tags, is_new)
                await native(**pusher)  # Again, so that all processes read it with its tags.
        self._census.changed()

    async def get_pushers_by(
        self,
        native: Callable[..., Awaitable[Iterator[seams.PusherConfig]]],
        keyvalues: dict[str, Any],
    ) -> Iterator[seams.PusherConfig]:
        """Read pushers."""
        writing = _under_way()
        if writing is None or writing.key.user_id in self._own.users:
            return await self._read(native, keyvalues)
        # The pool reads it again, before and after it is written.
        return _tagged(await native(keyvalues), StoredTags({writing.key: writing.tags}))

    async def get_enabled_pushers(
        self, native: Callable[..., Awaitable[Iterator[seams.PusherConfig]]]
    ) -> Iterator[seams.PusherConfig]:
        """Read all pushers of the server, to start them."""
        self._start.begin()
        if not self._is_main:  # Only now, since what is wrapped is created late in the startup.
            seams.wrap(self._hs, seams.pushers.STOP_PUSHER, self.stop_replicated)
        return self._start.unchanged(await self._read(native))

    async def _read(
        self,
        native: Callable[..., Awaitable[Iterator[seams.PusherConfig]]],
        *keyvalues: dict[str, Any],
    ) -> Iterator[seams.PusherConfig]:
        where = keyvalues[0] if keyvalues else {}
        read = seams.Joined(lambda txn: self._tags.get_txn(txn, where))
        pushers = await read.call(native, *keyvalues)
        if not read.ran:
            read.given = await self._tags.get(where)
        return _tagged(pushers, read.given or StoredTags({}))

    async def delete_pusher(
        self, native: Callable[..., Awaitable[None]], app_id: str, pushkey: str, user_id: str
    ) -> None:
        """Delete a pusher."""
        key = PusherKey(user_id, app_id, pushkey)
        delete = seams.Joined(lambda txn: self._tags.delete_txn(txn, key))
        await delete.call(native, app_id, pushkey, user_id)
        if not delete.ran:
            await self._tags.delete(key)
        self._census.changed()

    async def delete_all_pushers(
        self, native: Callable[..., Awaitable[None]], user_id: str
    ) -> None:
        """Delete all pushers of a user."""
        delete = seams.Joined(lambda txn: self._tags.delete_all_txn(txn, user_id))
        await delete.call(native, user_id)
        if not delete.ran:
            await self.forget_tags(user_id)
        self._census.changed()

    async def forget_tags(self, user_id: str) -> None:
        """Delete the tags of all pushers of a user who is gone."""
        await self._tags.delete_all(user_id)

    # --- Started and stopped ---

    async def process_pusher_change(
        self,
        native: Callable[..., Awaitable[seams.Pusher | None]],
        app_id: str,
        pushkey: str,
        user_id: str,
    ) -> seams.Pusher | None:
        """Start a pusher that was set, or stop it."""
        self._start.overtake(PusherKey(user_id, app_id, pushkey))
        return await native(app_id, pushkey, user_id)

    def maybe_stop_pusher(
        self, native: Callable[..., None], app_id: str, pushkey: str, user_id: str
    ) -> None:
        """Stop a pusher that was removed or disabled."""
        key = PusherKey(user_id, app_id, pushkey)
        self._stop(key, lambda: native(app_id, pushkey, user_id))

    def stop_replicated(
        self, native: Callable[..., None], user_id: str, app_id: str, pushkey: str
    ) -> None:
        """The same on a worker, when it hears of it."""
        key = PusherKey(user_id, app_id, pushkey)
        self._stop(key, lambda: native(user_id, app_id, pushkey))

    def _stop(self, key: PusherKey, native: Callable[[], None]) -> None:
        self._start.overtake(key)
        pusher = seams.running_pusher(self._hs, key.user_id, key.app_id, key.pushkey)
        native()
        if pusher is not None:
            self._stopping.end(pusher)

    def equip(self, pusher: seams.Pusher, config: seams.PusherConfig) -> seams.Pusher:
        """Give a new pusher what walks its profile tags."""
        replaced = seams.running_pusher(self._hs, pusher.user_id, pusher.app_id, pusher.pushkey)
        if replaced is not None:
            self._stopping.replace(replaced, pusher)
        tags, own = profile_tags_of(config), own_device_of(config)
        if own is not None or tags != DEFAULT_TAGS:
            self._attach(pusher, tags, own)
        if self._switched and pusher.user_id in self._switched:
            self._look_after_switch(pusher.user_id)  # It may have been read before.
        return pusher

    def _attach(self, pusher: seams.Pusher, tags: tuple[str, ...], own: str | None) -> None:
        """Have a pusher decide by more than `global` what to push."""
        seams.ensure_position(pusher)
        key = PusherKey(pusher.user_id, pusher.app_id, pusher.pushkey)
        make_backlog = MailBacklog if isinstance(pusher, seams.EmailPusher) else Backlog
        backlog = make_backlog(
            key,
            tags,
            self._push_actions,
            self._failures,
            self._metrics,
            time.monotonic,
            # Synapse counts it as running at once: what comes later is offered to it.
            missed_to=pusher.max_stream_ordering,
            own=own,
        )
        pusher.store = PusherStore(  # type: ignore[assignment]
            pusher.store, pusher, backlog, self._positions.note
        )

    # --- A device gets its own settings, or loses them ---

    def _hear_of_switch(self, user_id: str) -> None:
        now = time.monotonic()
        self._switched = {
            each: then for each, then in self._switched.items() if now - then < _SWITCH_SECONDS
        }
        self._switched[user_id] = now
        self._look_after_switch(user_id)

    def _look_after_switch(self, user_id: str, delay_ms: float = 0) -> None:
        self._call_later(delay_ms, self._switch, user_id, desc="msc3881_switch_own_settings")

    async def _switch(self, user_id: str) -> None:
        """Have a user's running pushers follow their devices' settings, or stop doing so.

        They continue where they are, so that nothing is lost and nothing is pushed twice.
        """
        if not seams.running_pushers(self._hs, user_id):
            return
        async with self._switches.queue(user_id):  # The last to read has the last word.
            try:
                configs = [*await seams.pushers_of(self._hs, user_id)]
            except Exception as error:  # noqa: BLE001 - the database may be away
                self._failures.report(Fallback.READ_TAGS, user_id, error)
                self._look_after_switch(user_id, _RETRY_MS)
                return
            no_longer = [*self._go_by(configs)]
            # Otherwise `global` would push after a restart what was dropped.
            await self._positions.write(no_longer)

    def _go_by(
        self, configs: Iterable[seams.PusherConfig]
    ) -> Iterator[tuple[seams.Pusher, Backlog]]:
        """Have running pushers follow what was read; returns those that no longer follow a device.

        These keep their backlogs: earlier events are pushed as they were decided then, and for all
        others nothing is recorded for the device, so that `global` decides.
        """
        for config in configs:
            pusher = seams.running_pusher(self._hs, *PusherKey.of(config))
            if pusher is None or profile_tags_of(config) != DEFAULT_TAGS:
                continue
            own, backlog = own_device_of(config), backlog_of(pusher)
            if backlog is None and own is not None:
                self._attach(pusher, DEFAULT_TAGS, own)
                seams.wake(pusher)
            elif backlog is not None and backlog.tags == DEFAULT_TAGS:
                if own is None:
                    yield pusher, backlog
                else:
                    backlog.own = own


def _tagged(
    pushers: Iterable[seams.PusherConfig], stored: StoredTags
) -> Iterator[seams.PusherConfig]:
    if not stored:
        yield from pushers
        return
    for pusher in pushers:
        tags = stored.tags.get(PusherKey.of(pusher), DEFAULT_TAGS)
        has_own = (pusher.user_name, pusher.device_id) in stored.own
        if has_own or tags != DEFAULT_TAGS:
            yield TaggedPusherConfig(*(*_native_fields(pusher), tags, has_own))
        else:
            yield pusher
