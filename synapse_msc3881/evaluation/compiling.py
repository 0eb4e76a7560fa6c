# SPDX-License-Identifier: AGPL-3.0-or-later
"""Device scopes, compiled to be matched against events (MSC3837).

Each rule is compiled with a mark as its only action, and neighbouring rules in groups; why, see
`matching`, which runs them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import attr

from synapse_msc3881.cascade.profile_tags import GLOBAL, Actions, Match
from synapse_msc3881.cascade.rulesets import (
    KINDS,
    DeviceRule,
    by_scope,
    from_json,
    parse_actions,
)
from synapse_msc3881.evaluation.matching import (
    CompiledRules,
    CompiledScope,
    RuleGroup,
    UserScopes,
    actions_with_mark,
)
from synapse_msc3881.evaluation.prefilter import (
    Needs,
    has_wildcard,
    hints_of,
    is_costly,
    needs_of,
)

# The kinds that Synapse's evaluator runs. The others are looked up by their id.
_BEFORE_ROOM = ("override", "content")
_AFTER_SENDER = ("underride",)

# A group of rules is run at once, and so cannot be stopped before its end.
_MAX_CONDITIONS_OF_GROUP = 64

# What these take of memory, in bytes, about: a group, a rule in it and each byte of its JSON.
_GROUP_BYTES = 500
_RULE_BYTES = 1000
_JSON_FACTOR = 4

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

#: Compiles rules, highest priority first.
Compile = Callable[[Sequence[RawRule]], CompiledRules]


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


@functools.lru_cache(maxsize=_MAX_SHARED)
def _compile_group(rules: tuple[RawRule, ...], compile_rules: Compile) -> RuleGroup:
    conditions = [_look_at(rule.conditions) for rule in rules]
    needs = tuple(each.needs for each in conditions)
    marked = [_marked(number, rule.conditions) for number, rule in enumerate(rules)]
    is_costly = any(each.is_costly for each in conditions)
    return RuleGroup(
        rules=(
            tuple(compile_rules([rule, _NO_MATCH]) for rule in marked)
            if is_costly
            else compile_rules([*marked, _NO_MATCH])
        ),
        matches=tuple(Match(parse_actions(rule.actions), rule.rule_id) for rule in rules),
        needs=needs,
        hints=hints_of(needs),
        before_room=rules[0].priority_class > KINDS["room"],
        is_costly=is_costly,
        size=_GROUP_BYTES
        + sum(
            _RULE_BYTES + _JSON_FACTOR * (len(rule.conditions) + len(rule.actions))
            for rule in rules
        ),
    )


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
    return RawRule(str(number), KINDS["override"], conditions, actions_with_mark(number))


def compile_always(compile_rules: Compile) -> CompiledRules:
    """Compile a marked rule without conditions."""
    return compile_rules([_marked(0, "[]")])


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
