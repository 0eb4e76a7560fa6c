# SPDX-License-Identifier: AGPL-3.0-or-later
"""What is compared: how a server is set up, and how much its users use of the module."""

import json
from collections.abc import Sequence
from typing import Any

import attr

JsonDict = dict[str, Any]

#: What the measured event says; see `Use.matches` for the rest.
BODY = "Shall we meet at the harbour at half past seven?"
_WORD = "harbour"
_OTHER_WORD = "lighthouse-{}"

#: The device of each user, where it has settings of its own.
OWN_DEVICE = "PHONE"

NOTIFY = json.dumps(["notify", {"set_tweak": "sound", "value": "siren"}], separators=(",", ":"))


def content(mentions: bool = True) -> JsonDict:
    """The content of the measured event.

    Args:
        mentions: whether it says whom it mentions, as the clients of today do. Without that,
            Synapse looks for each member's name in the text.
    """
    message: JsonDict = {"msgtype": "m.text", "body": BODY}
    return {**message, "m.mentions": {}} if mentions else message


@attr.s(auto_attribs=True, frozen=True)
class Use:
    """What one user has: a pusher with these scopes and then `global`, and their rules.

    Attributes:
        scopes: how many device scopes.
        rules_each: how many rules each of them has.
        kind: of the rules. An "override" rule has one condition, a word in the body, and notifies
            with a sound of its own. A "room" rule is silent: "muted on my phone".
        matches: whether the last rule of the last scope matches the event: "no", "yes", or
            "word" for an "override" rule that matches by a word in the body. The others match by
            the kind of message: to find out that a word stands for itself, Synapse compiles a
            regular expression for each user, which takes it so long that nothing else shows.
        own: whether each user has other rules than the rest. Users with the same rules, as those
            of one client have, share what is made of them.
        in_global: whether the rules stand in `global`, as they may without the module.
        own_settings: whether the pusher has no tags, and its device settings of its own: all
            server-default rules, and these before them.
    """

    scopes: int = 1
    rules_each: int = 5
    kind: str = "override"
    matches: str = "no"
    own: bool = False
    in_global: bool = False
    own_settings: bool = False

    @property
    def tags(self) -> list[str]:
        """The pusher's profile tags; with settings of its own, what the device's scope is named."""
        if self.own_settings:
            return [OWN_DEVICE, "global"]
        return [*(f"phone-{n}" for n in range(self.scopes)), "global"]

    def rules(self, user_id: str, room_id: str) -> list["StoredRule"]:
        """The rules that a user has, for a "room" rule with the room that is to match."""
        return [
            self._rule(tag, scope, number, room_id, user_id if self.own else "")
            for scope, tag in enumerate(self.tags[:-1])
            for number in range(self.rules_each)
        ]

    def _rule(self, tag: str, scope: int, number: int, room_id: str, owner: str) -> "StoredRule":
        # The one with the lowest priority is tried last.
        matches = self.matches if (scope, number) == (self.scopes - 1, 0) else "no"
        if self.kind == "room":
            rule_id = f"!muted-{number:04d}-abcdefghi:example.org" if matches == "no" else room_id
            return StoredRule(tag, "room", rule_id, number, _condition("room_id", rule_id), "[]")
        condition = {
            "no": _condition("content.body", _OTHER_WORD.format(number) + owner),
            "yes": _condition("content.msgtype", "m.text"),
            "word": _condition("content.body", _WORD),
        }[matches]
        return StoredRule(tag, self.kind, f"rule-{number}{owner}", number, condition, NOTIFY)


@attr.s(auto_attribs=True, frozen=True)
class StoredRule:
    """A row of the module's table of rules, without the user; conditions and actions are JSON."""

    profile_tag: str
    kind: str
    rule_id: str
    priority: int
    conditions: str
    actions: str


def _condition(key: str, pattern: str) -> str:
    condition = {"kind": "event_match", "key": key, "pattern": pattern}
    return json.dumps([condition], separators=(",", ":"))


