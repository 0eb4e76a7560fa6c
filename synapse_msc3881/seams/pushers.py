# SPDX-License-Identifier: AGPL-3.0-or-later
"""Pushers: how they are stored, read, started and stopped, and what they push with."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from synapse.api.errors import StoreError
from synapse.push import Pusher, PusherConfig, PusherConfigException
from synapse.push.emailpusher import EmailPusher
from synapse.push.httppusher import HttpPusher
from synapse.util.threepids import canonicalise_email

from synapse_msc3881.seams.declaring import STORE, Seam
from synapse_msc3881.seams.homeserver import main_store

if TYPE_CHECKING:
    from synapse.module_api import LoggingTransaction
    from synapse.server import HomeServer

__all__ = [
    "ADD_OR_UPDATE_PUSHER",
    "ADD_PUSHER",
    "DELETE_ALL_PUSHERS_FOR_USER",
    "DELETE_PUSHER_BY_APP_ID_PUSHKEY_USER_ID",
    "GET_ENABLED_PUSHERS",
    "GET_PUSHERS_BY",
    "MAYBE_STOP_PUSHER",
    "POOL",
    "PROCESS_PUSHER_CHANGE_BY_ID",
    "REMOVE_PUSHER",
    "REPLICATION_HANDLER",
    "SEAMS",
    "STOP_PUSHER",
    "EmailPusher",
    "HttpPusher",
    "Pusher",
    "PusherConfig",
    "PusherConfigException",
    "PusherPool",
    "StoreError",
    "all_running_pushers",
    "canonicalise_email",
    "ensure_position",
    "forget_badge",
    "is_logged_in",
    "pushers_of",
    "running_pusher",
    "running_pushers",
    "tell_other_processes",
    "wake",
    "wrap_pusher_types",
]

POOL = "synapse.push.pusherpool:PusherPool."
REPLICATION_HANDLER = "synapse.replication.tcp.client:ReplicationDataHandler."

ADD_OR_UPDATE_PUSHER = Seam(
    POOL + "add_or_update_pusher",
    "checks everything, keeps an existing pusher's device, then calls store.add_pusher; all "
    "callers in Synapse name the arguments",
    parameters=(
        "user_id",
        "kind",
        "app_id",
        "app_display_name",
        "device_display_name",
        "pushkey",
        "lang",
        "data",
        "profile_tag",
        "enabled",
        "device_id",
    ),
)
REMOVE_PUSHER = Seam(
    POOL + "remove_pusher",
    "stops a pusher and then deletes it on the main process; whatever removes one calls it on "
    "the pool, except the removal of all pushers of a user and, in older versions, of an e-mail "
    "address",
    parameters=("app_id", "pushkey", "user_id"),
)
MAYBE_STOP_PUSHER = Seam(
    POOL + "maybe_stop_pusher",
    "stops a pusher, if it runs in this process",
    parameters=("app_id", "pushkey", "user_id"),
)
PROCESS_PUSHER_CHANGE_BY_ID = Seam(
    POOL + "process_pusher_change_by_id",
    "reads a pusher that was set, and restarts or stops it in this process",
    parameters=("app_id", "pushkey", "user_id"),
)
STOP_PUSHER = Seam(
    REPLICATION_HANDLER + "stop_pusher",
    "on a worker, stops a pusher that was deleted",
    parameters=("user_id", "app_id", "pushkey"),
)
GET_PUSHERS_BY = Seam(
    STORE + "get_pushers_by",
    "all reads of pushers except the one at startup go through it; keys are columns of `pushers`; "
    "our read of the profile tags joins its transaction",
    parameters=("keyvalues",),
    calls=("db_pool", "runInteraction"),
)
GET_ENABLED_PUSHERS = Seam(
    STORE + "get_enabled_pushers",
    "the read of all pushers at startup; our read of the profile tags joins its transaction",
    calls=("db_pool", "runInteraction"),
)
ADD_PUSHER = Seam(
    STORE + "add_pusher",
    "only the pool calls it, after all checks have passed, and names the arguments; our write of "
    "the profile tags joins its upsert of `pushers`",
    parameters=("user_id", "app_id", "pushkey"),
    calls=("db_pool", "simple_upsert"),
)
DELETE_PUSHER_BY_APP_ID_PUSHKEY_USER_ID = Seam(
    STORE + "delete_pusher_by_app_id_pushkey_user_id",
    "deletes one pusher in its first transaction, where we delete its profile tags",
    parameters=("app_id", "pushkey", "user_id"),
    calls=("db_pool", "runInteraction"),
)
DELETE_ALL_PUSHERS_FOR_USER = Seam(
    STORE + "delete_all_pushers_for_user",
    "deletes a user's pushers in its first transaction, where we delete their profile tags",
    parameters=("user_id",),
    calls=("db_pool", "runInteraction"),
)

SEAMS: tuple[Seam, ...] = (
    Seam("synapse.server:HomeServer.get_pusherpool", "one pool for each homeserver"),
    Seam(
        "synapse.push.pusherpool:PusherPool",
        "the running pushers by user, then by '<app_id>:<pushkey>'; a pusher stopped for good is "
        "taken out before its on_stop, one that is replaced is not",
        attributes=("pushers", "pusher_factory"),
    ),
    Seam(
        "synapse.push.pusher:PusherFactory",
        "for each kind of pusher a callable (hs, PusherConfig) that creates it; we wrap them",
        attributes=("pusher_types",),
    ),
    ADD_OR_UPDATE_PUSHER,
    REMOVE_PUSHER,
    MAYBE_STOP_PUSHER,
    PROCESS_PUSHER_CHANGE_BY_ID,
    Seam(
        POOL + "_start_pushers",
        "takes what store.get_enabled_pushers gives one at a time, as it starts each",
        calls=("get_enabled_pushers", "concurrently_execute"),
    ),
    STOP_PUSHER,
    Seam(
        "synapse.server:HomeServer.get_replication_data_handler",
        "one for each homeserver; it looks `stop_pusher` up each time",
    ),
    Seam(
        "synapse.push:PusherConfig",
        "an attrs class with the columns of a pusher",
        attributes=("user_name", "app_id", "pushkey", "enabled", "device_id"),
    ),
    Seam(
        "synapse.push:PusherConfig.as_dict",
        "a pusher for clients, with `device_id`",
    ),
    Seam("synapse.api.errors:StoreError", "what the store raises for a pusher that is gone"),
    Seam(
        "synapse.push:PusherConfigException",
        "what the pool raises for a pusher that it refuses",
    ),
    Seam(
        "synapse.push:Pusher",
        "a running pusher; reads and writes through `store`, which it looks up each time",
        attributes=(
            "user_id",
            "app_id",
            "pushkey",
            "store",
            "last_stream_ordering",
            "max_stream_ordering",
        ),
    ),
    Seam(
        "synapse.push.httppusher:HttpPusher",
        "posts through `http_client`, which it looks up each time",
        attributes=("http_client", "badge_count_last_call"),
    ),
    Seam(
        "synapse.http.client:SimpleHttpClient.post_json_get_json",
        "the post to a gateway; its answer names the rejected pushkeys",
        parameters=("uri", "post_json"),
    ),
    Seam(
        "synapse.push:Pusher.on_started",
        "called when a pusher has started, with whether there may be something to push; if so, it "
        "looks for it unless it is already looking",
    ),
    Seam(
        "synapse.push.httppusher:HttpPusher._unsafe_process",
        "reads what to push from store.get_unread_push_actions_for_user_in_range_for_http, posts "
        "with http_client.post_json_get_json, and ends when "
        "store.update_pusher_last_stream_ordering_and_success returns False",
    ),
    Seam(
        "synapse.push.httppusher:HttpPusher._update_badge",
        "after a receipt of the user's, tells the gateway the count if it differs from "
        "badge_count_last_call",
        calls=("badge_count_last_call",),
    ),
    Seam(
        "synapse.push.httppusher:HttpPusher.disable_badge_count",
        "an attribute of pushers whose app wants no badges",
        since="1.121",
        optional=True,
    ),
    Seam(
        "synapse.push.emailpusher:EmailPusher.send_notification",
        "sends the mail, at the end of an email pusher's work",
    ),
    Seam(
        STORE + "update_pusher_last_stream_ordering",
        "writes a pusher's position",
        parameters=("app_id", "pushkey", "user_id", "last_stream_ordering"),
    ),
    Seam(
        STORE + "update_pusher_last_stream_ordering_and_success",
        "writes a pusher's position, and returns whether the pusher still exists",
        parameters=("app_id", "pushkey", "user_id", "last_stream_ordering", "last_success"),
    ),
    Seam(
        STORE + "update_pusher_failing_since",
        "writes since when a pusher has been failing",
        parameters=("app_id", "pushkey", "user_id", "failing_since"),
    ),
    Seam(
        STORE + "set_throttle_params",
        "writes the throttle of an email pusher",
        parameters=("pusher_id", "room_id", "params"),
    ),
    ADD_PUSHER,
    GET_PUSHERS_BY,
    GET_ENABLED_PUSHERS,
    DELETE_PUSHER_BY_APP_ID_PUSHKEY_USER_ID,
    DELETE_ALL_PUSHERS_FOR_USER,
    Seam(STORE + "get_pushers_by_user_id", "a user's pushers", parameters=("user_id",)),
    Seam("synapse.server:HomeServer.get_notifier", "one notifier for each homeserver"),
    Seam(
        "synapse.notifier:Notifier.on_new_replication_data",
        "lets other processes know at once what was written",
    ),
    Seam(
        "synapse.util.threepids:canonicalise_email",
        "raises ValueError if this is not an e-mail address",
        parameters=("address",),
    ),
)


def wrap_pusher_types(hs: HomeServer, wrapper: Callable[[Pusher, PusherConfig], Pusher]) -> None:
    """Have `wrapper` see each pusher, with its config, as it is created."""
    types = hs.get_pusherpool().pusher_factory.pusher_types

    def wrap_type(make: Callable[[HomeServer, PusherConfig], Pusher]) -> Any:
        return lambda hs, config: wrapper(make(hs, config), config)

    for kind, make in list(types.items()):
        types[kind] = wrap_type(make)


def running_pushers(hs: HomeServer, user_id: str) -> Collection[Pusher]:
    """The running pushers of a user in this process."""
    pushers: Collection[Pusher] = hs.get_pusherpool().pushers.get(user_id, {}).values()
    return pushers


def all_running_pushers(hs: HomeServer) -> Iterator[Pusher]:
    """All pushers that run in this process."""
    for of_user in list(hs.get_pusherpool().pushers.values()):
        yield from list(of_user.values())


def running_pusher(hs: HomeServer, user_id: str, app_id: str, pushkey: str) -> Pusher | None:
    """The running pusher with that name, or None if none runs in this process."""
    return hs.get_pusherpool().pushers.get(user_id, {}).get(f"{app_id}:{pushkey}")


async def pushers_of(hs: HomeServer, user_id: str) -> Iterable[PusherConfig]:
    """A user's pushers as they are stored."""
    pushers: Iterable[PusherConfig] = await main_store(hs).get_pushers_by_user_id(user_id)
    return pushers


