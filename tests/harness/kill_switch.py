# SPDX-License-Identifier: AGPL-3.0-or-later
"""A Synapse module for tests: ends its process after so many more transactions.

``PUT /_test/kill?after=3``: once the third transaction of `WRITES` from now on is committed,
nothing more happens, as with `kill -9`. 0 is never.
"""

import os
import signal
from typing import Any

from synapse.module_api import ModuleApi
from twisted.web.resource import Resource
from twisted.web.server import Request

PATH = "/_test/kill"

#: How the names begin of the transactions that count: those that write pushers, and the module's.
WRITES = ("add_pusher", "delete_pusher", "delete_all_pushers", "msc3881_")

MODULE = {"module": "tests.harness.kill_switch.KillSwitch", "config": {}}


class KillSwitch:
    """Serves `PATH` on each HTTP listener of the process."""

    def __init__(self, config: Any, api: ModuleApi) -> None:
        del config
        api.register_web_resource(PATH, _KillResource(api._hs.get_datastores().main.db_pool))


class _KillResource(Resource):
    isLeaf = True  # noqa: N815 - Twisted's name

    def __init__(self, db_pool: Any) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._left = 0
        native = db_pool.runInteraction

        async def run_interaction(*args: Any, **kwargs: Any) -> Any:
            result = await native(*args, **kwargs)
            if (kwargs.get("desc") or args[0]).startswith(WRITES):
                self._left -= 1
                if self._left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
            return result

        db_pool.runInteraction = run_interaction

    def render_PUT(self, request: Request) -> bytes:
        self._left = int(request.args[b"after"][0])
        return b"{}"
