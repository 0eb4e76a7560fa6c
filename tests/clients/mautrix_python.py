# SPDX-License-Identifier: AGPL-3.0-or-later
"""mautrix. It can write and delete push rules, and has no API for pushers."""

import asyncio
from collections.abc import Awaitable, Sequence
from typing import Any, TypeVar

from mautrix.api import HTTPAPI, Method, Path
from mautrix.client import ClientAPI
from mautrix.types import (
    PushAction,
    PushActionDict,
    PushActionType,
    PushCondition,
    PushRuleKind,
    PushRuleScope,
    UserID,
)

from demo.client import JsonDict
from tests.clients.libraries import Action, Ring

T = TypeVar("T")

_SYNC_MILLISECONDS = 30_000


class MautrixSession:
    """A session of mautrix."""

    def __init__(self, base_url: str, user_id: str, password: str, device_id: str) -> None:
        self.device_id = device_id
        self._since: Any = None
        self._rules: JsonDict = {}
        self._seen: set[tuple[str, str]] = set()
        self._loop = asyncio.new_event_loop()
        self._client = self._run(self._make_client(base_url, user_id))
        self._run(self._client.login(UserID(user_id), password=password, device_id=device_id))

    def set_pusher(self, pusher: JsonDict) -> None:
        self._request(Method.POST, Path.v3.pushers.set, pusher)

    def get_pushers(self) -> list[JsonDict]:
        pushers: list[JsonDict] = self._request(Method.GET, Path.v3.pushers)["pushers"]
        return pushers

    def put_rule(self, scope: str, kind: str, rule_id: str, body: JsonDict) -> None:
        self._run(
            self._client.set_push_rule(
                *_where(scope, kind, rule_id),
                actions=[_action(action) for action in body["actions"]],
                conditions=[PushCondition.deserialize(each) for each in body.get("conditions", ())],
                pattern=body.get("pattern"),
            )
        )

    def set_rule_enabled(self, scope: str, kind: str, rule_id: str, enabled: bool) -> None:
        where = Path.v3.pushrules[scope][kind][rule_id].enabled
        self._request(Method.PUT, where, {"enabled": enabled})

    def set_rule_actions(
        self, scope: str, kind: str, rule_id: str, actions: Sequence[Action]
    ) -> None:
        where = Path.v3.pushrules[scope][kind][rule_id].actions
        self._request(Method.PUT, where, {"actions": list(actions)})

    def delete_rule(self, scope: str, kind: str, rule_id: str) -> None:
        self._run(self._client.remove_push_rule(*_where(scope, kind, rule_id)))

    def next_push_rules(self) -> JsonDict:
        while not self._sync():
            pass
        return self._rules

    def sync_to(self, room_id: str, event_id: str) -> JsonDict:
        while (room_id, event_id) not in self._seen:
            self._sync()
        return self._rules

    def ring_for(self, room_id: str, event_id: str) -> Ring:
        raise NotImplementedError

    def close(self) -> None:
        self._run(self._client.api.session.close())
        self._loop.close()

    @staticmethod
    async def _make_client(base_url: str, user_id: str) -> ClientAPI:
        # It wants a running loop.
        return ClientAPI(UserID(user_id), api=HTTPAPI(base_url))

    def _sync(self) -> bool:
        """Sync once; whether push rules came."""
        body: Any = self._run(self._client.sync(self._since, _SYNC_MILLISECONDS))
        self._since = body["next_batch"]
        for room_id, room in body.get("rooms", {}).get("join", {}).items():
            self._seen.update((room_id, event["event_id"]) for event in room["timeline"]["events"])
        events = body.get("account_data", {}).get("events", [])
        found = [event["content"] for event in events if event["type"] == "m.push_rules"]
        self._rules = (found or [self._rules])[-1]
        return bool(found)

    def _run(self, call: Awaitable[T]) -> T:
        return self._loop.run_until_complete(call)

    def _request(self, method: Method, where: Any, body: JsonDict | None = None) -> Any:
        return self._run(self._client.api.request(method, where, body))


def _where(scope: str, kind: str, rule_id: str) -> tuple[PushRuleScope, PushRuleKind, str]:
    return PushRuleScope(scope), PushRuleKind(kind), rule_id


def _action(action: Action) -> PushAction:
    if isinstance(action, str):
        return PushActionType(action)
    return PushActionDict(action["set_tweak"], action.get("value"))


class Mautrix:
    def login(self, base_url: str, user_id: str, password: str, device_id: str) -> MautrixSession:
        return MautrixSession(base_url, user_id, password, device_id)
