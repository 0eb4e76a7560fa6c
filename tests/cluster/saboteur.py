# SPDX-License-Identifier: AGPL-3.0-or-later
"""A Synapse module for tests: stops a process at a given point, to be killed there.

``PUT /_test/stop?user=@alice:…`` on a process: the next event that this user sends there is
evaluated, its push actions are staged, and then nothing more happens to it. ``GET`` tells whether
one got that far.
"""

import json
from typing import Any

from synapse.module_api import ModuleApi
from twisted.internet.defer import Deferred
from twisted.web.resource import Resource
from twisted.web.server import Request

PATH = "/_test/stop"


class Saboteur:
    """Serves `PATH` on each HTTP listener of the process."""

    def __init__(self, config: Any, api: ModuleApi) -> None:
        del config
        api.register_web_resource(PATH, _SaboteurResource(api._hs))


class _SaboteurResource(Resource):
    isLeaf = True  # noqa: N815 - Twisted's name

    def __init__(self, hs: Any) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._victims: set[str] = set()
        self._stopped = 0
        evaluator = hs.get_bulk_push_rule_evaluator()
        native = evaluator.action_for_events_by_user

        async def action_for_events_by_user(events: Any, *args: Any, **kwargs: Any) -> None:
            await native(events, *args, **kwargs)
            if any(event.sender in self._victims for event, _ in events):
                self._stopped += 1
                await Deferred()

        evaluator.action_for_events_by_user = action_for_events_by_user

    def render_PUT(self, request: Request) -> bytes:
        self._victims = {user.decode() for user in request.args[b"user"]}
        return b"{}"

    def render_GET(self, _request: Request) -> bytes:
        return json.dumps({"stopped": self._stopped}).encode()
