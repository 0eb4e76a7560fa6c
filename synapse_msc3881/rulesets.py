# SPDX-License-Identifier: AGPL-3.0-or-later
"""The push rules of device scopes: their form for clients, compiling them, and matching (MSC3837).

Synapse's own evaluator (in Rust) runs the conditions, so that they mean in a device scope what
they mean in `global`. It returns the actions of the first match, and an empty list both for no
match and for a silent match. So each rule is compiled with a **mark** as its only action: the
number of the rule, which leads to the real actions.

The rules are compiled in groups, and a group is run only for an event that one of its rules could
match (see `prefilter`). So what does not match costs little, and what is costly is done in steps
that can be stopped in between (see `spending`).
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import attr

from synapse_msc3881.prefilter import (
    Needs,
    could_match,
    has_wildcard,
    hint_of,
    is_costly,
    needs_of,
)
from synapse_msc3881.profile_tags import GLOBAL, Actions, Match

#: The kinds of rules, by falling priority, with Synapse's number for each.
KINDS: Mapping[str, int] = {"override": 5, "content": 4, "room": 3, "sender": 2, "underride": 1}

# The kinds that Synapse's evaluator runs. The others are looked up by their id.
_BEFORE_ROOM = ("override", "content")
_AFTER_SENDER = ("underride",)

# A group of rules is run at once, and so cannot be stopped before its end.
_MAX_CONDITIONS_OF_GROUP = 64

# Each group holds a table of the default rules, which takes as much memory as so many rules.
_SIZE_OF_GROUP = 12

# With more rules than this to look at, already looking takes time that counts.
_MANY_RULES = 64

#: One rule for Synapse's compiler: rule id, priority class, conditions (JSON), actions (JSON).
RawRule = tuple[str, int, str, str]

#: What Synapse's evaluator runs. Opaque here.
CompiledRules = Any

#: Compiles rules, highest priority first, without any server-default rule that matches.
Compile = Callable[[Sequence[RawRule]], CompiledRules]

#: Runs compiled rules on the event and the user at hand, and returns the first match's actions.
#: Is also told whether that may take time that counts.
Run = Callable[[CompiledRules, bool], Sequence[Any]]


@attr.s(auto_attribs=True, frozen=True, slots=True)
class DeviceRule:
    """A rule in a device scope, as stored."""

    profile_tag: str
    kind: str
    rule_id: str
    priority: int
    conditions: str  # JSON
    actions: str  # JSON
    enabled: bool

    @property
    def name(self) -> str:
        """The rule's name in its scope, such as ``room/!abc:example.org``."""
        return f"{self.kind}/{self.rule_id}"


def to_json(value: object) -> str:
    """JSON as Synapse writes it to its database: ASCII, and no space between.

    Raises:
        ValueError: the value holds a number that JSON has not (infinity).
    """
    return json.dumps(value, allow_nan=False, separators=(",", ":"))


def from_json(stored: str) -> Any:
    """Read JSON from a row of ours, which somebody may have tampered with.

    Raises:
        ValueError: it is no JSON, or holds what no client and no gateway could be sent: a number
            that JSON has not, or half a character. Python alone would accept these.
    """
    value = _DECODER.decode(stored)
    if "\\ud" in stored.lower():
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    return value


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


# Made once: `json.loads` would make one for each rule.
_DECODER = json.JSONDecoder(parse_constant=_refuse)


def _actions(stored: str) -> list[Any]:
    actions = from_json(stored)
    if not isinstance(actions, list):
        raise TypeError("the actions of a rule are no list")
    return actions


def by_priority(rules: Iterable[DeviceRule]) -> list[DeviceRule]:
    """The rules in the order in which they are evaluated, for rules of one scope."""
    return sorted(rules, key=lambda rule: (KINDS.get(rule.kind, 0), rule.priority), reverse=True)


def by_scope(rules: Iterable[DeviceRule]) -> dict[str, list[DeviceRule]]:
    """The rules of each device scope, in the order in which they are evaluated."""
    scopes: dict[str, list[DeviceRule]] = {}
    for rule in rules:
        scopes.setdefault(rule.profile_tag, []).append(rule)
    return {tag: by_priority(scopes[tag]) for tag in sorted(scopes)}


