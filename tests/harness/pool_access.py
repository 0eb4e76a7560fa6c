# SPDX-License-Identifier: AGPL-3.0-or-later
"""A Synapse module for tests: looks into a process's pool of pushers, and has it reject a pushkey.

``GET /_test/pool?pushkey=`` gives the users whose pushers run there for a pushkey, each with the
profile tags that it walks; and of those that walk none, by which device's own settings they go.
``PUT /_test/pool?pushkey=&app_id=&user_id=`` does what a pusher does whose gateway rejects the
pushkey, and answers when that is done.
"""

import inspect
from typing import Any

from synapse.module_api import DirectServeJsonResource, ModuleApi
from twisted.web.server import Request

from synapse_msc3881.delivery.pusher_store import PusherStore

PATH = "/_test/pool"
MODULE = {"module": "tests.harness.pool_access.PoolAccess", "config": {}}


class PoolAccess:
    """Serves `PATH` on each HTTP listener of the process."""

    def __init__(self, config: Any, api: ModuleApi) -> None:
        del config
        api.register_web_resource(PATH, _PoolResource(api))


class _PoolResource(DirectServeJsonResource):
    isLeaf = True  # noqa: N815 - Twisted's name

    def __init__(self, api: ModuleApi) -> None:
        hs: Any = api._hs
        # Newer versions want the clock, which older ones do not take.
        takes_clock = "clock" in inspect.signature(DirectServeJsonResource.__init__).parameters
        super().__init__(**({"clock": hs.get_clock()} if takes_clock else {}))
        self._pool = hs.get_pusherpool()

    async def _async_render_GET(self, request: Request) -> tuple[int, Any]:
        wanted = _argument(request, "pushkey")
        found = [
            (user_id, pusher)
            for user_id, pushers in self._pool.pushers.items()
            for pusher in pushers.values()
            if pusher.pushkey == wanted
        ]
        running = [[user_id, _tags_of(pusher)] for user_id, pusher in found]
        own = [_own_of(pusher) for _, pusher in found if _tags_of(pusher) == ["global"]]
        return 200, {"running": sorted(running), "own": own}

    async def _async_render_PUT(self, request: Request) -> tuple[int, Any]:
        names = ("app_id", "pushkey", "user_id")
        await self._pool.remove_pusher(*(_argument(request, name) for name in names))
        return 200, {}


def _argument(request: Request, name: str) -> str:
    value: bytes = request.args[name.encode()][0]
    return value.decode()


def _own_of(pusher: Any) -> str | None:
    return pusher.store.backlog.own if isinstance(pusher.store, PusherStore) else None


def _tags_of(pusher: Any) -> list[str]:
    if isinstance(pusher.store, PusherStore):
        return list(pusher.store.backlog.tags)
    return ["global"]
