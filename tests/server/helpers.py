# SPDX-License-Identifier: AGPL-3.0-or-later
"""What the tests of the client API share."""

from collections.abc import Iterable
from typing import Any

from demo.client import JsonDict, Response, Session, path
from tests.harness.deployment import Deployment

APP = "org.example.app"
#: A gateway that nothing listens at: these tests look at what is stored, not at what is pushed.
NOWHERE = "http://127.0.0.1:1/_matrix/push/v1/notify"

SET_PUSHER = path("pushers", "set")

# What a pusher is, without what it has done: that one changes on its own.
_PUSHER_COLUMNS = (
    "user_name, kind, app_id, app_display_name, device_display_name, pushkey, ts, lang, data, "
    "profile_tag, enabled, device_id"
)

# Pushers


def pusher(pushkey: str = "key", /, **fields: Any) -> JsonDict:
    """The body of a request that sets a pusher."""
    return {
        "pushkey": pushkey,
        "app_id": APP,
        "kind": "http",
        "app_display_name": "A client",
        "device_display_name": "A device",
        "lang": "en",
        "data": {"url": NOWHERE},
        **fields,
    }


def set_pusher(session: Session, pushkey: str = "key", /, **fields: Any) -> Response:
    """Set a pusher; the answer may be an error."""
    return session.request("POST", SET_PUSHER, pusher(pushkey, **fields))


def get_pusher(session: Session, pushkey: str = "key") -> JsonDict:
    """The user's pusher with that pushkey."""
    (found,) = (shown for shown in session.get_pushers() if shown["pushkey"] == pushkey)
    return found


# Answers


def assert_ok(response: Response, what: object = "") -> None:
    assert response.status == 200, f"{what}: {response.status} {response.body[:300]!r}"


def assert_refused(
    response: Response,
    status: int = 400,
    errcode: str | None = None,
    *,
    names: str = "",
    what: object = "",
) -> None:
    """A Matrix error of this status and code, with `names` in its message."""
    where = f"{what}: {response.status} {response.body[:300]!r}"
    assert response.status == status, where
    assert response.errcode is not None, where
    assert errcode is None or response.errcode == errcode, where
    assert names in response.json["error"], where


# What is stored


def stored(deployment: Deployment, *sessions: Session) -> list[list[tuple[Any, ...]]]:
    """All that the server stores of some users' pushers, profile tags and push rules."""
    names = [session.user_id for session in sessions]
    marks = ", ".join("?" * len(names))
    return [
        sorted(deployment.sql(f"{select} IN ({marks})", names), key=repr)
        for select in (
            f"SELECT {_PUSHER_COLUMNS} FROM pushers WHERE user_name",
            "SELECT * FROM synapse_msc3881_pusher_tags WHERE user_id",
            "SELECT * FROM synapse_msc3881_device_rules WHERE user_id",
            "SELECT * FROM push_rules WHERE user_name",
        )
    ]


# Push rules

#: A body that makes a rule of each kind.
RULES: dict[str, JsonDict] = {
    "override": {"conditions": [{"kind": "event_match", "key": "type", "pattern": "x"}]},
    "content": {"pattern": "x"},
    "room": {},
    "sender": {},
    "underride": {"conditions": []},
}


def rule(kind: str = "override", actions: Iterable[str | JsonDict] = ("notify",)) -> JsonDict:
    """The body of a request that writes a rule."""
    return {**RULES[kind], "actions": list(actions)}


def own_rules(ruleset: JsonDict) -> JsonDict:
    """A ruleset without the server's own rules and the kinds that have no others."""
    return {
        kind: [shown for shown in rules if not shown["default"]]
        for kind, rules in ruleset.items()
        if kind in RULES
    }