@attr.s(auto_attribs=True, frozen=True)
class Variant:
    """How a server is set up.

    Attributes:
        name: in the tables.
        with_module: False for a vanilla Synapse.
        share: which part of a room's members uses the module; at least one if more than 0.
        use: what those have.
    """

    name: str
    with_module: bool = True
    share: float = 0.0
    use: Use = attr.ib(factory=Use)

    @property
    def is_silent(self) -> bool:
        """Whether the users who use the module are not pushed to."""
        return self.share > 0 and self.use.kind == "room" and self.use.matches == "yes"

    def users(self, members: Sequence[str]) -> Sequence[str]:
        """Those of a room's members who use the module."""
        if not self.share:
            return []
        return members[: max(1, round(self.share * len(members)))]


VANILLA = Variant("vanilla", with_module=False)
#: Shows what two equal servers differ by.
CONTROL = Variant("vanilla, again", with_module=False)
IDLE = Variant("nobody uses it")

_MATCH, _WORD_MATCH = Use(matches="yes"), Use(matches="word")

ONE_PERCENT = Variant("1 %: 5 rules, no match", share=0.01)
ONE_PERCENT_MATCHING = Variant("1 %: 5 rules, match", share=0.01, use=_MATCH)
TEN_PERCENT = Variant("10 %: 5 rules, no match", share=0.1)
TEN_PERCENT_MATCHING = Variant("10 %: 5 rules, match", share=0.1, use=_MATCH)
ALL = Variant("100 %: 5 rules, no match", share=1.0)
ALL_MATCHING = Variant("100 %: 5 rules, match", share=1.0, use=_MATCH)
ALL_OWN = Variant("100 %: 5 rules of their own, no match", share=1.0, use=Use(own=True))
ALL_OWN_MATCHING = Variant(
    "100 %: 5 rules of their own, match", share=1.0, use=Use(own=True, matches="yes")
)
ALL_WORD = Variant("100 %: 5 rules, a word matches", share=1.0, use=_WORD_MATCH)
ALL_FIVE_ROOMS = Variant("100 %: 5 muted rooms", share=1.0, use=Use(kind="room"))
ALL_ROOMS = Variant("100 %: 500 muted rooms", share=1.0, use=Use(kind="room", rules_each=500))
ALL_MUTED = Variant(
    "100 %: 500 muted rooms, this one too",
    share=1.0,
    use=Use(kind="room", rules_each=500, matches="yes"),
)
ALL_THREE = Variant("100 %: 3 tags of 5 rules, no match", share=1.0, use=Use(scopes=3))
ALL_THREE_MATCHING = Variant(
    "100 %: 3 tags of 5 rules, match", share=1.0, use=Use(scopes=3, matches="yes")
)

#: One device of each member has settings of its own.
OWN_PLAIN = Variant(
    "100 %: own settings, as in global", share=1.0, use=Use(own_settings=True, rules_each=0)
)
OWN_RULES = Variant("100 %: own settings, 5 rules, no match", share=1.0, use=Use(own_settings=True))
OWN_MATCHING = Variant(
    "100 %: own settings, 5 rules, match",
    share=1.0,
    use=Use(own_settings=True, matches="yes"),
)

USED = (
    ONE_PERCENT,
    ONE_PERCENT_MATCHING,
    TEN_PERCENT,
    TEN_PERCENT_MATCHING,
    ALL,
    ALL_MATCHING,
    ALL_OWN,
    ALL_OWN_MATCHING,
    ALL_FIVE_ROOMS,
    ALL_ROOMS,
    ALL_MUTED,
    ALL_THREE,
    ALL_THREE_MATCHING,
    OWN_PLAIN,
    OWN_RULES,
    OWN_MATCHING,
)


def in_global(variant: Variant) -> Variant:
    """A vanilla Synapse whose users have the same rules in `global`."""
    return Variant(
        f"vanilla, the same in global ({variant.name})",
        with_module=False,
        share=variant.share,
        use=attr.evolve(variant.use, in_global=True),
    )
