# SPDX-License-Identifier: AGPL-3.0-or-later
"""A small synchronous Matrix client."""

import http.client
import json
import select
import socket
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

import attr

JsonDict = dict[str, Any]

# Which base URL ("http://127.0.0.1:8008") serves this method and path.
Route = Callable[[str, str], str]

CLIENT = "/_matrix/client/v3"

_TIMEOUT_SECONDS = 60.0


@attr.s(auto_attribs=True, frozen=True)
class Response:
    """What a server answered.

    Attributes:
        json: the parsed body, None where it is not JSON.
        headers: by their names in lower case.
    """

    status: int
    json: Any
    headers: Mapping[str, str]
    body: bytes = b""

    @property
    def ok(self) -> bool:
        return 200 <= self.status < 300

    @property
    def errcode(self) -> str | None:
        """The Matrix error code, such as M_NOT_FOUND; None where there is none."""
        return self.json.get("errcode") if isinstance(self.json, dict) else None


class MatrixError(Exception):
    """A request was answered with something other than a 2xx."""

    def __init__(self, method: str, path: str, response: Response) -> None:
        super().__init__(f"{method} {path} gave {response.status}: {response.body[:500]!r}")
        self.response = response


def path(*parts: str, query: Mapping[str, Any] | None = None) -> str:
    """A client API path from parts that are not encoded yet; `query` leaves out what is None."""
    asked = {name: value for name, value in (query or {}).items() if value is not None}
    encoded = "/".join([CLIENT, *(quote(part, safe="") for part in parts)])
    return f"{encoded}?{urlencode(asked)}" if asked else encoded


def rules_path(scope: str, *parts: str, query: Mapping[str, Any] | None = None) -> str:
    """The path of a push rule, or of part of one.

    Args:
        scope: "global", or the profile tag of a device scope.
        parts: kind, rule id, "enabled" or "actions", as far as wanted.
    """
    scopes = ("global",) if scope == "global" else ("device", scope)
    return path("pushrules", *scopes, *parts, query=query)


