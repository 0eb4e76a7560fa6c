# SPDX-License-Identifier: AGPL-3.0-or-later
"""``GET …/unstable/org.matrix.msc3837/explain/{room_id}/{event_id}``: why did my phone (not) ring?

Only for the user's own pushers, and for events that the user may see. Works on every process that
serves clients, since everything it needs is in the database.
"""

from __future__ import annotations

import time
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from synapse.module_api.errors import Codes, SynapseError

from synapse_msc3881 import seams
from synapse_msc3881.cascade.explanation import Event, as_json, explain
from synapse_msc3881.failures import Failures, Fallback
from synapse_msc3881.storage.explanations import read_facts

if TYPE_CHECKING:
    from synapse.http.site import SynapseRequest
    from synapse.module_api import ModuleApi
    from synapse.server import HomeServer
    from synapse.types import UserID

# Per user and process. An answer takes a handful of indexed statements.
_PER_SECOND = 5
_BURST = 50

_MAX_BYTES = 255


class ExplainServlet(seams.RestServlet):
    """``GET …/unstable/org.matrix.msc3837/explain/{room_id}/{event_id}``."""

    PATTERNS = seams.client_patterns(
        "/org.matrix.msc3837/explain/(?P<room_id>[^/]*)/(?P<event_id>[^/]*)$",
        releases=(),
        unstable=True,
    )
    CATEGORY = "Client API requests"

    def __init__(self, hs: HomeServer, api: ModuleApi, failures: Failures) -> None:
        super().__init__()
        self._hs = hs
        self._api = api
        self._failures = failures
        self._limiter = seams.make_ratelimiter(hs, "msc3881_explain", _PER_SECOND, _BURST)

    async def on_GET(
        self, request: SynapseRequest, room_id: str, event_id: str
    ) -> tuple[int, dict[str, Any]]:
        """What became of an event at each of the user's pushers.

        Raises:
            SynapseError: 400 for something that is not an ID, 404 for an event that is unknown or
                that the user may not see, 429 for too many requests.
        """
        requester = await self._api.get_user_by_req(request)
        _check_id(room_id, "room_id", "!")
        _check_id(event_id, "event_id", "$")
        await self._limiter.ratelimit(requester)
        user_id = requester.user.to_string()

        def report_bad(error: Exception) -> None:
            self._failures.report(Fallback.EXPLAIN, user_id, error)

        facts = await self._api.run_db_interaction(
            "msc3881_explain",
            read_facts,
            user_id,
            event_id,
            report_bad,
            seams.default_rule_names(),
        )
        if facts is None or not await self._may_see(requester.user, room_id, facts.event):
            raise seams.NotFoundError("There is no such event, or you may not see it")
        return HTTPStatus.OK, as_json(explain(facts, int(time.time() * 1000)))

    async def _may_see(self, user: UserID, room_id: str, event: Event) -> bool:
        """Whether the user may know about the event, which must be in that room.

        Synapse decides; but it hides an invite from the user whom it is for until they join,
        although they have received it by sync, and it rang.
        """
        if event.is_own_membership and event.room_id == room_id:
            return True
        return await seams.may_see(self._hs, user, room_id, event.event_id)


def _check_id(value: str, name: str, sigil: str) -> None:
    if not value.startswith(sigil) or "\0" in value or len(value.encode("utf-8")) > _MAX_BYTES:
        raise SynapseError(
            HTTPStatus.BAD_REQUEST,
            f"'{name}' must start with {sigil!r} and have at most {_MAX_BYTES} bytes, "
            "none of them null",
            Codes.INVALID_PARAM,
        )
