# SPDX-License-Identifier: AGPL-3.0-or-later
"""What the tests ask of a client library, which each does by its own API."""

from collections.abc import Sequence
from typing import Protocol

from demo.client import JsonDict

Action = str | JsonDict


class ClientSession(Protocol):
    """A device of a user, logged in by the library."""

    device_id: str

    def set_pusher(self, pusher: JsonDict) -> None:
        """``POST /pushers/set``."""

    def get_pushers(self) -> list[JsonDict]:
        """``GET /pushers``."""

    def put_room_rule(self, scope: str, room_id: str, actions: Sequence[Action]) -> None:
        """Write a `room` rule; `scope` is as the library wants it: "device/phone"."""

    def set_room_rule_enabled(self, scope: str, room_id: str, enabled: bool) -> None:
        """Turn a `room` rule on or off."""

    def set_room_rule_actions(self, scope: str, room_id: str, actions: Sequence[Action]) -> None:
        """Change the actions of a `room` rule."""

    def delete_room_rule(self, scope: str, room_id: str) -> None:
        """Delete a `room` rule."""

    def next_push_rules(self) -> JsonDict:
        """Sync until `m.push_rules` comes, and return it; the first time, at once."""

    def close(self) -> None:
        """Leave no connection and no process. The device stays logged in."""


class Library(Protocol):
    """A client library."""

    def login(self, base_url: str, user_id: str, password: str, device_id: str) -> ClientSession:
        """Log a device in."""
