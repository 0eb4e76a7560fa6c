# SPDX-License-Identifier: AGPL-3.0-or-later
"""A Synapse module for tests: says how far each process has come in the replication streams.

A test that writes on one process of a cluster and reads on another would race with the
replication between them. With this it can wait for exactly as long as that takes.
"""

import json
from typing import Any

from synapse.module_api import ModuleApi
from twisted.web.resource import Resource
from twisted.web.server import Request

PATH = "/_test/positions"

#: What a client, or a pusher, may notice.
STREAMS = ("account_data", "caches", "events", "push_rules", "pushers", "receipts")


class Positions:
    """Serves `PATH` on each HTTP listener of the process."""

    def __init__(self, _config: Any = None, api: ModuleApi | None = None, **other: Any) -> None:
        # Synapse passes the first by position, and may pass it by name.
        del other
        assert api is not None
        api.register_web_resource(PATH, _PositionsResource(api._hs))


class _PositionsResource(Resource):
    isLeaf = True  # noqa: N815 - Twisted's name

    def __init__(self, hs: Any) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._hs = hs
        self._changing_pushers = 0
        self._count_changes_of_pushers()

    def render_GET(self, _request: Request) -> bytes:
        """`written`: this process's own positions; `seen`: those of all, as it knows them."""
        handler = self._hs.get_replication_command_handler()
        instances = ["master", *self._hs.config.worker.instance_map]
        streams = handler.get_streams()
        answer = {
            "busy": self._changing_pushers > 0,
            "instance": self._hs.get_instance_name(),
            "written": {
                stream.NAME: _written(stream)
                for stream in handler.get_streams_to_replicate()
                if stream.NAME in STREAMS
            },
            "seen": {
                name: {instance: streams[name].current_token(instance) for instance in instances}
                for name in STREAMS
            },
        }
        return json.dumps(answer).encode()

    def _count_changes_of_pushers(self) -> None:
        """A pusher changes some time after its process has heard of what concerns it.

        It starts or stops; or what is read of a user's pushers tells by whose settings they go.
        """
        self._count_calls(self._hs.get_pusherpool(), "process_pusher_change_by_id")
        self._count_calls(self._hs.get_datastores().main, "get_pushers_by_user_id")

    def _count_calls(self, of: Any, name: str) -> None:
        native = getattr(of, name)

        async def counted(*args: Any, **kwargs: Any) -> Any:
            self._changing_pushers += 1
            try:
                return await native(*args, **kwargs)
            finally:
                self._changing_pushers -= 1

        setattr(of, name, counted)


def _written(stream: Any) -> int:
    """Up to where this process has written to a stream, and answered those who had it written.

    What is done may have to wait for something with a lower number before it is told to others.
    """
    token: int = stream.minimal_local_current_token()
    numbers = stream.store._cache_id_gen if stream.NAME == "caches" else stream._stream_id_gen
    with numbers._lock:
        done: list[int] = list(numbers._finished_ids)
    return max([token, *done])
