# SPDX-License-Identifier: AGPL-3.0-or-later
"""The outcome of an event's evaluation, as it is stored inside Synapse's own row of push actions.

A row of `event_push_actions` holds the actions of the user's matching `global` rule. For a user
whose device scopes matter, there is one more element among them:

    {"org.matrix.msc3837.outcomes": [
        ["hP5h0oXK", "0aFnHdeq", ["notify", {"set_tweak": "sound", "value": "siren"}]],
        ["Dk3xZ1bN", "mX0v9pQw", 0],
        ["u2bJ7sTq", "wL4c8rYe", ".m.rule.reaction"],
        ["global", null, []]
    ]}

It lists each scope in which a rule matched: the scope, the rule, and the rule's actions. A number
instead of these means that they are those of that entry. A text names the server-default rule that
keeps the event quiet (specification 4), so that the scope counts as not matching. `global` is
listed only if it matched silently; if it notifies, its actions are those of the row, and
otherwise it did not match. A null instead of the list means that evaluating failed, and that every
pusher of the user uses the `global` rules. Synapse's pushers ignore the element.

A scope of a device with settings of its own (specification 9) is marked, and null in the place of
the actions says that none of its rules matched:

    ["=hP5h0oXK", "0aFnHdeq", []], ["=Dk3xZ1bN", null, null]

It is listed where it says something else than `global`, or where a pusher lists it. So a pusher
that goes by its device's own settings does what `global` says where its scope is not listed: rows
from before the settings were switched on, and those where evaluating failed, need nothing more.

The names of scopes and rules are texts that the user chose, and here they could outlive an erased
user by a day. So a `fingerprint` is stored instead, which is shorter too.

The size of the element is bounded: see `MAX_ACTIONS_BYTES`. `stored_outcomes` reads it.

Pure code: nothing here knows Synapse.
"""

from __future__ import annotations

import functools
import hashlib
from base64 import urlsafe_b64encode
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import attr

from synapse_msc3881.cascade.profile_tags import (
    GLOBAL,
    Action,
    Actions,
    Match,
)
from synapse_msc3881.cascade.rulesets import to_json

#: What marks our element, and what a row made only for a device scope starts with.
MARK = "org.matrix.msc3837.outcomes"

#: The element which says that evaluating failed.
FAILED: Mapping[str, Any] = {MARK: None}

#: The space in a row for the actions of all scopes, in bytes of JSON: as much as for one rule of
#: `global`. Actions that no longer fit are stored as `notify`, with the sound "default" if they
#: have a sound, and the highlight if they have one; what is silent stays silent. With 28 bytes
#: per scope and a little for the rest, 20 scopes take less than 2 kB.
MAX_ACTIONS_BYTES = 1024

#: Stands before the fingerprint of a device with settings of its own.
OWN_MARK = "="

_FINGERPRINT_BYTES = 6
_MAX_FINGERPRINTS = 5000


@functools.lru_cache(maxsize=_MAX_FINGERPRINTS)
def fingerprint(name: str) -> str:
    """Eight characters that stand in a row for the name of a scope or rule.

    It tells a user's own apart, and does not reveal the name to anyone who does not know it.
    """
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).digest()
    return urlsafe_b64encode(digest[:_FINGERPRINT_BYTES]).decode("ascii")


@attr.s(auto_attribs=True, frozen=True, slots=True)
class Suppressed:
    """A match that does not count, because a server-default rule keeps the event quiet.

    Attributes:
        by: that rule's ID.
        rule: the rule that matched in the scope, as in `Match`.
    """

    by: str
    rule: str | None = None

    @property
    def notifies(self) -> bool:
        """Never."""
        return False


@attr.s(auto_attribs=True, frozen=True, slots=True)
class OwnMatch:
    """What the scope of a device with settings of its own says; its match, None where it has none.

    Attributes:
        match: the rule that matched, server-default ones too.
    """

    match: Match | None

    @property
    def notifies(self) -> bool:
        """Whether the rule says to push."""
        return self.match is not None and self.match.notifies


#: What is recorded of a scope.
Recorded = Match | Suppressed | OwnMatch


def is_mark(action: object) -> bool:
    """Whether an element of a row's actions is ours, not a user's tweak that looks like it."""
    return isinstance(action, Mapping) and MARK in action and "set_tweak" not in action


def without_mark(actions: Actions) -> list[Action]:
    """The actions that Synapse and clients know."""
    return [action for action in actions if not is_mark(action)]


