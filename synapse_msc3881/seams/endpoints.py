# SPDX-License-Identifier: AGPL-3.0-or-later
"""The client API: what serves it, and what serving it needs."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import synapse.rest
from synapse.api.errors import AuthError, NotFoundError
from synapse.api.ratelimiting import Ratelimiter
from synapse.config.ratelimiting import RatelimitSettings
from synapse.rest.client._base import client_patterns
from synapse.rest.client.notifications import NotificationsServlet
from synapse.rest.client.push_rule import PushRuleRestServlet
from synapse.rest.client.pusher import PushersRestServlet, PushersSetRestServlet
from synapse.rest.client.versions import VersionsRestServlet
from synapse.util.async_helpers import Linearizer

from synapse_msc3881.seams.declaring import Seam

if TYPE_CHECKING:
    from synapse.http.server import HttpServer
    from synapse.server import HomeServer
    from synapse.types import UserID

__all__ = [
    "SEAMS",
    "NotificationsServlet",
    "PushRuleRestServlet",
    "PushersRestServlet",
    "PushersSetRestServlet",
    "VersionsRestServlet",
    "client_patterns",
    "make_linearizer",
    "make_ratelimiter",
    "may_see",
    "register_servlets",
]

SEAMS: tuple[Seam, ...] = (
    Seam(
        "synapse.rest:SERVLET_GROUPS",
        'for "client" a tuple of functions (hs, http_server); what registers last wins',
    ),
    Seam(
        "synapse.rest.client.push_rule:PushRuleRestServlet.on_PUT",
        "answers for `global`; has the attributes `auth` and `_is_push_worker`",
        parameters=("request", "path"),
    ),
    Seam(
        "synapse.rest.client.push_rule:PushRuleRestServlet.handle_put",
        "what on_PUT calls once it knows the user; reads the body",
        parameters=("request", "path", "user_id"),
    ),
    Seam(
        "synapse.rest.client.push_rule:PushRuleRestServlet.on_DELETE",
        "as above",
        parameters=("request", "path"),
    ),
    Seam(
        "synapse.rest.client.push_rule:PushRuleRestServlet.on_GET",
        "as above",
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
        "GET /notifications; we take our mark out of the actions",
        parameters=("request",),
    ),
    Seam(
        "synapse.rest.client._base:client_patterns",
        "the patterns of a path below the prefixes of the client API",
        parameters=("path_regex", "releases", "unstable"),
    ),
    Seam(
        "synapse.handlers.events:EventHandler.get_event",
        "an event that the user may see, None where there is none, AuthError where the user may "
        "not see it",
        parameters=("user", "room_id", "event_id"),
    ),
    Seam(
        "synapse.api.ratelimiting:Ratelimiter",
        "made with the store, the clock and RatelimitSettings",
        parameters=("store", "clock", "cfg"),
    ),
    Seam(
        "synapse.api.ratelimiting:Ratelimiter.ratelimit",
        "counts a request of a user, or raises LimitExceededError",
        parameters=("requester",),
    ),
    Seam(
        "synapse.config.ratelimiting:RatelimitSettings",
        "a limit: so many in a second, and so many at once",
        parameters=("key", "per_second", "burst_count"),
    ),
    Seam(
        "synapse.util.async_helpers:Linearizer",
        "`queue(key)` is an async context manager, one at a time for each key; since 1.140 it "
        "wants the clock, which older ones take too",
        parameters=("name", "clock"),
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
    """Whether there is such an event in the room, and the user may see it."""
    try:
        return bool(await hs.get_event_handler().get_event(user, room_id, event_id))
    except (AuthError, NotFoundError):
        return False


def make_ratelimiter(hs: HomeServer, key: str, per_second: float, burst: int) -> Ratelimiter:
    """A limit on the requests of each user to one process: `await limiter.ratelimit(requester)`.

    Admins may exempt a user from it as from Synapse's own limits.
    """
    settings = RatelimitSettings(key=key, per_second=per_second, burst_count=burst)
    return Ratelimiter(hs.get_datastores().main, hs.get_clock(), settings)


def make_linearizer(hs: HomeServer, name: str) -> Linearizer:
    """A queue for each key: `async with linearizer.queue(key)`."""
    return Linearizer(name=name, clock=hs.get_clock())
