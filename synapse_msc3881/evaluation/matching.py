# SPDX-License-Identifier: AGPL-3.0-or-later
"""Compiled device scopes, matched against events (MSC3837).

Synapse's own evaluator (in Rust) runs the conditions, so that they mean in a device scope what
they mean in `global`. It returns the actions of the first match, and an empty list both for no
match and for a silent match. So each rule is compiled with a **mark** as its only action: the
number of the rule, which leads to the real actions. All are compiled as `override` rules, which
the evaluator runs before the server-default rules, with one at the end that always matches: it
never gets to those.

The rules are compiled in groups (see `compiling`), and a group is run only for an event that one
of its rules could match (see `prefilter`). So what does not match costs little. Rules with patterns
are run one by one, each only if its user's account allows it (see `spending`): otherwise they count
as not matching, and all other rules are decided as usual.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import attr

from synapse_msc3881.cascade.profile_tags import Actions, Match
from synapse_msc3881.cascade.rulesets import KINDS, to_json
from synapse_msc3881.evaluation.prefilter import (
    EventText,
    Hints,
    Needs,
    is_hinted_at,
    searchable,
)

# What these take of memory, in bytes, about: a rule that is looked up by id, the scopes of a user
# besides what is in them, and the server-default rules.
_LOOKUP_BYTES = 125
_USER_BYTES = 600
_DEFAULTS_BYTES = 10_000

_MARK = "mark"

#: What Synapse's evaluator runs. Opaque here.
CompiledRules = Any

#: Synapse's `run`, for the event at hand: the rules, and then what it needs of the user.
RunNative = Callable[..., Sequence[Any]]

# No number of a rule.
_NOT_SURE = -1

# Where rules that only compare do so with much text, or may be followed by the server-default
# rules: what a rule takes for each of the characters, and a group, in nanoseconds, about.
_COMPARED_NS = 10
_ODD_GROUP_NS = 1_000_000


class Run(Protocol):
    """Runs rules on the event and for the user at hand, who may have to pay for it.

    Attributes:
        is_over: whether patterns are not to be run for the user any more.
        skipped: how often rules were not run for that reason.
        of_defaults: what server-default rules said for the user's devices, so far.
    """

    is_over: bool
    skipped: int
    of_defaults: dict[CompleteDefaults, int | None]

    def __call__(self, rules: CompiledRules) -> Sequence[Any]:
        """The actions of the first rule that matches."""

    def matches_default(self, name: str, rule: CompiledRules) -> bool:
        """Whether a server-default rule matches, which is given by itself.

        Run once, for however many scopes of the user.
        """

    def may(self, work_ns: int) -> bool:
        """Whether work may be done that takes so long, about; if not, it counts as skipped."""

    def name_ns(self) -> int:
        """How much longer a pattern takes for the user's name in it, in nanoseconds, about."""


@attr.s(auto_attribs=True, frozen=True, slots=True)
class EventFacts:
    """What matching needs of an event besides Synapse's evaluator for it.

    Room and sender are None where no rule about them can match: in rooms with extensible events
    Synapse ignores all rules without a condition on the room version (MSC3932).
    """

    room_id: object
    sender: object
    text: EventText
    is_costly: bool  # Whether running rules on it may take time that counts, whatever they are.
    # What groups said of which the users do not matter.
    first_matches: dict[GroupTests, int | None] = attr.ib(factory=dict)


def find_facts(
    run_native: RunNative, always: CompiledRules, flattened_keys: Mapping[str, Any]
) -> EventFacts:
    """What matching needs of an event.

    Args:
        run_native: runs rules on it.
        always: a marked rule without conditions.
        flattened_keys: the event, as Synapse's evaluator gets it.
    """
    matches = mark_of(run_native(always, None, None)) is not None
    by_id = flattened_keys if matches else {}
    return EventFacts(
        room_id=by_id.get("room_id"),
        sender=by_id.get("sender"),
        text=searchable(flattened_keys),
        # Where the rule above does not match, a group goes on to the server-default rules.
        is_costly=not matches,
    )