#: A ruleset as clients read it: for each kind its rules, in the form of the client-server API.
Ruleset = dict[str, list[dict[str, Any]]]


def format_for_client(
    rules: Iterable[DeviceRule], report_bad: Callable[[Exception], None]
) -> dict[str, Ruleset]:
    """A user's device scopes, as clients read them (SEMANTICS 3).

    Args:
        rules: the user's device rules.
        report_bad: called for a row that is no rule, which is left out.

    Returns:
        The ruleset of each scope that has a rule.
    """
    scopes: dict[str, Ruleset] = {}
    for tag, scope_rules in by_scope(rules).items():
        ruleset: Ruleset = {kind: [] for kind in KINDS}
        for rule in scope_rules:
            try:
                ruleset[rule.kind].append(_format_rule(rule))
            except (ValueError, LookupError, TypeError) as error:
                report_bad(error)
        scopes[tag] = ruleset
    return scopes


def _format_rule(rule: DeviceRule) -> dict[str, Any]:
    formatted: dict[str, Any] = {
        "rule_id": rule.rule_id,
        "default": False,
        "enabled": rule.enabled,
        "actions": _actions(rule.actions),
    }
    conditions = from_json(rule.conditions)
    if rule.kind in ("override", "underride"):
        formatted["conditions"] = conditions
    elif rule.kind == "content":
        formatted["pattern"] = conditions[0]["pattern"]
    return formatted


@attr.s(auto_attribs=True, frozen=True, slots=True)
class EventFacts:
    """What matching needs of an event besides Synapse's evaluator for it.

    Room and sender are None where no rule about them can match.
    """

    room_id: object
    sender: object
    text: Mapping[str, str]  # From `prefilter.searchable`.
    has_much_text: bool


@attr.s(auto_attribs=True, frozen=True, slots=True)
class RuleGroup:
    """Rules that the evaluator runs at once, and what an event needs for each to match."""

    rules: CompiledRules
    needs: tuple[Needs, ...]
    before_room: bool
    is_costly: bool


@attr.s(auto_attribs=True, frozen=True, slots=True)
class CompiledScope:
    """One device scope, ready to be matched against events.

    `room` and `sender` rules match their id exactly (SEMANTICS 4), so they are looked up, and
    a scope that has no other rules never runs the evaluator.
    """

    groups: tuple[RuleGroup, ...]
    # The groups' rules, by mark.
    matches: tuple[Match, ...]
    # The actions of the others, by room and by sender. There may be many.
    rooms: Mapping[object, Actions]
    senders: Mapping[object, Actions]

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
            if could_match(group.needs, event.text):
                mark = marked(run(group.rules, group.is_costly or event.has_much_text))
                if mark is not None:
                    return self.matches[mark]
        return by_id

    def _match_by_id(self, event: EventFacts) -> Match | None:
        actions = self.rooms.get(event.room_id)
        if actions is not None:
            return Match(actions, f"room/{event.room_id}")
        actions = self.senders.get(event.sender)
        return None if actions is None else Match(actions, f"sender/{event.sender}")

    @property
    def size(self) -> int:
        """What it takes in memory, in rules."""
        rules = len(self.matches) + len(self.rooms) + len(self.senders)
        return rules + _SIZE_OF_GROUP * len(self.groups)


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
    before = [rule for rule in enabled if rule.kind in _BEFORE_ROOM]
    after = [rule for rule in enabled if rule.kind in _AFTER_SENDER]
    return CompiledScope(
        groups=(
            *_groups(before, 0, compile_rules, before_room=True),
            *_groups(after, len(before), compile_rules, before_room=False),
        ),
        matches=tuple(_match(rule) for rule in before + after),
        rooms=_by_id(enabled, "room"),
        senders=_by_id(enabled, "sender"),
    )


