# SPDX-License-Identifier: AGPL-3.0-or-later
"""matrix-nio. It has an API for push rules and none for pushers."""

import asyncio
import json
from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar

import nio

from demo.client import JsonDict, path
from tests.clients.libraries import Action, Ring, ring_of

T = TypeVar("T")

_SYNC_MILLISECONDS = 30_000
_ALL_EVENTS: dict[str, Any] = {"room": {"timeline": {"limit": 50}}}


class NioSession:
    """A session of matrix-nio.

    Attributes:
        seen: the push rules as the library last understood them.
    """

    def __init__(self, base_url: str, user_id: str, password: str, device_id: str) -> None:
        self.device_id = device_id
        self.seen: nio.PushRulesEvent | None = None
        self._rules: JsonDict = {}
        self._events: dict[tuple[str, str], nio.Event] = {}
        self._loop = asyncio.new_event_loop()
        self._client = nio.AsyncClient(base_url, user_id, device_id=device_id)
        self._run(self._client.login(password))

    def set_pusher(self, pusher: JsonDict) -> None:
        self._request("POST", path("pushers", "set"), pusher)

    def get_pushers(self) -> list[JsonDict]:
        pushers: list[JsonDict] = self._request("GET", path("pushers"))["pushers"]
        return pushers

    def put_rule(self, scope: str, kind: str, rule_id: str, body: JsonDict) -> None:
        conditions = [nio.PushCondition.from_dict(each) for each in body.get("conditions", ())]
        self._run(
            self._client.set_pushrule(
                scope,
                nio.PushRuleKind(kind),
                rule_id,
                actions=_actions(body["actions"]),
                conditions=conditions or None,
                pattern=body.get("pattern"),
            )
        )

    def set_rule_enabled(self, scope: str, kind: str, rule_id: str, enabled: bool) -> None:
        where = scope, nio.PushRuleKind(kind), rule_id
        self._run(self._client.enable_pushrule(*where, enabled))

    def set_rule_actions(
        self, scope: str, kind: str, rule_id: str, actions: Sequence[Action]
    ) -> None:
        where = scope, nio.PushRuleKind(kind), rule_id
        self._run(self._client.set_pushrule_actions(*where, _actions(actions)))

    def delete_rule(self, scope: str, kind: str, rule_id: str) -> None:
        self._run(self._client.delete_pushrule(scope, nio.PushRuleKind(kind), rule_id))

    def next_push_rules(self) -> JsonDict:
        while not self._sync():
            pass
        return self._rules

    def sync_to(self, room_id: str, event_id: str) -> JsonDict:
        while (room_id, event_id) not in self._events:
            self._sync()
        return self._rules

    def ring_for(self, room_id: str, event_id: str) -> Ring:
        assert self.seen is not None
        event, room = self._events[room_id, event_id], self._client.rooms[room_id]
        name = room.user_name(self._client.user_id) or ""
        rule = self.seen.global_rules.matching_rule(event, room, name)
        actions = [] if rule is None else rule.actions
        if nio.PushNotify() not in actions:
            return None
        return ring_of({a.tweak: a.value for a in actions if isinstance(a, nio.PushSetTweak)})

    def close(self) -> None:
        self._loop.run_until_complete(self._client.close())
        self._loop.close()

    def _sync(self) -> bool:
        """Sync once; whether push rules came."""
        response = self._run(self._client.sync(_SYNC_MILLISECONDS, _ALL_EVENTS))
        for room_id, room in response.rooms.join.items():
            self._events.update({(room_id, e.event_id): e for e in room.timeline.events})
        for event in response.account_data_events:
            if isinstance(event, nio.PushRulesEvent):
                self.seen = event
        # As the library keeps it, the content has lost what it does not know of.
        body = self._loop.run_until_complete(response.transport_response.json())
        events = body.get("account_data", {}).get("events", [])
        found = [event["content"] for event in events if event["type"] == "m.push_rules"]
        self._rules = (found or [self._rules])[-1]
        return bool(found)

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
