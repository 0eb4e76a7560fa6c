# SPDX-License-Identifier: AGPL-3.0-or-later
"""Push actions: what was decided for each user of an event, and who has read it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Any

from synapse.storage.databases.main import event_push_actions as push_actions_storage
from synapse.storage.databases.main.event_push_actions import EmailPushAction, HttpPushAction

from synapse_msc3881.seams.declaring import STORE, Seam
from synapse_msc3881.seams.homeserver import main_store

if TYPE_CHECKING:
    from synapse.module_api import LoggingTransaction
    from synapse.server import HomeServer

__all__ = [
    "GET_IF_MAYBE_PUSH_IN_RANGE_FOR_USER",
    "GET_PUSH_ACTION_USERS_IN_RANGE",
    "SEAMS",
    "EmailPushAction",
    "HttpPushAction",
    "deserialize_actions",
    "read_receipts_txn",
    "write_as_text",
]

GET_PUSH_ACTION_USERS_IN_RANGE = Seam(
    STORE + "get_push_action_users_in_range",
    "which users' pushers to wake up; sees only rows with notif = 1, so we look too",
    parameters=("min_stream_ordering", "max_stream_ordering"),
)
GET_IF_MAYBE_PUSH_IN_RANGE_FOR_USER = Seam(
    STORE + "get_if_maybe_push_in_range_for_user",
    "whether a starting pusher may have something to push; sees only rows with notif = 1, so we "
    "look too",
    parameters=("user_id", "min_stream_ordering"),
)

SEAMS: tuple[Seam, ...] = (
    Seam(
        STORE + "get_unread_push_actions_for_user_in_range_for_http",
        "the oldest rows that a pusher should push; we answer for pushers with profile tags",
        parameters=("user_id", "min_stream_ordering", "max_stream_ordering", "limit"),
    ),
    Seam(
        STORE + "get_unread_push_actions_for_user_in_range_for_email",
        "the newest rows that an email pusher should push; we answer for pushers with profile tags",
        parameters=("user_id", "min_stream_ordering", "max_stream_ordering", "limit"),
    ),
    Seam(
        STORE + "_get_receipts_for_room_and_threads_txn",
        "the user's receipts by room, each with is_unread(thread_id, stream_ordering)",
        parameters=("user_id", "room_ids", "thread_ids"),
    ),
    Seam(
        "synapse.storage.databases.main.event_push_actions:_deserialize_action",
        "the actions in a row of event_push_actions, which shortens common ones",
        parameters=("actions", "is_highlight"),
    ),
    Seam(
        "synapse.storage.databases.main.event_push_actions:_serialize_action",
        "what becomes the row's text: `json_encoder.encode` of the actions, unless they are among "
        "the two lists that are shortened",
        parameters=("actions", "is_highlight"),
        calls=("json_encoder", "encode"),
    ),
    Seam(
        "synapse.storage.databases.main.event_push_actions:json_encoder",
        "writes nothing but the rows' actions; we replace it for those whose text is ready, once "
        "one of our users gets a row",
        attributes=("encode",),
    ),
    Seam(
        "synapse.storage.databases.main.event_push_actions:HttpPushAction",
        "a row as an http pusher takes it",
        parameters=("event_id", "room_id", "stream_ordering", "actions"),
    ),
    Seam(
        "synapse.storage.databases.main.event_push_actions:EmailPushAction",
        "a row as an email pusher takes it",
        parameters=("event_id", "room_id", "stream_ordering", "actions", "received_ts"),
    ),
    GET_PUSH_ACTION_USERS_IN_RANGE,
    GET_IF_MAYBE_PUSH_IN_RANGE_FOR_USER,
)


def read_receipts_txn(
    txn: LoggingTransaction,
    hs: HomeServer,
    user_id: str,
    room_ids: Collection[str],
    thread_ids: Collection[str],
) -> Mapping[str, Any]:
    """The user's receipts by room; each has ``is_unread(thread_id, stream_ordering)``."""
    receipts: Mapping[str, Any] = main_store(hs)._get_receipts_for_room_and_threads_txn(
        txn, user_id=user_id, room_ids=room_ids, thread_ids=thread_ids
    )
    return receipts


def deserialize_actions(actions: str, highlight: bool) -> list[Any]:
    """The actions in a row of event_push_actions."""
    return list(push_actions_storage._deserialize_action(actions, highlight))


class _TextWriter:
    """In the place of Synapse's encoder of rows."""

    def __init__(self, native: Callable[[Any], str], kind: type[Any]) -> None:
        self._native = native
        self._kind = kind

    def encode(self, actions: Any) -> str:
        """The text of the actions, in JSON."""
        if type(actions) is self._kind:
            text: str = actions.text
            return text
        return self._native(actions)


def write_as_text(kind: type[Any]) -> None:
    """Have the actions of rows that are of this class written as their ``text``.

    The name that this replaces is the process's, not a homeserver's: all others are written as
    ever. Doing it again does nothing.
    """
    module: Any = push_actions_storage
    if type(module.json_encoder) is not _TextWriter:
        module.json_encoder = _TextWriter(module.json_encoder.encode, kind)
