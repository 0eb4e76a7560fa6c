# SPDX-License-Identifier: AGPL-3.0-or-later
"""Synapse modules for tests: hold what takes a moment, until ``PUT /_test/release``.

`HELD_START` holds the start of the pushers once they are read, which takes seconds with thousands
of them; `HELD_SET` the write of a pusher once it is checked. What is asked of the server in between
finds it as it is then. With `SLOW_READ`, each read of a user's pushers takes `READ_SECONDS`, as
from a busy database. They come after ours in the config.
"""

from collections.abc import Iterator
from typing import Any

from synapse.logging.context import make_deferred_yieldable
from synapse.module_api import ModuleApi
from twisted.internet.defer import Deferred
from twisted.web.resource import Resource
from twisted.web.server import Request

PATH = "/_test/release"
HELD_START = {"module": "tests.harness.held_start.HeldStart", "config": {}}
HELD_SET = {"module": "tests.harness.held_start.HeldSet", "config": {}}
SLOW_READ = {"module": "tests.harness.held_start.SlowRead", "config": {}}

#: Much longer than two requests take.
READ_SECONDS = 0.7


class HeldStart:
    """Serves `PATH` on each HTTP listener of the process."""

    def __init__(self, config: Any, api: ModuleApi) -> None:
        del config
        store: Any = api._hs.get_datastores().main
        native = store.get_enabled_pushers
        release = _ReleaseResource()

        async def get_enabled_pushers() -> Iterator[Any]:
            read: Iterator[Any] = await native()
            release.held = True
            await make_deferred_yieldable(release.released)
            return read

        store.get_enabled_pushers = get_enabled_pushers
        api.register_web_resource(PATH, release)


class HeldSet:
    """Serves `PATH` on each HTTP listener of the process."""

    def __init__(self, config: Any, api: ModuleApi) -> None:
        del config
        store: Any = api._hs.get_datastores().main
        native = store.add_pusher
        release = _ReleaseResource()

        async def add_pusher(*args: Any, **kwargs: Any) -> None:
            release.held = True
            await make_deferred_yieldable(release.released)
            await native(*args, **kwargs)

        store.add_pusher = add_pusher
        api.register_web_resource(PATH, release)


class SlowRead:
    """Has what reads pushers wait."""

    def __init__(self, config: Any, api: ModuleApi) -> None:
        del config
        store: Any = api._hs.get_datastores().main
        native = store.get_pushers_by

        async def get_pushers_by(*args: Any, **kwargs: Any) -> Iterator[Any]:
            await api.sleep(READ_SECONDS)
            read: Iterator[Any] = await native(*args, **kwargs)
            return read

        store.get_pushers_by = get_pushers_by


class _ReleaseResource(Resource):
    isLeaf = True  # noqa: N815 - Twisted's name

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.held = False
        self.released: Deferred[None] = Deferred()

    def render_GET(self, _request: Request) -> bytes:
        """Whether something is held."""
        return b"true" if self.held else b"false"

    def render_PUT(self, _request: Request) -> bytes:
        if not self.released.called:
            self.released.callback(None)
        return b"{}"
