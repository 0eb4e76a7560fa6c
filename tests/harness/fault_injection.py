# SPDX-License-Identifier: AGPL-3.0-or-later
"""A Synapse module for tests: makes one of our points fail, in a running process.

``PUT /_test/fail?point=compile`` makes that point raise from then on, ``point=`` none of them.
It comes after ours in the config. Points are named in `POINTS`.
"""

from collections.abc import Callable
from typing import Any

from synapse.module_api import ModuleApi
from twisted.web.resource import Resource
from twisted.web.server import Request

from synapse_msc3881.evaluation import device_scopes, evaluator
from synapse_msc3881.storage import push_actions
from synapse_msc3881.storage.pusher_positions import PusherPositionStore
from synapse_msc3881.storage.pusher_tags import PusherTagStore

PATH = "/_test/fail"

#: Each point with the object and the name of what is to raise there.
POINTS: dict[str, tuple[Any, str]] = {
    "load": (PusherTagStore, "of_users"),
    "compile": (device_scopes, "Compilation"),
    "evaluate": (evaluator, "match_scopes"),
    "serialise": (evaluator, "with_outcomes"),
    "fire": (push_actions, "read_outcomes"),
    "move": (PusherPositionStore, "move"),
}


class InjectedError(Exception):
    """What the points raise."""


class FaultInjection:
    """Serves `PATH` on each HTTP listener of the process."""

    def __init__(self, config: Any, api: ModuleApi) -> None:
        del config
        api.register_web_resource(PATH, _FaultResource())


class _FaultResource(Resource):
    isLeaf = True  # noqa: N815 - Twisted's name

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._point = ""
        for point, (target, name) in POINTS.items():
            setattr(target, name, self._failing(point, getattr(target, name)))

    def _failing(self, point: str, native: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            if self._point == point:
                raise InjectedError(f"injected at {point}: secret-rule-text")
            return native(*args, **kwargs)

        return call

    def render_PUT(self, request: Request) -> bytes:
        self._point = request.args[b"point"][0].decode()
        return b"{}"
