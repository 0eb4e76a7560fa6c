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

# Roughly how many bytes of memory these take: a rule that is looked up by id, a user's scopes
# apart from their contents, and the server-default rules.
_LOOKUP_BYTES = 125
_USER_BYTES = 600
_DEFAULTS_BYTES = 10_000

_MARK = "mark"

#: What Synapse's evaluator runs. Opaque here.
CompiledRules = Any

#: Synapse's `run` for the current event: takes the rules, then what it needs to know of the user.
RunNative = Callable[..., Sequence[Any]]

# Stands for no rule's number.
_NOT_SURE = -1

# Roughly how many nanoseconds rules that only compare take in two odd cases: per rule and character
# of a long text, and per group if the server-default rules may follow.
_COMPARED_NS = 10
_ODD_GROUP_NS = 1_000_000


class Run(Protocol):
    """Runs rules on the current event for the current user, who may have to pay for it.

    Attributes:
        is_over: whether no more patterns may be run for the user.
        skipped: how often rules were not run for that reason.
        complete_scopes: how many of the user's scopes are complete (specification 9).
        of_defaults: what the server-default rules have said so far for the user's devices.
    """

    is_over: bool
    skipped: int
    complete_scopes: int
    of_defaults: dict[CompleteDefaults, int | None]

    def __call__(self, rules: CompiledRules) -> Sequence[Any]:
        """The actions of the first rule that matches."""

    def matches_default(self, name: str, rule: CompiledRules) -> bool:
        """Whether a server-default rule, compiled by itself, matches.

        It is run once, however many scopes the user has.
        """

    def may(self, work_ns: int) -> bool:
        """Whether work that takes roughly this long may be done; if not, it counts as skipped."""

    def name_ns(self) -> int:
        """Roughly how many nanoseconds the user's name adds to a pattern."""


@attr.s(auto_attribs=True, frozen=True, slots=True)
class EventFacts:
    """What matching needs to know about an event besides Synapse's evaluator for it.

    Room and sender are None if no rule about them can match: in rooms with extensible events,
    Synapse ignores all rules without a condition on the room version (MSC3932).
    """

    room_id: object
    sender: object
    text: EventText
    is_costly: bool  # Whether running any rules on it may take time that matters.
    # The results of groups that do not depend on the user.
    first_matches: dict[GroupTests, int | None] = attr.ib(factory=dict)


def find_facts(
    run_native: RunNative, always: CompiledRules, flattened_keys: Mapping[str, Any]
) -> EventFacts:
    """What matching needs to know about an event.

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
        # If the rule above does not match, a group goes on to the server-default rules.
        is_costly=not matches,
    )


@attr.s(auto_attribs=True, frozen=True, slots=True, eq=False)
class GroupTests:
    """What the rules of a group ask for. The evaluator runs them in one call.

    Users whose rules have the same conditions share it, whatever the rules' names and actions.

    Attributes:
        rules: the rules, with their marks as actions; if they are costly, each by itself.
        needs: for each rule, what an event must have for it to match.
        hints: a quicker test than `needs`, enough for most events.
        is_costly: whether running them may take time that matters, or depends on the user.
    """

    rules: CompiledRules
    needs: tuple[Needs, ...]
    hints: Hints
    is_costly: bool

    def first_match(self, run: Run, event: EventFacts) -> int | None:
        """The number of the highest-priority rule that matches; see `CompiledScope.match`."""
        if self.is_costly:
            return self._run_one_by_one(run, event)
        # Rules that only compare give the same result for all users.
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
        """The first rule that matches; `_NOT_SURE` if Synapse may compare differently."""
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
        matches: the result of each, if it matches.
        before_room: whether they come before the `room` rules.
        size: how many bytes of memory they take if none are shared.
    """

    tests: GroupTests
    matches: tuple[Match, ...]
    before_room: bool
    size: int


