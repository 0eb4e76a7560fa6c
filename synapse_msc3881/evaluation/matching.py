# SPDX-License-Identifier: AGPL-3.0-or-later
"""Compiled device scopes, matched against events (MSC3837).

Synapse's own evaluator (in Rust) runs the conditions, so that they mean in a device scope what
they mean in `global`. It returns the actions of the first match, and an empty list both for no
match and for a silent match. So each rule is compiled with a **mark** as its only action: the
number of the rule, which leads to the real actions. All are compiled as `override` rules, which
the evaluator runs before the server-default rules, with one at the end that always matches: it
never gets to those.

The rules are compiled in groups (see `compiling`), and a group is run only for an event that one
of its rules could match (see `prefilter`). So what does not match costs little, and what is costly
is done in steps that can be stopped in between (see `spending`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attr

from synapse_msc3881.cascade.profile_tags import Actions, Match
from synapse_msc3881.cascade.rulesets import to_json
from synapse_msc3881.evaluation.prefilter import Hints, Needs, could_match, is_hinted_at

# What a rule takes of memory that is looked up by id, in bytes, about.
_LOOKUP_BYTES = 125

_MARK = "mark"

#: What Synapse's evaluator runs. Opaque here.
CompiledRules = Any

#: Runs compiled rules on the event and the user at hand, and returns the first match's actions.
#: Is also told whether that may take time that counts.
Run = Callable[[CompiledRules, bool], Sequence[Any]]


@attr.s(auto_attribs=True, frozen=True, slots=True)
class EventFacts:
    """What matching needs of an event besides Synapse's evaluator for it.

    Room and sender are None where no rule about them can match: in rooms with extensible events
    Synapse ignores all rules without a condition on the room version (MSC3932).
    """

    room_id: object
    sender: object
    text: Mapping[str, str]  # From `prefilter.searchable`.
    is_costly: bool  # Whether running rules on it may take time that counts, whatever they are.
    # What groups said of which the users do not matter.
    matches: dict[RuleGroup, Match | None] = attr.ib(factory=dict)


@attr.s(auto_attribs=True, frozen=True, slots=True, eq=False)
class RuleGroup:
    """Neighbouring rules of a scope, which the evaluator runs at once. Users may share one.

    Attributes:
        rules: the rules, with their marks as actions.
        matches: the same, by mark.
        needs: of each rule, what an event needs for it to match.
        hints: a quicker test than `needs`, for most events.
        before_room: whether they come before the `room` rules.
        is_costly: whether running them may take time that counts.
        size: what they take of memory, in bytes.
    """

    rules: CompiledRules
    matches: tuple[Match, ...]
    needs: tuple[Needs, ...]
    hints: Hints
    before_room: bool
    is_costly: bool
    size: int

    def match(self, run: Run, event: EventFacts) -> Match | None:
        """The group's highest-priority match; see `CompiledScope.match`."""
        if self.is_costly or event.is_costly:
            return self._match_anew(run, event, costly=True)
        # Rules that only compare say the same for all users.
        if self not in event.matches:
            event.matches[self] = self._match_anew(run, event, costly=False)
        return event.matches[self]

    def _match_anew(self, run: Run, event: EventFacts, *, costly: bool) -> Match | None:
        if not (is_hinted_at(self.hints, event.text) and could_match(self.needs, event.text)):
            return None
        mark = mark_of(run(self.rules, costly))
        return None if mark is None else self.matches[mark]


@attr.s(auto_attribs=True, frozen=True, slots=True)
class CompiledScope:
    """One device scope, ready to be matched against events.

    `room` and `sender` rules match their id exactly (SEMANTICS 4), so they are looked up, and
    a scope that has no other rules never runs the evaluator.
    """

    groups: tuple[RuleGroup, ...]
    # The actions of the others, by room and by sender. There may be many.
    rooms: Mapping[object, Actions]
    senders: Mapping[object, Actions]

    def could_match(self, event: EventFacts) -> bool:
        """Whether any rule could match the event: a quick no for most events."""
        if event.room_id in self.rooms or event.sender in self.senders:
            return True
        for group in self.groups:  # noqa: SIM110 - `any` takes longer than the rest
            if is_hinted_at(group.hints, event.text):
                return True
        return False

    def match(self, run: Run, event: EventFacts) -> Match | None:
        """Find the scope's highest-priority matching rule.

        Args:
            run: runs compiled rules on the event and the user at hand.
            event: the same event.

        Returns:
            That rule's match, with empty actions for a silent one; None where no rule matches.
        """
        by_id = self._match_by_id(event)
        for group in self.groups:
            if by_id is not None and not group.before_room:
                break
            match = group.match(run, event)
            if match is not None:
                return match
        return by_id

    def _match_by_id(self, event: EventFacts) -> Match | None:
        actions = self.rooms.get(event.room_id)
        if actions is not None:
            return Match(actions, f"room/{event.room_id}")
        actions = self.senders.get(event.sender)
        return None if actions is None else Match(actions, f"sender/{event.sender}")

    @property
    def looked_at(self) -> int:
        """How many rules have to be looked at for an event."""
        return sum(len(group.needs) for group in self.groups)

    @property
    def size(self) -> int:
        """What it takes of memory, in bytes, if nothing of it is shared."""
        looked_up = _LOOKUP_BYTES * (len(self.rooms) + len(self.senders))
        return looked_up + sum(group.size for group in self.groups)


def actions_with_mark(number: int) -> str:
    """A mark, as the JSON of a rule's actions."""
    return to_json([{"set_tweak": _MARK, "value": number}])


def mark_of(actions: Sequence[Any]) -> int | None:
    """The mark in what the evaluator returned, or None for the actions of a rule without."""
    first = actions[0] if actions else None
    if isinstance(first, dict) and first.get("set_tweak") == _MARK:
        mark: int = first["value"]
        return mark
    return None


@attr.s(auto_attribs=True, slots=True)
class UserScopes:
    """What one user's pushers need to know of an event besides the actions of `global`."""

    scopes: Mapping[str, CompiledScope]
    # Whether looking at the rules takes time that counts, even where none is run.
    are_many: bool
    # Whether a pusher walks on after "global": then a silent match there differs from none.
    needs_global_match: bool
    # The user's `global` rules and the same with marks, compiled when first needed.
    _marked_global: tuple[CompiledRules, CompiledRules] | None = None

    @property
    def size(self) -> int:
        """What they take of memory, in bytes, if nothing of it is shared."""
        return sum(scope.size for scope in self.scopes.values())

    def could_match(self, event: EventFacts) -> bool:
        """Whether any rule could match the event: a quick no for most events."""
        for scope in self.scopes.values():  # noqa: SIM110 - `any` takes longer than the rest
            if scope.could_match(event):
                return True
        return False

    def marked_global(
        self, rules: CompiledRules, compile_marked: Callable[[CompiledRules, str], CompiledRules]
    ) -> CompiledRules:
        """The user's `global` rules with a mark as their actions: do they match at all?"""
        if self._marked_global is None or self._marked_global[0] is not rules:
            self._marked_global = (rules, compile_marked(rules, actions_with_mark(0)))
        return self._marked_global[1]