def _groups(
    rules: Sequence[DeviceRule], first_mark: int, compile_rules: Compile, *, before_room: bool
) -> Iterator[RuleGroup]:
    """Compile rules in groups of neighbours (see `_split`)."""
    marks = itertools.count(first_mark)
    for costly, group in _split(rules):
        raw = [
            (str(mark := next(marks)), KINDS[rule.kind], rule.conditions, _mark(mark))
            for rule, _ in group
        ]
        needs = tuple(needs_of(conditions) for _, conditions in group)
        yield RuleGroup(compile_rules(raw), needs, before_room, costly)


def _split(
    rules: Sequence[DeviceRule],
) -> Iterator[tuple[bool, list[tuple[DeviceRule, Any]]]]:
    """Split rules into groups: one with a wildcard by itself, the others with their like.

    Returns:
        For each group whether it is costly to run, and its rules, each with parsed conditions.
    """
    group: list[tuple[DeviceRule, Any]] = []
    group_is_costly = False
    size = 0
    for rule in rules:
        conditions = from_json(rule.conditions)
        alone = has_wildcard(conditions)
        # A rule without conditions counts too.
        cost = 1 + len(conditions) if isinstance(conditions, list) else 1
        costly = is_costly(conditions) or cost > _MAX_CONDITIONS_OF_GROUP
        full = alone or size + cost > _MAX_CONDITIONS_OF_GROUP
        if group and (full or costly is not group_is_costly):
            yield group_is_costly, group
            group, size = [], 0
        group.append((rule, conditions))
        group_is_costly = costly
        size += _MAX_CONDITIONS_OF_GROUP if alone else cost
    if group:
        yield group_is_costly, group


def _by_id(rules: Iterable[DeviceRule], kind: str) -> dict[object, Actions]:
    # Most have the same actions: muted rooms, for one.
    parsed: dict[str, Actions] = {}
    found: dict[object, Actions] = {}
    for rule in rules:
        if rule.kind == kind:
            if rule.actions not in parsed:
                parsed[rule.actions] = _actions(rule.actions)
            found[rule.rule_id] = parsed[rule.actions]
    return found


def _match(rule: DeviceRule) -> Match:
    return Match(_actions(rule.actions), rule.name)


def _mark(number: int) -> str:
    return to_json([{"set_tweak": "mark", "value": number}])


def marked(actions: Sequence[Any]) -> int | None:
    """The mark in what the evaluator returned, or None for no match."""
    if not actions:
        return None
    mark = actions[0]["value"]
    assert isinstance(mark, int)
    return mark


@attr.s(auto_attribs=True, slots=True)
class UserScopes:
    """What one user's pushers need to know of an event besides the actions of `global`."""

    scopes: Mapping[str, CompiledScope]
    # Of each rule that is not looked up by id: where an event must hold which text (`hint_of`).
    hints: tuple[tuple[str, str], ...]
    # Whether looking at the rules takes time that counts, even where none is run.
    are_many: bool
    # Whether a pusher walks on after "global": then a silent match there differs from none.
    needs_global_match: bool
    # The user's `global` rules and the same with marks, compiled when first needed.
    _marked_global: tuple[CompiledRules, CompiledRules] | None = None

    @property
    def size(self) -> int:
        """What they take in memory, in rules."""
        return sum(scope.size for scope in self.scopes.values())

    def could_match(self, event: EventFacts) -> bool:
        """Whether any rule could match the event: a quick no for most events."""
        text = event.text
        for key, literal in self.hints:
            if literal in text.get(key, ""):
                return True
        for scope in self.scopes.values():
            if event.room_id in scope.rooms or event.sender in scope.senders:
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
    hints = tuple(
        hint_of(needs)
        for scope in scopes.values()
        for group in scope.groups
        for needs in group.needs
    )
    return UserScopes(
        scopes,
        hints,
        are_many=len(hints) > _MANY_RULES,
        needs_global_match=any(_walks_past_global(tags, scopes) for tags in tag_lists),
    )


def _walks_past_global(tags: Sequence[str], scopes: Mapping[str, object]) -> bool:
    return GLOBAL in tags and any(tag in scopes for tag in tags[tags.index(GLOBAL) + 1 :])
