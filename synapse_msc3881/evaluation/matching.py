# SPDX-License-Identifier: AGPL-3.0-or-later
"""Device scopes, compiled and matched against events (MSC3837).

Synapse's own evaluator (in Rust) runs the conditions, so that they mean in a device scope what
they mean in `global`. It returns the actions of the first match, and an empty list both for no
match and for a silent match. So each rule is compiled with a **mark** as its only action: the
number of the rule, which leads to the real actions. All are compiled as `override` rules, which
the evaluator runs before the server-default rules, with one at the end that always matches: it
never gets to those.

The rules are compiled in groups, and a group is run only for an event that one of its rules could
match (see `prefilter`). So what does not match costs little, and what is costly is done in steps
that can be stopped in between (see `spending`).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import attr

from synapse_msc3881.cascade.profile_tags import GLOBAL, Actions, Match
from synapse_msc3881.cascade.rulesets import (
    KINDS,
    DeviceRule,
    by_scope,
    from_json,
    parse_actions,
    to_json,
)
from synapse_msc3881.evaluation.prefilter import (
    Hints,
    Needs,
    could_match,
    has_wildcard,
    hints_of,
    is_costly,
    is_hinted_at,
    needs_of,
)

# The kinds that Synapse's evaluator runs. The others are looked up by their id.
_BEFORE_ROOM = ("override", "content")
_AFTER_SENDER = ("underride",)

# A group of rules is run at once, and so cannot be stopped before its end.
_MAX_CONDITIONS_OF_GROUP = 64

# What these take of memory, in bytes, about: a group, a rule in it and each byte of its JSON, and
# a rule that is looked up by id.
_GROUP_BYTES = 500
_RULE_BYTES = 1000
_JSON_FACTOR = 4
_LOOKUP_BYTES = 125

_MARK = "mark"

# How many groups of rules, and conditions of rules, users may share.
_MAX_SHARED = 1000

_NOTHING: Mapping[object, Actions] = {}

# With more rules than this to look at, already looking takes time that counts.
_MANY_RULES = 64


class RawRule(NamedTuple):
    """One rule for Synapse's compiler."""

    rule_id: str
    priority_class: int
    conditions: str  # JSON
    actions: str  # JSON


# Always matches, and so keeps the evaluator from the server-default rules. Where it does not
# (`EventFacts`), what they say has no mark.
_NO_MATCH = RawRule("no match", KINDS["override"], "[]", "[]")

#: What Synapse's evaluator runs. Opaque here.
CompiledRules = Any

#: Compiles rules, highest priority first.
Compile = Callable[[Sequence[RawRule]], CompiledRules]

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


@attr.s(auto_attribs=True, frozen=True, slots=True)
class Conditions:
    """What is known of a rule's conditions before they are run.

    Attributes:
        needs: what an event must have to fulfil them.
        size: how many there are, a rule with none being counted as well.
        has_wildcard: whether Synapse makes a regular expression of one.
        is_costly: whether running them may take time that counts.
    """

    needs: Needs
    size: int
    has_wildcard: bool
    is_costly: bool


# Users of the same client have the same rules. What is made of them is then found sooner, in the
# caches of the processor too, and takes less memory.
@functools.lru_cache(maxsize=_MAX_SHARED)
def _look_at(conditions: str) -> Conditions:
    parsed = from_json(conditions)
    size = 1 + len(parsed) if isinstance(parsed, list) else 1
    return Conditions(
        needs=needs_of(parsed),
        size=size,
        has_wildcard=has_wildcard(parsed),
        is_costly=is_costly(parsed) or size > _MAX_CONDITIONS_OF_GROUP,
    )


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


@functools.lru_cache(maxsize=_MAX_SHARED)
def _compile_group(rules: tuple[RawRule, ...], compile_rules: Compile) -> RuleGroup:
    conditions = [_look_at(rule.conditions) for rule in rules]
    needs = tuple(each.needs for each in conditions)
    marked = [_marked(number, rule.conditions) for number, rule in enumerate(rules)]
    return RuleGroup(
        rules=compile_rules([*marked, _NO_MATCH]),
        matches=tuple(Match(parse_actions(rule.actions), rule.rule_id) for rule in rules),
        needs=needs,
        hints=hints_of(needs),
        before_room=rules[0].priority_class > KINDS["room"],
        is_costly=any(each.is_costly for each in conditions),
        size=_GROUP_BYTES
        + sum(
            _RULE_BYTES + _JSON_FACTOR * (len(rule.conditions) + len(rule.actions))
            for rule in rules
        ),
    )


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


