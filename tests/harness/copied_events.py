# SPDX-License-Identifier: AGPL-3.0-or-later
"""A Synapse module for tests: has very many events arrive, as copies of one that did.

``PUT /_test/copies?event=…&count=…``: the rows of the event in `events` and `event_push_actions`
are written again under new stream orderings, some hundred in a transaction, and the pusher pool is
told of each lot as Synapse tells it of new events. What is left out is what pushers that drop them
do not see: the events' content and the state of their room.
"""

import json
from typing import Any
from urllib.parse import urlencode

from synapse.module_api import ModuleApi
from twisted.internet import defer
from twisted.python.failure import Failure
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET

from tests.harness.deployment import Deployment

PATH = "/_test/copies"
MODULE = {"module": "tests.harness.copied_events.CopiedEvents", "config": {}}

_LOT = 500

_COPY = """
    WITH RECURSIVE copy (number) AS (
        SELECT 0 UNION ALL SELECT number + 1 FROM copy WHERE number + 1 < ?
    )
    INSERT INTO {table} ({columns})
    SELECT {values} FROM {table} CROSS JOIN copy WHERE event_id = ?
"""


def copy(deployment: Deployment, event_id: str, count: int) -> int:
    """Have an event arrive so many times more; returns the newest stream ordering.

    The deployment runs `MODULE`, and nobody else sends anything meanwhile.
    """
    somebody = deployment.register()
    asked = urlencode({"event": event_id, "count": count})
    newest: int = somebody.call("PUT", f"{PATH}?{asked}", timeout=600)["newest"]
    return newest


class CopiedEvents:
    """Serves `PATH` on each HTTP listener of the process."""

    def __init__(self, config: Any, api: ModuleApi) -> None:
        del config
        api.register_web_resource(PATH, _CopyResource(api._hs))


class _CopyResource(Resource):
    isLeaf = True  # noqa: N815 - Twisted's name

    def __init__(self, hs: Any) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._hs = hs

    def render_PUT(self, request: Any) -> int:
        event_id = request.args[b"event"][0].decode()
        count = int(request.args[b"count"][0])

        def answer(result: Any) -> None:
            if isinstance(result, Failure):
                request.setResponseCode(500)
                request.write(result.getTraceback().encode())
            else:
                request.write(json.dumps({"newest": result}).encode())
            request.finish()

        defer.ensureDeferred(self._copy(event_id, count)).addBoth(answer)
        return NOT_DONE_YET

    async def _copy(self, event_id: str, count: int) -> int:
        store = self._hs.get_datastores().main
        pool = self._hs.get_pusherpool()
        while count:
            lot = min(count, _LOT)
            count -= lot
            async with store._stream_id_gen.get_next_mult(lot) as orderings:
                first = orderings[0]
                assert list(orderings) == list(range(first, first + lot)), "somebody else writes"
                await store.db_pool.runInteraction(
                    "copy_events", self._copy_txn, event_id, first, lot
                )
            await pool._on_new_notifications(store.get_room_max_token())
        return int(store.get_room_max_stream_ordering())

    def _copy_txn(self, txn: Any, event_id: str, first: int, lot: int) -> None:
        for table in ("events", "event_push_actions"):
            txn.execute(f"SELECT * FROM {table} LIMIT 0")
            columns = [column[0] for column in txn.description]
            changed = {
                "event_id": f"'$copy-' || ({first} + number)",
                "stream_ordering": f"{first} + number",
            }
            values = ", ".join(changed.get(column, column) for column in columns)
            statement = _COPY.format(table=table, columns=", ".join(columns), values=values)
            txn.execute(statement, (lot, event_id))
