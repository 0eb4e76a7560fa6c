# SPDX-License-Identifier: AGPL-3.0-or-later
"""A Synapse module for tests: does what a soak is there to find.

``PUT /_test/soak?do=lose``: the next push but some is lost. ``do=grow``: from then on each event
takes memory that is not given back.
"""

from typing import Any

from synapse.module_api import ModuleApi
from twisted.web.resource import Resource
from twisted.web.server import Request

from synapse_msc3881.delivery.backlog import Backlog

PATH = "/_test/soak"
MODULE = {"module": "tests.soak.saboteur.Saboteur", "config": {}}

_LOST = 10
_LEAK = 2 << 20


class Saboteur:
    """Serves `PATH` on each HTTP listener of the process."""

    def __init__(self, config: Any, api: ModuleApi) -> None:
        del config
        self.does = ""
        self._leak: list[bytes] = []
        self._left = _LOST
        api.register_web_resource(PATH, _SaboteurResource(self))
        api.register_third_party_rules_callbacks(on_new_event=self._on_new_event)
        native = Backlog.offer

        def offer(backlog: Backlog, rows: Any, after: int, upto: int, missed_to: int) -> bool:
            wakes = native(backlog, rows, after, upto, missed_to)
            if self.does == "lose" and wakes:
                self._left -= 1
                if self._left == 0:
                    backlog._forget(upto)
                    return False
            return wakes

        setattr(Backlog, "offer", offer)  # noqa: B010 - a method is replaced

    async def _on_new_event(self, *_: object) -> None:
        if self.does == "grow":
            self._leak.append(bytes([1]) * _LEAK)


class _SaboteurResource(Resource):
    isLeaf = True  # noqa: N815 - Twisted's name

    def __init__(self, saboteur: Saboteur) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._saboteur = saboteur

    def render_PUT(self, request: Request) -> bytes:
        self._saboteur.does = request.args[b"do"][0].decode()
        return b"{}"