@attr.s(auto_attribs=True, frozen=True, slots=True, eq=False)
class GroupTests:
    """What the rules of a group ask for, which the evaluator runs at once.

    Users share one whose rules have the same conditions, whatever their names and actions.

    Attributes:
        rules: the rules, with their marks as actions; where they are costly, each by itself.
        needs: of each rule, what an event needs for it to match.
        hints: a quicker test than `needs`, for most events.
        is_costly: whether running them may take time that counts, or depends on the user.
    """

    rules: CompiledRules
    needs: tuple[Needs, ...]
    hints: Hints
    is_costly: bool

    def first_match(self, run: Run, event: EventFacts) -> int | None:
        """The number of the highest-priority rule that matches; see `CompiledScope.match`."""
        if self.is_costly:
            return self._run_one_by_one(run, event)
        # Rules that only compare say the same for all users.
        if self not in event.first_matches:
            number = self._compare(event)
            if number is _NOT_SURE:
                if not self._may_run(run, event):
                    return None
                number = mark_of(run(self.rules))
            event.first_matches[self] = number
        return event.first_matches[self]

    def _run_one_by_one(self, run: Run, event: EventFacts) -> int | None:
        text = event.text
        if run.is_over:
            run.skipped += 1
            return None
        if not run.may(self.hints.look_ns(text)) or not is_hinted_at(self.hints, text):
            return None
        for number, needs in enumerate(self.needs):
            if not run.may(needs.look_ns(text)):
                return None
            if not needs.are_met(text):
                continue
            work = needs.run_ns(text) + _ODD_GROUP_NS * event.is_costly
            if needs.names:
                work += needs.names * run.name_ns()
            if not run.may(work):
                return None
            if mark_of(run(self.rules[number])) is not None:
                return number
        return None

    def _compare(self, event: EventFacts) -> int | None:
        """The first rule that matches; `_NOT_SURE` where Synapse may compare otherwise than we."""
        text = event.text
        if is_hinted_at(self.hints, text):
            for number, needs in enumerate(self.needs):
                if needs.are_met(text):
                    return number if needs.suffice(text) and not event.is_costly else _NOT_SURE
        return None

    def _may_run(self, run: Run, event: EventFacts) -> bool:
        work = _ODD_GROUP_NS if event.is_costly else 0
        long_keys = event.text.long_keys
        if long_keys and not self.hints.compared.isdisjoint(long_keys):
            lengths = [len(event.text.raw[key]) for key in self.hints.compared & long_keys]
            work += _COMPARED_NS * sum(lengths) * len(self.needs)
        return not work or run.may(work)


@attr.s(auto_attribs=True, frozen=True, slots=True, eq=False)
class RuleGroup:
    """Neighbouring rules of a scope.

    Attributes:
        tests: what they ask for.
        matches: what each says where it matches.
        before_room: whether they come before the `room` rules.
        size: what they take of memory, in bytes, if nothing of it is shared.
    """

    tests: GroupTests
    matches: tuple[Match, ...]
    before_room: bool
    size: int


@attr.s(auto_attribs=True, frozen=True, slots=True, eq=False)
class CompleteDefaults:
    """The server-default rules of a complete scope (specification 9). Users may share them.

    Those that only compare are run at once: they are few, and nobody's own. The others look for
    the user's name, say, which the user may have made a dear one. Each of them is run once for all
    of the user's devices, so that many of these take no longer than `global`.

    Attributes:
        rules: those that are on and only compare, with their numbers as marks.
        matches: all that are on, by their numbers.
        ranks: for each, how many of `KINDS` come before it, and so win over it.
        patterns: the numbers of the others, ascending, and each of these rules by itself.
        size: what they take of memory, in bytes.
    """

    rules: CompiledRules
    matches: tuple[Match, ...]
    ranks: tuple[int, ...]
    patterns: tuple[tuple[int, CompiledRules], ...]
    size: int

    def first(self, own: Match | None, run: Run) -> Match | None:
        """The highest-priority match, given that of the scope's other rules."""
        # Nothing comes before an override, but for the master rule where that is on.
        if own is not None and self.ranks and _place_of(own) < self.ranks[0]:
            return own
        known = run.of_defaults
        if self not in known:
            known[self] = self._first_number(run)
        number = known[self]
        if number is None or (own is not None and _place_of(own) < self.ranks[number]):
            return own
        return self.matches[number]

    def _first_number(self, run: Run) -> int | None:
        comparing = mark_of(run(self.rules))
        for number, rule in self.patterns:
            if comparing is not None and comparing < number:
                break
            if run.matches_default(self.matches[number].rule or "", rule):
                return number
        return comparing


_PLACES = {kind: place for place, kind in enumerate(KINDS)}


def _place_of(match: Match) -> int:
    return _PLACES[(match.rule or "").partition("/")[0]]


