# SPDX-License-Identifier: AGPL-3.0-or-later
"""A Synapse module for tests: holds the start of the pushers once they are read.

With thousands of pushers a start takes seconds; here it takes until ``PUT /_test/release``. What
is asked of the server in between finds it as it is at such a start. It comes after ours in the
config.
"""

from collections.abc import Iterator
from typing import Any

from synapse.logging.context import make_deferred_yieldable
from synapse.module_api import ModuleApi
from twisted.internet.defer import Deferred
from twisted.web.resource import Resource
from twisted.web.server import Request

PATH = "/_test/release"
MODULE = {"module": "tests.harness.held_start.HeldStart", "config": {}}


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


class _ReleaseResource(Resource):
    isLeaf = True  # noqa: N815 - Twisted's name

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.held = False
        self.released: Deferred[None] = Deferred()

    def render_GET(self, _request: Request) -> bytes:
        """Whether the pushers are read."""
        return b"true" if self.held else b"false"

    def render_PUT(self, _request: Request) -> bytes:
        if not self.released.called:
            self.released.callback(None)
        return b"{}"
