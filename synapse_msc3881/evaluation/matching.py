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

from collections.abc import Mapping

import attr

from synapse_msc3881.cascade.profile_tags import Actions, Match
from synapse_msc3881.evaluation.complete_defaults import CompleteDefaults
from synapse_msc3881.evaluation.prefilter import LOOK_NS, Hints, Needs, is_hinted_at
from synapse_msc3881.evaluation.running import CompiledRules, EventFacts, Run, mark_of

# Roughly how many bytes of memory these take: a rule that is looked up by id, a user's scopes
# apart from their contents, and the server-default rules.
_LOOKUP_BYTES = 125
_USER_BYTES = 600
_DEFAULTS_BYTES = 10_000

# Stands for no rule's number.
_NOT_SURE = -1

# Roughly how many nanoseconds rules that only compare take in two odd cases: per rule and character
# of a long text, and per group if the server-default rules may follow.
_COMPARED_NS = 10
_ODD_GROUP_NS = 1_000_000


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
        if self not in event.known:
            number = self._compare(event)
            if number is _NOT_SURE:
                if not self._may_run(run, event):
                    return None
                number = mark_of(run(self.rules))
            event.known[self] = number
        found: int | None = event.known[self]
        return found

    def _run_one_by_one(self, run: Run, event: EventFacts) -> int | None:
        text = event.text
        if run.is_over:
            run.skipped += 1
            return None
        hints = self.hints
        work = hints.look_ns(text) if hints.pieces else LOOK_NS
        if not run.may(work) or not is_hinted_at(hints, text):
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
        return own if self.defaults is None else self.defaults.first(own, run, event)

    def _match_own(self, run: Run, event: EventFacts) -> Match | None:
        by_id = self._match_by_id(event) if self.rooms or self.senders else None
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