def compile_scope(rules: Iterable[DeviceRule], compile_rules: Compile) -> CompiledScope | None:
    """Compile the enabled rules of one device scope.

    Args:
        rules: the scope's rules, in the order in which they are evaluated.
        compile_rules: Synapse's compiler.

    Returns:
        The compiled scope, or None where no rule is enabled: such a scope never matches.

    Raises:
        Exception: a rule does not parse.
    """
    enabled = [rule for rule in rules if rule.enabled]
    if not enabled:
        return None
    if not all(rule.kind in KINDS for rule in enabled):
        raise ValueError("a rule is of an unknown kind")
    groups = (
        group
        for kinds in (_BEFORE_ROOM, _AFTER_SENDER)
        for group in _split([rule for rule in enabled if rule.kind in kinds])
    )
    return CompiledScope(
        groups=tuple(_compile_group(group, compile_rules) for group in groups),
        rooms=_by_id(enabled, "room"),
        senders=_by_id(enabled, "sender"),
    )


def _split(rules: Sequence[DeviceRule]) -> Iterator[tuple[RawRule, ...]]:
    """Split rules into groups: one with a wildcard by itself, the others with their like."""
    group: list[RawRule] = []
    last: Conditions | None = None
    size = 0
    for rule in rules:
        conditions = _look_at(rule.conditions)
        size += conditions.size
        if last is not None and (
            size > _MAX_CONDITIONS_OF_GROUP
            or last.has_wildcard
            or conditions.has_wildcard
            or last.is_costly is not conditions.is_costly
        ):
            yield tuple(group)
            group, size = [], conditions.size
        group.append(RawRule(rule.name, KINDS[rule.kind], rule.conditions, rule.actions))
        last = conditions
    if group:
        yield tuple(group)


def _by_id(rules: Iterable[DeviceRule], kind: str) -> Mapping[object, Actions]:
    # Most have the same actions: muted rooms, for one.
    parsed: dict[str, Actions] = {}
    found: dict[object, Actions] = {}
    for rule in rules:
        if rule.kind == kind:
            if rule.actions not in parsed:
                parsed[rule.actions] = parse_actions(rule.actions)
            found[rule.rule_id] = parsed[rule.actions]
    return found or _NOTHING


def _marked(number: int, conditions: str) -> RawRule:
    return RawRule(str(number), KINDS["override"], conditions, _mark(number))


def _mark(number: int) -> str:
    return to_json([{"set_tweak": _MARK, "value": number}])


def mark_of(actions: Sequence[Any]) -> int | None:
    """The mark in what the evaluator returned, or None for the actions of a rule without."""
    first = actions[0] if actions else None
    if isinstance(first, dict) and first.get("set_tweak") == _MARK:
        mark: int = first["value"]
        return mark
    return None


def compile_always(compile_rules: Compile) -> CompiledRules:
    """Compile a marked rule without conditions."""
    return compile_rules([_marked(0, "[]")])


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
            self._marked_global = (rules, compile_marked(rules, _mark(0)))
        return self._marked_global[1]


def compile_user(
    rules: Iterable[DeviceRule], tag_lists: Iterable[Sequence[str]], compile_rules: Compile
) -> UserScopes | None:
    """Compile the device scopes that a user's pushers list.

    Args:
        rules: the user's device rules.
        tag_lists: the profile tags of each of the user's pushers.
        compile_rules: Synapse's compiler.

    Returns:
        The compiled scopes, or None where there is none that could match.

    Raises:
        Exception: a rule does not parse.
    """
    tag_lists = list(tag_lists)
    listed = {tag for tags in tag_lists for tag in tags}
    scopes = {}
    for tag, scope_rules in by_scope(rules).items():
        if tag in listed and (scope := compile_scope(scope_rules, compile_rules)):
            scopes[tag] = scope
    if not scopes:
        return None
    return UserScopes(
        scopes,
        are_many=sum(scope.looked_at for scope in scopes.values()) > _MANY_RULES,
        needs_global_match=any(_walks_past_global(tags, scopes) for tags in tag_lists),
    )


def _walks_past_global(tags: Sequence[str], scopes: Mapping[str, object]) -> bool:
    return GLOBAL in tags and any(tag in scopes for tag in tags[tags.index(GLOBAL) + 1 :])
