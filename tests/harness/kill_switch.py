# SPDX-License-Identifier: AGPL-3.0-or-later
"""A Synapse module for tests: stops requests after so many transactions, to be killed there.

``PUT /_test/stop?after=3``: of each request from now on, once its third transaction of `WRITES` is
committed, nothing more happens. After 0 they go on as ever. ``GET`` tells whose have stopped.
"""

import json
from collections import Counter
from typing import Any

from synapse.logging.context import current_context, make_deferred_yieldable
from synapse.module_api import ModuleApi
from twisted.internet.defer import Deferred
from twisted.web.resource import Resource
from twisted.web.server import Request

PATH = "/_test/stop"

#: How the names begin of the transactions that count: writes of pushers and the module's own
#: ones. What a read finds may be for several requests: these would stop too.
WRITES = ("add_pusher", "delete_", "msc3881_put_", "msc3881_delete_")

MODULE = {"module": "tests.harness.kill_switch.KillSwitch", "config": {}}


class KillSwitch:
    """Serves `PATH` on each HTTP listener of the process."""

    def __init__(self, config: Any, api: ModuleApi) -> None:
        del config
        api.register_web_resource(PATH, _StopResource(api._hs.get_datastores().main.db_pool))


class _StopResource(Resource):
    isLeaf = True  # noqa: N815 - Twisted's name

    def __init__(self, db_pool: Any) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._after = 0
        self._made: Counter[str] = Counter()
        # Each with what it waits for: or else it would be closed as garbage, and tidy up.
        self._stopped: list[tuple[str, Deferred[None]]] = []
        native = db_pool.runInteraction

        async def run_interaction(*args: Any, **kwargs: Any) -> Any:
            result = await native(*args, **kwargs)
            request = getattr(current_context(), "request", None)
            if request is not None and (kwargs.get("desc") or args[0]).startswith(WRITES):
                self._made[request.request_id] += 1
                if self._made[request.request_id] == self._after:
                    never: Deferred[None] = Deferred()
                    self._stopped.append((str(request.requester), never))
                    await make_deferred_yieldable(never)
            return result

        db_pool.runInteraction = run_interaction

    def render_PUT(self, request: Request) -> bytes:
        self._after = int(request.args[b"after"][0])
        return b"{}"

    def render_GET(self, _request: Request) -> bytes:
        return json.dumps([requester for requester, _ in self._stopped]).encode()
