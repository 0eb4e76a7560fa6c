# SPDX-License-Identifier: AGPL-3.0-or-later
"""matrix-nio. It has an API for push rules and none for pushers."""

import asyncio
import json
from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar

import nio

from demo.client import JsonDict, path
from tests.clients.libraries import Action

T = TypeVar("T")

_SYNC_MILLISECONDS = 30_000


class NioSession:
    """A session of matrix-nio.

    Attributes:
        seen: the push rules as the library last understood them.
    """

    def __init__(self, base_url: str, user_id: str, password: str, device_id: str) -> None:
        self.device_id = device_id
        self.seen: nio.PushRulesEvent | None = None
        self._loop = asyncio.new_event_loop()
        self._client = nio.AsyncClient(base_url, user_id, device_id=device_id)
        self._run(self._client.login(password))

    def set_pusher(self, pusher: JsonDict) -> None:
        self._request("POST", path("pushers", "set"), pusher)

    def get_pushers(self) -> list[JsonDict]:
        pushers: list[JsonDict] = self._request("GET", path("pushers"))["pushers"]
        return pushers

    def put_room_rule(self, scope: str, room_id: str, actions: Sequence[Action]) -> None:
        parsed = _actions(actions)
        self._run(self._client.set_pushrule(scope, nio.PushRuleKind.room, room_id, actions=parsed))

    def set_room_rule_enabled(self, scope: str, room_id: str, enabled: bool) -> None:
        self._run(self._client.enable_pushrule(scope, nio.PushRuleKind.room, room_id, enabled))

    def set_room_rule_actions(self, scope: str, room_id: str, actions: Sequence[Action]) -> None:
        parsed = _actions(actions)
        self._run(self._client.set_pushrule_actions(scope, nio.PushRuleKind.room, room_id, parsed))

    def delete_room_rule(self, scope: str, room_id: str) -> None:
        self._run(self._client.delete_pushrule(scope, nio.PushRuleKind.room, room_id))

    def next_push_rules(self) -> JsonDict:
        while True:
            response = self._run(self._client.sync(_SYNC_MILLISECONDS))
            for event in response.account_data_events:
                if isinstance(event, nio.PushRulesEvent):
                    self.seen = event
            # As the library keeps it, the content has lost what it does not know of.
            body = self._loop.run_until_complete(response.transport_response.json())
            for event in body.get("account_data", {}).get("events", []):
                if event["type"] == "m.push_rules":
                    content: JsonDict = event["content"]
                    return content

    def close(self) -> None:
        self._loop.run_until_complete(self._client.close())
        self._loop.close()

    def _run(self, call: Coroutine[Any, Any, T]) -> T:
        response = self._loop.run_until_complete(call)
        # It returns its errors.
        assert not isinstance(response, nio.ErrorResponse), response
        return response

    def _request(self, method: str, where: str, body: JsonDict | None = None) -> Any:
        """Send what the library has no API for, by its connection and with its token."""
        headers = {"Authorization": f"Bearer {self._client.access_token}"}
        content = None if body is None else json.dumps(body)
        response = self._run(self._client.send(method, where, content, headers))
        answer = self._loop.run_until_complete(response.json())
        assert response.status == 200, (response.status, answer)
        return answer


def _actions(actions: Sequence[Action]) -> list[nio.PushAction]:
    return [nio.PushAction.from_dict(action) for action in actions]


class MatrixNio:
    def login(self, base_url: str, user_id: str, password: str, device_id: str) -> NioSession:
        return NioSession(base_url, user_id, password, device_id)