@attr.s(auto_attribs=True, kw_only=True)
class Session:
    """One logged-in device. Not thread safe: it keeps its connections open.

    Attributes:
        route: which server takes a request; a function, because there may be several workers,
            and because a server may come back on another port.
    """

    route: Route = attr.ib(repr=False)
    user_id: str = ""
    device_id: str = ""
    access_token: str = attr.ib(default="", repr=False)
    _connections: dict[str, http.client.HTTPConnection] = attr.ib(
        factory=dict, init=False, repr=False
    )

    # Requests

    def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        raw_body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        token: bool = True,
        timeout: float = _TIMEOUT_SECONDS,
    ) -> Response:
        """Send one request and return the answer, whatever its status.

        Args:
            path: sent exactly as it is, so already percent-encoded.
            body: sent as JSON; None for no body.
            raw_body: sent as it is, in place of `body`.
            headers: further ones; they win over ours.
            token: whether to send the access token.
            timeout: seconds without a byte of the answer.
        """
        content = raw_body
        if content is None and body is not None:
            content = json.dumps(body).encode()
        sent = {"Authorization": f"Bearer {self.access_token}"} if token else {}
        if content is not None:
            sent["Content-Type"] = "application/json"
        connection = self._connection(self.route(method, path), timeout)
        try:
            connection.request(method, path, content, {**sent, **(headers or {})})
            answer = connection.getresponse()
            received = answer.read()
        except BaseException:
            # Whatever it was: the connection is in the middle of something.
            connection.close()
            raise
        lower = {name.lower(): value for name, value in answer.getheaders()}
        return Response(answer.status, _parse(received), lower, received)

    def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        raw_body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        token: bool = True,
        timeout: float = _TIMEOUT_SECONDS,
    ) -> Any:
        """Like `request`, and return the parsed body of a 2xx.

        Raises:
            MatrixError: for any other status.
        """
        response = self.request(
            method, path, body, raw_body=raw_body, headers=headers, token=token, timeout=timeout
        )
        if not response.ok:
            raise MatrixError(method, path, response)
        return response.json

    def close(self) -> None:
        """Close the connections; the next request opens new ones."""
        for connection in self._connections.values():
            connection.close()

    def _connection(self, base_url: str, timeout: float) -> http.client.HTTPConnection:
        connection = self._connections.get(base_url)
        if connection is None:
            connection = http.client.HTTPConnection(urlsplit(base_url).netloc)
            self._connections[base_url] = connection
        kept: socket.socket | None = connection.sock
        # Nothing is due on an idle connection, so what can be read is its end. Looking first
        # is better than trying again after: a request must not be sent twice.
        if kept is not None and select.select([kept], [], [], 0)[0]:
            connection.close()
            kept = None
        connection.timeout = timeout
        if kept is not None:
            kept.settimeout(timeout)
        return connection

    # Rooms

    def create_room(
        self,
        *,
        invite: Sequence[str] = (),
        preset: str = "private_chat",
        room_version: str | None = None,
        **fields: Any,
    ) -> str:
        """Make a room and return its id; `fields` are further ones of the request."""
        body: JsonDict = {"invite": list(invite), "preset": preset, **fields}
        if room_version is not None:
            body["room_version"] = room_version
        room_id: str = self.call("POST", path("createRoom"), body)["room_id"]
        return room_id

    def invite(self, room_id: str, user_id: str) -> None:
        self.call("POST", path("rooms", room_id, "invite"), {"user_id": user_id})

    def join(self, room_id: str) -> None:
        self.call("POST", path("rooms", room_id, "join"), {})

    def leave(self, room_id: str) -> None:
        self.call("POST", path("rooms", room_id, "leave"), {})

    def send(
        self, room_id: str, content: str | JsonDict, event_type: str = "m.room.message"
    ) -> str:
        """Send an event and return its id; a string is sent as a text message."""
        if isinstance(content, str):
            content = {"msgtype": "m.text", "body": content}
        return self._event(
            "PUT", path("rooms", room_id, "send", event_type, uuid.uuid4().hex), content
        )

    def send_state(
        self, room_id: str, event_type: str, content: JsonDict, state_key: str = ""
    ) -> str:
        return self._event("PUT", path("rooms", room_id, "state", event_type, state_key), content)

    def redact(self, room_id: str, event_id: str) -> str:
        where = path("rooms", room_id, "redact", event_id, uuid.uuid4().hex)
        return self._event("PUT", where, {})

    def read(self, room_id: str, event_id: str) -> None:
        """Say that the user has read the room up to this event."""
        self.call("POST", path("rooms", room_id, "receipt", "m.read", event_id), {})

    def upgrade_room(self, room_id: str, new_version: str) -> str:
        """Upgrade a room and return the new room's id."""
        body = {"new_version": new_version}
        new: str = self.call("POST", path("rooms", room_id, "upgrade"), body)["replacement_room"]
        return new

    def _event(self, method: str, where: str, content: JsonDict) -> str:
        event_id: str = self.call(method, where, content)["event_id"]
        return event_id

    # Sync

    def sync(
        self,
        since: str | None = None,
        timeout_ms: int = 0,
        sync_filter: JsonDict | str | None = None,
    ) -> JsonDict:
        """One `/sync`; `sync_filter` is a filter's id or the filter itself."""
        if isinstance(sync_filter, dict):
            sync_filter = json.dumps(sync_filter)
        where = path("sync", query={"since": since, "timeout": timeout_ms, "filter": sync_filter})
        answer: JsonDict = self.call("GET", where, timeout=timeout_ms / 1000 + _TIMEOUT_SECONDS)
        return answer

    # Pushers

    def set_pusher(self, pushkey: str, app_id: str, gateway_url: str, **fields: Any) -> None:
        """Register or change an HTTP pusher; `fields` are added to the request or replace ours."""
        body = {
            "pushkey": pushkey,
            "app_id": app_id,
            "kind": "http",
            "app_display_name": "A client",
            "device_display_name": "A device",
            "lang": "en",
            "data": {"url": gateway_url},
            **fields,
        }
        self.call("POST", path("pushers", "set"), body)

    def delete_pusher(self, pushkey: str, app_id: str) -> None:
        body = {"pushkey": pushkey, "app_id": app_id, "kind": None}
        self.call("POST", path("pushers", "set"), body)

    def get_pushers(self) -> list[JsonDict]:
        pushers: list[JsonDict] = self.call("GET", path("pushers"))["pushers"]
        return pushers

    # Push rules; `scope` is "global" or the profile tag of a device scope.

    def put_rule(
        self,
        scope: str,
        kind: str,
        rule_id: str,
        body: JsonDict,
        *,
        before: str | None = None,
        after: str | None = None,
    ) -> None:
        query = {"before": before, "after": after}
        self.call("PUT", rules_path(scope, kind, rule_id, query=query), body)

    def delete_rule(self, scope: str, kind: str, rule_id: str) -> None:
        self.call("DELETE", rules_path(scope, kind, rule_id))

    def get_rules(self, scope: str | None = None) -> JsonDict:
        """The rules of one scope by their kind; without `scope`, all the user's rules."""
        # The empty part gives the "/" that Synapse wants at the end.
        where = path("pushrules", "") if scope is None else rules_path(scope, "")
        rules: JsonDict = self.call("GET", where)
        return rules

    def set_rule_enabled(self, scope: str, kind: str, rule_id: str, enabled: bool) -> None:
        self.call("PUT", rules_path(scope, kind, rule_id, "enabled"), {"enabled": enabled})

    def set_rule_actions(
        self, scope: str, kind: str, rule_id: str, actions: Sequence[str | JsonDict]
    ) -> None:
        self.call("PUT", rules_path(scope, kind, rule_id, "actions"), {"actions": list(actions)})

    # The account

    def whoami(self) -> JsonDict:
        answer: JsonDict = self.call("GET", path("account", "whoami"))
        return answer

    def logout(self) -> None:
        self.call("POST", path("logout"), {})

    def deactivate(self, password: str) -> None:
        """Deactivate the account for good."""
        identifier = {"type": "m.id.user", "user": self.user_id}
        auth = {"type": "m.login.password", "identifier": identifier, "password": password}
        self.call("POST", path("account", "deactivate"), {"auth": auth})


def _parse(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError:
        return None