def tell_other_processes(hs: HomeServer) -> None:
    """Tell other processes at once of what was written."""
    hs.get_notifier().on_new_replication_data()


class PusherPool:
    """Synapse's own ways to set and remove a pusher, without our wrappers around them."""

    def __init__(self, hs: HomeServer) -> None:
        self._store = main_store(hs)
        self._pool = hs.get_pusherpool()
        self._add_or_update = self._pool.add_or_update_pusher
        self._remove = self._pool.remove_pusher

    async def read(self, app_id: str, pushkey: str) -> list[PusherConfig]:
        """The pushers of all users for a pushkey, with their tags."""
        keyvalues = {"app_id": app_id, "pushkey": pushkey}
        return list(await self._store.get_pushers_by(keyvalues))

    async def add_or_update(self, **pusher: Any) -> None:
        """Check, write and start a pusher; raises Synapse's error if it is refused."""
        await self._add_or_update(**pusher)

    async def remove(self, app_id: str, pushkey: str, user_id: str) -> None:
        """Stop and delete a pusher."""
        await self._remove(app_id, pushkey, user_id)
        # Again: while it was being deleted, the start of the pushers may have got to it.
        self._pool.maybe_stop_pusher(app_id, pushkey, user_id)


async def is_logged_in(hs: HomeServer, user_id: str, device_id: str) -> bool:
    """Whether a device exists: a logout deletes it before it looks for the device's pushers.

    Asks the database, since this process may not have heard of a logout on another.
    """

    def is_logged_in_txn(txn: LoggingTransaction) -> bool:
        txn.execute(
            "SELECT 1 FROM devices WHERE user_id = ? AND device_id = ?", (user_id, device_id)
        )
        return txn.fetchone() is not None

    db_pool = main_store(hs).db_pool
    return bool(await db_pool.runInteraction("msc3881_is_logged_in", is_logged_in_txn))


def forget_badge(pusher: Pusher) -> None:
    """Have an http pusher send its badge at the next receipt, whatever it sent last."""
    if isinstance(pusher, HttpPusher) and not getattr(pusher, "disable_badge_count", False):
        pusher.badge_count_last_call = None


def wake(pusher: Pusher) -> None:
    """Have a running pusher look for what there is to push."""
    pusher.on_started(True)


def ensure_position(pusher: Any) -> None:
    """Have a pusher start from the present if its row has no position, as the column allows."""
    if pusher.last_stream_ordering is None:
        pusher.last_stream_ordering = pusher.max_stream_ordering