def sendable(actions: Sequence[Any]) -> list[Action]:
    """The actions that a pusher can send: a tweak's name becomes a key in a JSON object.

    Rules with others were once accepted, in device scopes too.
    """
    return [
        action
        for action in actions
        if isinstance(action, str)
        or (isinstance(action, Mapping) and isinstance(action.get("set_tweak"), str))
    ]


class StoredActions(list[Action]):
    """What to store for a user: the row's text, and a list that tells Synapse whether to count it.

    The list starts with `FAILED`, so that Synapse takes it for none of those that it shortens, and
    all go by `global` should it write the list instead.

    Attributes:
        text: the row's actions, in JSON.
    """

    __slots__ = ("text",)

    text: str


def with_outcomes(actions: Collection[Action], outcomes: Mapping[str, Recorded]) -> StoredActions:
    """What to store for a user: the actions of `global`, and the outcomes of the scopes.

    The text is put together from pieces: encoding each row anew would take longer than anything
    else that is done for a member whose rule matches.

    Args:
        actions: what Synapse would store: the actions of the matching `global` rule.
        outcomes: the match of each device scope that has one, and a silent match of "global"; and
            what the scopes of devices with settings of their own say.
    """
    # Without `notify`, the tweaks of `global` mean nothing, and `highlight` would be counted.
    kept = actions if "notify" in actions else ()
    stored = StoredActions((FAILED, *kept))
    stored.text = f"{_START}{_entries_of(outcomes)}]}}{_further(kept)}]"
    return stored


_START = f'[{{"{MARK}":['
_MAX_FURTHER = 500
# Longer actions are written anew each time: Synapse before 1.157.2 does not bound them.
_MAX_FURTHER_LENGTH = 2000
_further_texts: dict[str, str] = {}


def _further(actions: Collection[Action]) -> str:
    """Actions that follow our element, in JSON. Most users have the same."""
    if not actions:
        return ""
    # Not the actions themselves: to Python, 1 and true are the same.
    key = repr(actions)
    text = _further_texts.get(key)
    if text is None:
        text = "," + to_json(list(actions))[1:-1]
        if len(key) <= _MAX_FURTHER_LENGTH:
            if len(_further_texts) >= _MAX_FURTHER:
                _further_texts.clear()
            _further_texts[key] = text
    return text


def _entries_of(outcomes: Mapping[str, Recorded]) -> str:
    entries: list[str] = []
    # What they say, each thing once, in JSON: to Python, 1 and true are the same.
    said: list[str] = []
    left = MAX_ACTIONS_BYTES
    for scope, recorded in outcomes.items():
        key, outcome = _keyed(scope, recorded)
        rule, says = (_NOTHING, _NOTHING) if outcome is None else _in_row(outcome)
        if says not in _SHORTEST and says not in said and isinstance(outcome, Match):
            if len(says) > left:
                says = to_json(_in_short(outcome))
            else:
                left -= len(says)
        is_repeated = says not in _SHORTEST and says in said
        entries.append(f'["{key}",{rule},{said.index(says) if is_repeated else says}]')
        said.append(says)
    return ",".join(entries)


_NOTHING = "null"
# No number is shorter than these.
_SHORTEST = (_NOTHING, "[]")


def _keyed(scope: str, recorded: Recorded) -> tuple[str, Match | Suppressed | None]:
    if isinstance(recorded, OwnMatch):
        return OWN_MARK + fingerprint(scope), recorded.match
    return scope_key(scope), recorded


def scope_key(scope: str) -> str:
    """What stands in a row for a scope."""
    return scope if scope == GLOBAL else fingerprint(scope)


def _in_row(outcome: Match | Suppressed) -> tuple[str, str]:
    """What a row says of a match: the rule, and its actions; both in JSON."""
    if isinstance(outcome, Suppressed):
        return _rule_in_row(outcome.rule), to_json(outcome.by)
    if outcome.in_row is None:
        # Once for a compiled rule, not for each event that it matches.
        in_row = _rule_in_row(outcome.rule), to_json(list(outcome.actions))
        object.__setattr__(outcome, "in_row", in_row)
    found: tuple[str, str] = outcome.in_row
    return found


def _rule_in_row(rule: str | None) -> str:
    return f'"{fingerprint(rule)}"' if rule else to_json(rule)


def _in_short(match: Match) -> list[Action]:
    """A rule's actions when there is no room for them."""
    if not match.notifies:
        return []
    tweaks = {
        action["set_tweak"]: action.get("value", True)
        for action in sendable(match.actions)
        if isinstance(action, Mapping)
    }
    short: list[Action] = ["notify"]
    if tweaks.get("sound"):
        short.append({"set_tweak": "sound", "value": "default"})
    if tweaks.get("highlight"):
        short.append({"set_tweak": "highlight"})
    return short
