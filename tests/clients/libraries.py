# SPDX-License-Identifier: AGPL-3.0-or-later
"""What the tests ask of a client library, which each does by its own API."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from demo.client import JsonDict

Action = str | JsonDict

#: How a device rings for an event: the tweaks, without those that say no; None if it is quiet.
Ring = Mapping[str, Any] | None


def ring_of(tweaks: Mapping[str, Any]) -> Ring:
    """The ring that has these tweaks."""
    return {name: value for name, value in tweaks.items() if value is not False}


class ClientSession(Protocol):
    """A device of a user, logged in by the library.

    In `scope`, a library wants a device scope as "device/phone".
    """

    device_id: str

    def set_pusher(self, pusher: JsonDict) -> None:
        """``POST /pushers/set``."""

    def get_pushers(self) -> list[JsonDict]:
        """``GET /pushers``."""

    def put_rule(self, scope: str, kind: str, rule_id: str, body: JsonDict) -> None:
        """Write a rule with these actions, and conditions or a pattern."""

    def set_rule_enabled(self, scope: str, kind: str, rule_id: str, enabled: bool) -> None:
        """Turn a rule on or off."""

    def set_rule_actions(
        self, scope: str, kind: str, rule_id: str, actions: Sequence[Action]
    ) -> None:
        """Change the actions of a rule."""

    def delete_rule(self, scope: str, kind: str, rule_id: str) -> None:
        """Delete a rule."""

    def next_push_rules(self) -> JsonDict:
        """Sync until `m.push_rules` comes, and return it; the first time, at once."""

    def sync_to(self, room_id: str, event_id: str) -> JsonDict:
        """Sync until an event comes, and return the push rules that were last seen by then."""

    def ring_for(self, room_id: str, event_id: str) -> Ring:
        """What the library itself makes of an event that has come, or of an invite, by the push
        rules that it has synced.

        Raises:
            NotImplementedError: it has no evaluation of its own.
        """

    def close(self) -> None:
        """Leave no connection and no process. The device stays logged in."""


class Library(Protocol):
    """A client library."""

    def login(self, base_url: str, user_id: str, password: str, device_id: str) -> ClientSession:
        """Log a device in."""
