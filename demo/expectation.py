# SPDX-License-Identifier: AGPL-3.0-or-later
"""What the push rules say about a message: read on their own, to compare with what arrived.

This knows nothing of the module: it reads the rules and the pushers as the server shows them to a
client, and the two proposals. It matches the conditions that the story's rooms can meet; a
condition that it does not know does not match.
"""

import fnmatch
import re
from collections.abc import Mapping, Sequence
from typing import Any

import attr

from demo.client import JsonDict

# The kinds of rules, by falling priority.
KINDS = ("override", "content", "room", "sender", "underride")


@attr.s(auto_attribs=True, frozen=True, kw_only=True)
class Message:
    """A message as the rules see it."""

    room_id: str
    sender: str
    content: Mapping[str, Any]
    members: int
    display_name: str

    @property
    def body(self) -> str:
        """Its text."""
        body: str = self.content["body"]
        return body

    def value(self, key: str) -> object:
        """What the event has at a key of a condition, such as `content.body`."""
        event: JsonDict = {
            "type": "m.room.message",
            "room_id": self.room_id,
            "sender": self.sender,
            "content": self.content,
        }
        found: object = event
        for part in re.split(r"(?<!\\)\.", key):
            found = found.get(part.replace("\\.", ".")) if isinstance(found, dict) else None
        return found


@attr.s(auto_attribs=True, frozen=True, kw_only=True)
class Expectation:
    """What a pusher is to do about a message, and why.

    Attributes:
        tag: the profile tag whose scope decided; None where none did.
        rule: the deciding rule, such as `room/!abc:example.org`; None where none did.
        tweaks: what is to arrive beside the event, such as `{"sound": "default"}`.
        why: for a person.
    """

    pushed: bool
    why: str
    tag: str | None = None
    rule: str | None = None
    tweaks: Mapping[str, Any] = attr.ib(factory=dict)


def expect(
    pusher: Mapping[str, Any],
    rules: Mapping[str, Any],
    message: Message,
    names: Mapping[str, str],
) -> Expectation:
    """Say what a pusher is to do about a message.

    Args:
        pusher: as `GET /pushers` shows it.
        rules: what `GET /pushrules/` shows.
        message: the message.
        names: what to call rooms and the like for a person, by their id.
    """
    if not pusher["enabled"]:
        return Expectation(pushed=False, why="pusher is disabled")
    tags = pusher["profile_tags"]
    passed: list[str] = []
    for tag in tags:
        scope = rules["global"] if tag == "global" else rules.get("device", {}).get(tag, {})
        found = first_match(scope, message)
        if found is None:
            passed.append(f"{tag}: no match")
            continue
        kind, rule = found
        pushed = "notify" in rule["actions"]
        described = _describe(kind, rule, names)
        quiet = _quiet(rules["global"], message) if pushed and tag != "global" else None
        if quiet is not None and kind != "override":
            keeper = _describe("override", quiet, names)
            passed.append(f"{tag}: {described}, but {keeper} keeps it quiet")
            continue
        return Expectation(
            pushed=pushed,
            why="; ".join([*passed, f"{tag}: {described}{'' if pushed else ', silent'}"]),
            tag=tag,
            rule=f"{kind}/{rule['rule_id']}",
            tweaks=_tweaks(rule["actions"]) if pushed else {},
        )
    return Expectation(pushed=False, why="; ".join(passed))


def _describe(kind: str, rule: Mapping[str, Any], names: Mapping[str, str]) -> str:
    name = names.get(rule["rule_id"], rule["rule_id"])
    # The names of the default rules all start with the same.
    return name.removeprefix(".m.rule.") if rule["default"] else f'{kind} "{name}"'


def _quiet(in_global: Mapping[str, Any], message: Message) -> JsonDict | None:
    """The server-default override for which no other rule of a device scope rings."""
    for rule in in_global["override"]:
        if rule["default"] and rule["enabled"] and _matches("override", rule, message):
            return None if "notify" in rule["actions"] else rule
    return None


def first_match(scope: Mapping[str, Any], message: Message) -> tuple[str, JsonDict] | None:
    """The rule of one scope that matches with the highest priority, and its kind."""
    for kind in KINDS:
        for rule in scope.get(kind, []):
            if rule["enabled"] and _matches(kind, rule, message):
                return kind, rule
    return None


def _matches(kind: str, rule: Mapping[str, Any], message: Message) -> bool:
    if kind == "room":
        return bool(rule["rule_id"] == message.room_id)
    if kind == "sender":
        return bool(rule["rule_id"] == message.sender)
    if kind == "content":
        return _has_word(message.body, rule["pattern"])
    return all(_holds(condition, message) for condition in rule["conditions"])


def _holds(condition: Mapping[str, Any], message: Message) -> bool:
    kind: str = condition["kind"]
    value: object = message.value(condition.get("key", ""))
    if kind == "event_match":
        return isinstance(value, str) and _event_match(condition, value)
    if kind == "event_property_is":
        return bool(value == condition["value"])
    if kind == "room_member_count":
        return bool(condition["is"] in (str(message.members), f"=={message.members}"))
    if kind == "contains_display_name":
        return _has_word(message.body, message.display_name)
    return False


def _event_match(condition: Mapping[str, Any], value: str) -> bool:
    if condition["key"] == "content.body":
        return _has_word(value, condition["pattern"])
    return fnmatch.fnmatchcase(value.lower(), condition["pattern"].lower())


def _has_word(text: str, glob: str) -> bool:
    pattern = re.escape(glob).replace(r"\*", ".*?").replace(r"\?", ".")
    return re.search(rf"(?<!\w){pattern}(?!\w)", text, re.IGNORECASE) is not None


def _tweaks(actions: Sequence[Any]) -> JsonDict:
    """The tweaks of a rule, as they stand in a push; the value of a bare one is True."""
    return {
        action["set_tweak"]: action.get("value", True)
        for action in actions
        if isinstance(action, dict) and "set_tweak" in action
    }