@attr.s(auto_attribs=True, frozen=True, slots=True, eq=False)
class CompleteDefaults:
    """The server-default rules of a complete scope (specification 9). Users may share them.

    For a user with one such device, all of them are run in one call. Some look for the user's name,
    say, which the user may have made expensive. So for a user with more devices, only those that
    just compare are run in one call, and each of the others once for all of the devices: however
    many these are, it takes no longer than `global`.

    Attributes:
        rules: those that are on, with their numbers as marks.
        comparing: those of them that only compare.
        matches: the matches of all that are on, by their numbers.
        ranks: for each, how many of `KINDS` precede it and so take priority.
        patterns: the numbers of the others, ascending, each with its rule compiled by itself.
        size: how many bytes of memory they take.
    """

    rules: CompiledRules
    comparing: CompiledRules
    matches: tuple[Match, ...]
    ranks: tuple[int, ...]
    patterns: tuple[tuple[int, CompiledRules], ...]
    size: int

    def first(self, own: Match | None, run: Run) -> Match | None:
        """The highest-priority match, given that of the scope's other rules."""
        # Nothing precedes an override rule except the master rule, if that is on.
        if own is not None and self.ranks and _place_of(own) < self.ranks[0]:
            return own
        known = run.of_defaults
        if self not in known:
            is_only_one = run.complete_scopes == 1
            known[self] = mark_of(run(self.rules)) if is_only_one else self._first_number(run)
        number = known[self]
        if number is None or (own is not None and _place_of(own) < self.ranks[number]):
            return own
        return self.matches[number]

    def _first_number(self, run: Run) -> int | None:
        comparing = mark_of(run(self.comparing))
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

    `room` and `sender` rules match their id exactly (specification 4), so they are looked up; a
    scope without other rules never runs the evaluator.
    """

    groups: tuple[RuleGroup, ...]
    # The actions of the `room` and `sender` rules. There may be many.
    rooms: Mapping[object, Actions]
    senders: Mapping[object, Actions]
    # The chunks that the groups were compiled in: found again as long as something holds them.
    chunks: tuple[object, ...] = ()
    # The server-default rules of a complete scope; None in any other.
    defaults: CompleteDefaults | None = None
    # The groups that only compare.
    comparing: tuple[RuleGroup, ...] = attr.ib(init=False)

    @comparing.default
    def _find_comparing(self) -> tuple[RuleGroup, ...]:
        return tuple(group for group in self.groups if not group.tests.is_costly)

    def could_match(self, event: EventFacts) -> bool:
        """Whether any rule could match the event: a quick no for most events."""
        if self.defaults is not None:  # One of them matches most events.
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
            run: runs compiled rules on the current event for the current user.
            event: the same event.

        Returns:
            That rule's match, with empty actions if it is silent; None if no rule matches.
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
        """How many groups of rules and pieces of text must be looked for in an event."""
        return sum(1 + group.tests.hints.piece_count for group in self.groups)

    @property
    def size(self) -> int:
        """How many bytes of memory it takes if none are shared."""
        looked_up = _LOOKUP_BYTES * (len(self.rooms) + len(self.senders))
        defaults = 0 if self.defaults is None else self.defaults.size
        return looked_up + defaults + sum(group.size for group in self.groups)


def actions_with_mark(number: int) -> str:
    """A mark, as the JSON of a rule's actions."""
    return to_json([{"set_tweak": _MARK, "value": number}])


def mark_of(actions: Sequence[Any]) -> int | None:
    """The mark in what the evaluator returned, or None for the actions of an unmarked rule."""
    first = actions[0] if actions else None
    if isinstance(first, dict) and first.get("set_tweak") == _MARK:
        mark: int = first["value"]
        return mark
    return None


@attr.s(auto_attribs=True, frozen=True, slots=True)
class SilentGlobal:
    """What tells whether a user's `global` rules matched an event, if they gave no actions.

    In that case the first that matched, if any, does not notify. So it is enough to know whether
    any rule that does not notify matches, in any order.

    Attributes:
        of: the `global` rules.
        defaults: the server-default rules: those that do not notify marked, the others off.
        groups: the other rules that do not notify.
        is_complete: whether these are all.
    """

    of: CompiledRules
    defaults: CompiledRules | None
    groups: tuple[RuleGroup, ...]
    is_complete: bool

    def matches(self, run: Run, event: EventFacts) -> bool:
        """Whether any matches. A rule not yet known, or not allowed to run, counts as a match."""
        if not self.is_complete or mark_of(run(self.defaults)) is not None:
            return True
        skipped = run.skipped
        if any(group.tests.first_match(run, event) is not None for group in self.groups):
            return True
        return run.skipped > skipped

    @property
    def size(self) -> int:
        """How many bytes of memory it takes if none are shared."""
        return _DEFAULTS_BYTES + sum(group.size for group in self.groups)


@attr.s(auto_attribs=True, slots=True, eq=False)
class UserScopes:
    """What one user's pushers need to know about an event besides the actions of `global`."""

    scopes: Mapping[str, CompiledScope]
    # Whether merely looking at the rules takes time that matters.
    are_many: bool
    # Whether a pusher tries further scopes after "global": if so, a silent match differs from none.
    needs_global_match: bool
    # The scopes of devices with their own settings, which are complete; and whether a pusher lists
    # each.
    complete: Mapping[str, bool] = attr.ib(factory=dict)
    # What tells a silent match from none, if that is needed.
    silent_global: SilentGlobal | None = None
    _scopes_bytes: int = attr.ib(init=False)

    def __attrs_post_init__(self) -> None:
        self._scopes_bytes = _USER_BYTES + sum(scope.size for scope in self.scopes.values())

    @property
    def size(self) -> int:
        """How many bytes of memory they take if none are shared."""
        of_global = self.silent_global.size if self.silent_global is not None else 0
        return self._scopes_bytes + of_global

    def matches_global(self, rules: CompiledRules, run: Run, event: EventFacts) -> bool:
        """Whether the user's `global` rules, which gave no actions, matched the event.

        If that is not known, they did: it may be what mutes a room.
        """
        silent = self.silent_global
        return silent is None or silent.of is not rules or silent.matches(run, event)

    def could_match(self, event: EventFacts) -> bool:
        """Whether any rule could match the event: a quick no for most events."""
        for scope in self.scopes.values():  # noqa: SIM110 - `any` takes longer than the rest
            if scope.could_match(event):
                return True
        return False
