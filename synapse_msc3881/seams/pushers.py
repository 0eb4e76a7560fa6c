# SPDX-License-Identifier: AGPL-3.0-or-later
"""Pushers: stored, read, started and stopped, and what they push with."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from synapse.api.errors import StoreError
from synapse.push import Pusher, PusherConfig, PusherConfigException
from synapse.push.emailpusher import EmailPusher
from synapse.push.httppusher import HttpPusher
from synapse.util.threepids import canonicalise_email

from synapse_msc3881.seams.declaring import STORE, Seam
from synapse_msc3881.seams.homeserver import main_store

if TYPE_CHECKING:
    from synapse.push.pusherpool import PusherPool
    from synapse.server import HomeServer

__all__ = [
    "ADD_PUSHER",
    "DELETE_ALL_PUSHERS_FOR_USER",
    "DELETE_PUSHER_BY_APP_ID_PUSHKEY_USER_ID",
    "GET_ENABLED_PUSHERS",
    "GET_PUSHERS_BY",
    "SEAMS",
    "EmailPusher",
    "HttpPusher",
    "Pusher",
    "PusherConfig",
    "PusherConfigException",
    "StoreError",
    "canonicalise_email",
    "find_pusher",
    "pusher_pool",
    "pushers_of",
    "running_pusher",
    "tell_other_processes",
    "wrap_pusher_types",
]

GET_PUSHERS_BY = Seam(
    STORE + "get_pushers_by",
    "all reads of pushers but the one at startup go through it; keys are columns of pushers",
    parameters=("keyvalues",),
)
GET_ENABLED_PUSHERS = Seam(STORE + "get_enabled_pushers", "the read of all pushers at startup")
ADD_PUSHER = Seam(
    STORE + "add_pusher",
    "only the pool calls it, when all checks have passed; we store the profile tags with it",
    parameters=("user_id", "app_id", "pushkey"),
)
DELETE_PUSHER_BY_APP_ID_PUSHKEY_USER_ID = Seam(
    STORE + "delete_pusher_by_app_id_pushkey_user_id",
    "deletes one pusher; we delete its profile tags",
    parameters=("app_id", "pushkey", "user_id"),
)
DELETE_ALL_PUSHERS_FOR_USER = Seam(
    STORE + "delete_all_pushers_for_user",
    "deletes a user's pushers; as above",
    parameters=("user_id",),
)

SEAMS: tuple[Seam, ...] = (
    Seam("synapse.server:HomeServer.get_pusherpool", "one pool for each homeserver"),
    Seam(
        "synapse.push.pusherpool:PusherPool",
        "the running pushers by user, then by '<app_id>:<pushkey>'; a pusher that is stopped for "
        "good is taken out before its on_stop, one that is replaced is not",
        attributes=("pushers", "pusher_factory"),
    ),
    Seam(
        "synapse.push.pusher:PusherFactory",
        "for each kind of pusher a callable (hs, PusherConfig) that makes it; we wrap them",
        attributes=("pusher_types",),
    ),
    Seam(
        "synapse.push.pusherpool:PusherPool.add_or_update_pusher",
        "checks everything, keeps an existing pusher's device, then calls store.add_pusher",
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
    ),
    Seam(
        "synapse.push.pusherpool:PusherPool.remove_pusher",
        "stops and deletes a pusher",
        parameters=("app_id", "pushkey", "user_id"),
    ),
    Seam(
        "synapse.push.pusherpool:PusherPool.remove_pushers_by_app_id_and_pushkey_not_user",
        "deletes the pushers that other users have for the same pushkey",
        parameters=("app_id", "pushkey", "not_user_id"),
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
        attributes=("user_id", "app_id", "pushkey", "store", "last_stream_ordering"),
    ),
    Seam(
        "synapse.push.httppusher:HttpPusher",
        "posts through `http_client`, which it looks up each time",
        attributes=("http_client",),
    ),
    Seam(
        "synapse.http.client:SimpleHttpClient.post_json_get_json",
        "the post to a gateway; its answer names the rejected pushkeys",
        parameters=("uri", "post_json"),
    ),
    Seam(
        "synapse.push:Pusher.on_stop",
        "called when a pusher stops",
    ),
    Seam(
        "synapse.push.httppusher:HttpPusher._unsafe_process",
        "reads what to push from store.get_unread_push_actions_for_user_in_range_for_http, posts "
        "with http_client.post_json_get_json, and ends when "
        "store.update_pusher_last_stream_ordering_and_success returns False",
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
        "writes a pusher's position, and tells whether it still exists",
        parameters=("app_id", "pushkey", "user_id", "last_stream_ordering", "last_success"),
    ),
    Seam(
        STORE + "update_pusher_failing_since",
        "writes since when a pusher fails",
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
        "has other processes learn at once of what was written",
    ),
    Seam(
        "synapse.util.threepids:canonicalise_email",
        "raises ValueError for what is no e-mail address",
        parameters=("address",),
    ),
)


def wrap_pusher_types(hs: HomeServer, wrapper: Callable[[Pusher, PusherConfig], Pusher]) -> None:
    """Have `wrapper` see each pusher, with its config, as it is made."""
    types = hs.get_pusherpool().pusher_factory.pusher_types

    def wrap_type(make: Callable[[HomeServer, PusherConfig], Pusher]) -> Any:
        return lambda hs, config: wrapper(make(hs, config), config)

    for kind, make in list(types.items()):
        types[kind] = wrap_type(make)


def running_pusher(hs: HomeServer, user_id: str, app_id: str, pushkey: str) -> Pusher | None:
    """The running pusher of that name, or None where none runs in this process."""
    return hs.get_pusherpool().pushers.get(user_id, {}).get(f"{app_id}:{pushkey}")


def pusher_pool(hs: HomeServer) -> PusherPool:
    """What adds, updates, removes and runs the pushers."""
    return hs.get_pusherpool()


async def pushers_of(hs: HomeServer, user_id: str) -> Iterable[PusherConfig]:
    """A user's pushers as they are stored."""
    pushers: Iterable[PusherConfig] = await main_store(hs).get_pushers_by_user_id(user_id)
    return pushers


async def find_pusher(
    hs: HomeServer, user_id: str, app_id: str, pushkey: str
) -> PusherConfig | None:
    """The stored pusher of that name, if there is one."""
    found: Iterable[PusherConfig] = await main_store(hs).get_pushers_by(
        {"user_name": user_id, "app_id": app_id, "pushkey": pushkey}
    )
    return next(iter(found), None)


def tell_other_processes(hs: HomeServer) -> None:
    """Have other processes learn at once of what was written."""
    hs.get_notifier().on_new_replication_data()
