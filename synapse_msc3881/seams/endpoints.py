# SPDX-License-Identifier: AGPL-3.0-or-later
"""The client API: what serves it, and what that needs."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import synapse.rest
from synapse.api.errors import AuthError, NotFoundError, UnrecognizedRequestError
from synapse.api.ratelimiting import Ratelimiter
from synapse.config.ratelimiting import RatelimitSettings
from synapse.http.servlet import (
    RestServlet,
    assert_params_in_dict,
    parse_json_value_from_request,
    parse_string,
)
from synapse.rest.client._base import client_patterns
from synapse.rest.client.account_data import AccountDataServlet
from synapse.rest.client.notifications import NotificationsServlet
from synapse.rest.client.push_rule import PushRuleRestServlet
from synapse.rest.client.pusher import PushersRestServlet, PushersSetRestServlet
from synapse.rest.client.versions import VersionsRestServlet

from synapse_msc3881.seams.declaring import Seam
from synapse_msc3881.seams.homeserver import main_store

if TYPE_CHECKING:
    from synapse.http.server import HttpServer
    from synapse.module_api import UserID
    from synapse.server import HomeServer

__all__ = [
    "SEAMS",
    "AccountDataServlet",
    "NotFoundError",
    "NotificationsServlet",
    "PushRuleRestServlet",
    "PushersRestServlet",
    "PushersSetRestServlet",
    "RestServlet",
    "UnrecognizedRequestError",
    "VersionsRestServlet",
    "assert_params_in_dict",
    "client_patterns",
    "make_ratelimiter",
    "may_see",
    "parse_json_value_from_request",
    "parse_string",
    "register_servlets",
]

SEAMS: tuple[Seam, ...] = (
    Seam(
        "synapse.rest:SERVLET_GROUPS",
        'for "client" a tuple of functions (hs, http_server); the last to register a path wins',
    ),
    Seam(
        "synapse.rest.client.push_rule:PushRuleRestServlet.on_PUT",
        "answers for `global`",
        parameters=("request", "path"),
    ),
    Seam(
        "synapse.rest.client.push_rule:PushRuleRestServlet.handle_put",
        "what on_PUT calls once it knows the user; reads the body",
        parameters=("request", "path", "user_id"),
    ),
    Seam(
        "synapse.rest.client.push_rule:PushRuleRestServlet.handle_delete",
        "what on_DELETE calls once it knows the user",
        parameters=("request", "path", "user_id"),
    ),
    Seam(
        "synapse.rest.client.account_data:AccountDataServlet.on_GET",
        "GET …/account_data/{type}; for m.push_rules it answers with what the handler returns",
        parameters=("request", "user_id", "account_data_type"),
    ),
    Seam(
        "synapse.rest.client.push_rule:PushRuleRestServlet.on_DELETE",
        "answers for `global`",
        parameters=("request", "path"),
    ),
    Seam(
        "synapse.rest.client.push_rule:PushRuleRestServlet.on_GET",
        "answers for `global`",
        parameters=("request", "path"),
    ),
    Seam(
        "synapse.rest.client.pusher:PushersRestServlet.on_GET",
        "GET /pushers; we answer instead",
        parameters=("request",),
    ),
    Seam(
        "synapse.rest.client.pusher:PushersSetRestServlet.on_POST",
        "POST /pushers/set; we answer instead",
        parameters=("request",),
    ),
    Seam(
        "synapse.rest.client.versions:VersionsRestServlet.on_GET",
        "GET /versions; we add to its unstable_features",
        parameters=("request",),
    ),
    Seam(
        "synapse.rest.client.notifications:NotificationsServlet.on_GET",
        "GET /notifications; we remove our mark from the actions",
        parameters=("request",),
    ),
    Seam(
        "synapse.rest.client._base:client_patterns",
        "the patterns for a path under the client API's prefixes",
        parameters=("path_regex", "releases", "unstable"),
    ),
    Seam("synapse.server:HomeServer.get_event_handler", "knows who may see an event"),
    Seam(
        "synapse.handlers.events:EventHandler.get_event",
        "an event that the user may see; None if there is none, AuthError if the user may not see "
        "it",
        parameters=("user", "room_id", "event_id"),
    ),
    Seam(
        "synapse.api.ratelimiting:Ratelimiter",
        "created with the store, the clock and RatelimitSettings",
        parameters=("store", "clock", "cfg"),
    ),
    Seam(
        "synapse.api.ratelimiting:Ratelimiter.ratelimit",
        "counts a user's request, or raises LimitExceededError",
        parameters=("requester",),
    ),
    Seam(
        "synapse.config.ratelimiting:RatelimitSettings",
        "a limit: how many per second, and how many in a burst",
        parameters=("key", "per_second", "burst_count"),
    ),
    Seam(
        "synapse.http.servlet:RestServlet.register",
        "registers `on_GET` and the like for each of PATTERNS",
        parameters=("http_server",),
    ),
    Seam(
        "synapse.http.servlet:assert_params_in_dict",
        "refuses an object that lacks a key, with M_MISSING_PARAM",
        parameters=("body", "required"),
    ),
    Seam(
        "synapse.http.servlet:parse_json_value_from_request",
        "a request's body, or M_NOT_JSON",
        parameters=("request",),
    ),
    Seam(
        "synapse.http.servlet:parse_string",
        "a query argument, or None",
        parameters=("request", "name"),
    ),
    Seam("synapse.api.errors:AuthError", "raised for what a user may not see"),
    Seam("synapse.api.errors:NotFoundError", "404 with M_NOT_FOUND", parameters=("msg",)),
    Seam(
        "synapse.api.errors:UnrecognizedRequestError",
        "404 or another code with M_UNRECOGNIZED",
        parameters=("msg", "code"),
    ),
)

RegisterServlets = Callable[["HomeServer", "HttpServer"], None]


def register_servlets(register: RegisterServlets) -> None:
    """Have `register` called after Synapse's own for each client resource of the process.

    It is called for homeservers without the module too. Doing it again does nothing.
    """
    registered = tuple(synapse.rest.SERVLET_GROUPS["client"])
    if register not in registered:
        synapse.rest.SERVLET_GROUPS["client"] = (*registered, register)


async def may_see(hs: HomeServer, user: UserID, room_id: str, event_id: str) -> bool:
    """Whether the room has such an event and the user may see it."""
    try:
        return bool(await hs.get_event_handler().get_event(user, room_id, event_id))
    except (AuthError, NotFoundError):
        return False


def make_ratelimiter(hs: HomeServer, key: str, per_second: float, burst: int) -> Ratelimiter:
    """A limit on the requests of each user to one process: `await limiter.ratelimit(requester)`.

    Admins may exempt a user from it, as from Synapse's own limits.
    """
    settings = RatelimitSettings(key=key, per_second=per_second, burst_count=burst)
    return Ratelimiter(main_store(hs), hs.get_clock(), settings)