@attr.s(auto_attribs=True, frozen=True, slots=True)
class CompiledScope:
    """One device scope, ready to be matched against events.

    `room` and `sender` rules match their id exactly (specification 4), so they are looked up, and
    a scope that has no other rules never runs the evaluator.
    """

    groups: tuple[RuleGroup, ...]
    # The actions of the others, by room and by sender. There may be many.
    rooms: Mapping[object, Actions]
    senders: Mapping[object, Actions]
    # What the groups were compiled in: found again as long as somebody has it.
    chunks: tuple[object, ...] = ()
    # Of a complete scope: the server-default rules. None in any other.
    defaults: CompleteDefaults | None = None
    # The groups that only compare.
    comparing: tuple[RuleGroup, ...] = attr.ib(init=False)

    @comparing.default
    def _find_comparing(self) -> tuple[RuleGroup, ...]:
        return tuple(group for group in self.groups if not group.tests.is_costly)

    def could_match(self, event: EventFacts) -> bool:
        """Whether any rule could match the event: a quick no for most events."""
        if self.defaults is not None:  # Some of which matches most.
            return True
        if event.room_id in self.rooms or event.sender in self.senders:
            return True
        for group in self.groups:  # noqa: SIM110 - `any` takes longer than the rest
            if is_hinted_at(group.tests.hints, event.text):
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
        own = self._match_own(run, event)
        return own if self.defaults is None else self.defaults.first(own, run)

    def _match_own(self, run: Run, event: EventFacts) -> Match | None:
        by_id = self._match_by_id(event)
        groups = self.groups
        if run.is_over:
            groups = self.comparing
            run.skipped += len(self.groups) > len(groups)
        for group in groups:
            if by_id is not None and not group.before_room:
                break
            number = group.tests.first_match(run, event)
            if number is not None:
                return group.matches[number]
        return by_id

    def _match_by_id(self, event: EventFacts) -> Match | None:
        actions = self.rooms.get(event.room_id)
        if actions is not None:
            return Match(actions, f"room/{event.room_id}")
        actions = self.senders.get(event.sender)
        return None if actions is None else Match(actions, f"sender/{event.sender}")

    @property
    def looked_at(self) -> int:
        """How many groups of rules, and pieces of text, have to be looked for in an event."""
        return sum(1 + group.tests.hints.piece_count for group in self.groups)

    @property
    def size(self) -> int:
        """What it takes of memory, in bytes, if nothing of it is shared."""
        looked_up = _LOOKUP_BYTES * (len(self.rooms) + len(self.senders))
        defaults = 0 if self.defaults is None else self.defaults.size
        return looked_up + defaults + sum(group.size for group in self.groups)


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


@attr.s(auto_attribs=True, frozen=True, slots=True)
class SilentGlobal:
    """What tells whether a user's `global` rules matched an event, where they gave no actions.

    Then the first that matched, if any, does not notify. So it is enough to know whether any of
    those that do not notify matches, in any order.

    Attributes:
        of: the `global` rules.
        defaults: the server-default rules, those that do not notify marked, the others off.
        groups: the other rules that do not notify.
        is_complete: whether these are all.
    """

    of: CompiledRules
    defaults: CompiledRules | None
    groups: tuple[RuleGroup, ...]
    is_complete: bool

    def matches(self, run: Run, event: EventFacts) -> bool:
        """Whether any matches. One that is not known yet, or may not be run, does."""
        if not self.is_complete or mark_of(run(self.defaults)) is not None:
            return True
        skipped = run.skipped
        if any(group.tests.first_match(run, event) is not None for group in self.groups):
            return True
        return run.skipped > skipped

    @property
    def size(self) -> int:
        """What it takes of memory, in bytes, if nothing of it is shared."""
        return _DEFAULTS_BYTES + sum(group.size for group in self.groups)


@attr.s(auto_attribs=True, slots=True, eq=False)
class UserScopes:
    """What one user's pushers need to know of an event besides the actions of `global`."""

    scopes: Mapping[str, CompiledScope]
    # Whether looking at the rules takes time that counts, even where none is run.
    are_many: bool
    # Whether a pusher walks on after "global": then a silent match there differs from none.
    needs_global_match: bool
    # The scopes of devices with settings of their own, which are complete; and whether a pusher
    # lists it.
    complete: Mapping[str, bool] = attr.ib(factory=dict)
    # For such a user, what tells them apart.
    silent_global: SilentGlobal | None = None
    _scopes_bytes: int = attr.ib(init=False)

    def __attrs_post_init__(self) -> None:
        self._scopes_bytes = _USER_BYTES + sum(scope.size for scope in self.scopes.values())

    @property
    def size(self) -> int:
        """What they take of memory, in bytes, if nothing of it is shared."""
        of_global = self.silent_global.size if self.silent_global is not None else 0
        return self._scopes_bytes + of_global

    def matches_global(self, rules: CompiledRules, run: Run, event: EventFacts) -> bool:
        """Whether the user's `global` rules, which gave no actions, matched the event.

        What is not known does: a room may be muted by it.
        """
        silent = self.silent_global
        return silent is None or silent.of is not rules or silent.matches(run, event)

    def could_match(self, event: EventFacts) -> bool:
        """Whether any rule could match the event: a quick no for most events."""
        for scope in self.scopes.values():  # noqa: SIM110 - `any` takes longer than the rest
            if scope.could_match(event):
                return True
        return False
