# SPDX-License-Identifier: AGPL-3.0-or-later
"""Rules of device scopes, compiled to be matched against events (MSC3837).

Each rule is compiled with a mark as its only action, and neighbouring rules in groups; `matching`,
which runs them, explains why. `compilation` decides what is compiled for a user, and when. Users
with the same rules share what is compiled.
"""

from __future__ import annotations

import functools
import hashlib
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol
from weakref import WeakValueDictionary

import attr

from synapse_msc3881.cascade.own_settings import DefaultChange
from synapse_msc3881.cascade.profile_tags import Actions, Match
from synapse_msc3881.cascade.rulesets import (
    KINDS,
    DeviceRule,
    from_json,
    parse_actions,
)
from synapse_msc3881.evaluation.complete_defaults import About, CompleteDefaults, DefaultRule
from synapse_msc3881.evaluation.conditions import hints_of, is_costly, needs_of
from synapse_msc3881.evaluation.matching import GroupTests, RuleGroup
from synapse_msc3881.evaluation.prefilter import Needs
from synapse_msc3881.evaluation.running import CompiledRules, actions_with_mark

# A group of rules is run in one call, which cannot be interrupted.
MAX_CONDITIONS_OF_GROUP = 64

# Nearly all users have the same few actions, which are short.
_SHORT_ACTIONS = 200

# Roughly how many bytes of memory these take (`tests/unit/test_memory.py` measures it): a group, a
# rule in it, the extra for a rule compiled by itself, a condition of a rule, and each byte of a
# rule's JSON.
_GROUP_BYTES = 1200
_RULE_BYTES = 630
_BY_ITSELF_BYTES = 500
_CONDITION_BYTES = 170
_JSON_FACTOR = 2

_DEFAULTS_BYTES = 15_000


class RawRule(NamedTuple):
    """One rule for Synapse's compiler."""

    rule_id: str
    priority_class: int
    conditions: str  # JSON
    actions: str  # JSON


# Always matches, and so keeps the evaluator from the server-default rules. If it does not
# (`EventFacts`), their actions carry no mark.
_NO_MATCH = RawRule("no match", KINDS["override"], "[]", "[]")

#: Compiles rules, highest priority first.
Compile = Callable[[Sequence[RawRule]], CompiledRules]

#: Changes to server-default rules: their names, actions (JSON) and whether they are on.
DefaultChanges = Mapping[str, tuple[str | None, bool | None]]


class RawDefault(Protocol):
    """A server-default rule; see `seams.DefaultRule`."""

    @property
    def name(self) -> str:
        """Its kind and its id."""

    @property
    def actions(self) -> Actions:
        """Its actions."""

    @property
    def rank(self) -> int:
        """How many kinds of rules come before it."""

    @property
    def about_user(self) -> Sequence[Mapping[str, Any]] | None:
        """Its conditions, if it may match for one user and not for another."""

    @property
    def alone(self) -> CompiledRules | None:
        """The rule by itself, if it looks for a pattern."""


#: Compiles the server-default rules with these changes and with marks; see `seams.RuleCompiler`.
CompileComplete = Callable[
    [DefaultChanges, Callable[[int], str]],
    tuple[CompiledRules, CompiledRules, Sequence[RawDefault]],
]

#: Called with a rule that cannot be compiled and is left out.
ReportBad = Callable[[DeviceRule, BaseException], None]


@attr.s(auto_attribs=True, frozen=True, slots=True)
class Conditions:
    """What is known of a rule's conditions before they are run.

    Attributes:
        needs: what an event must have to fulfil them.
        size: how many there are, plus one for the rule itself.
        is_costly: whether running them may take time that matters.
    """

    needs: Needs
    size: int
    is_costly: bool


def _look_at(conditions: str) -> Conditions:
    parsed = from_json(conditions)
    for condition in parsed if isinstance(parsed, list) else ():
        # Of these there are few.
        if isinstance(condition, dict) and isinstance(key := condition.get("key"), str):
            condition["key"] = sys.intern(key)
    size = 1 + len(parsed) if isinstance(parsed, list) else 1
    return Conditions(
        needs=needs_of(parsed),
        size=size,
        is_costly=is_costly(parsed) or size > MAX_CONDITIONS_OF_GROUP,
    )


class _LookedAt(NamedTuple):
    rule: DeviceRule
    conditions: Conditions
    actions: Actions


@attr.s(auto_attribs=True, frozen=True, slots=True, eq=False)
class Chunk:
    """Neighbouring rules of a scope, compiled together. Users may share one."""

    groups: tuple[RuleGroup, ...]

    @property
    def size(self) -> int:
        """How many bytes of memory it takes."""
        return sum(group.size for group in self.groups)


class Compiler:
    """Compiles the rules of one homeserver's users, and finds again those still in use."""

    def __init__(
        self, compile_rules: Compile, compile_complete: CompileComplete | None = None
    ) -> None:
        """
        Args:
            compile_rules: Synapse's compiler.
            compile_complete: the same for server-default rules; None if no scope is complete.
        """
        self._compile = compile_rules
        self._compile_complete = compile_complete
        self._defaults: WeakValueDictionary[frozenset[object], CompleteDefaults] = (
            WeakValueDictionary()
        )
        self._chunks: WeakValueDictionary[bytes, Chunk] = WeakValueDictionary()
        self._tests: WeakValueDictionary[bytes, GroupTests] = WeakValueDictionary()

    def complete_defaults(self, changes: Mapping[str, DefaultChange]) -> CompleteDefaults:
        """The server-default rules of a complete scope; in most they are the server's, unchanged.

        Raises:
            Exception: they do not compile.
        """
        assert self._compile_complete is not None
        in_short = {name: (change.actions, change.enabled) for name, change in changes.items()}
        key = frozenset(in_short.items())
        found = self._defaults.get(key)
        if found is None:
            whole, comparing, rules = self._compile_complete(in_short, actions_with_mark)
            found = self._defaults[key] = CompleteDefaults(
                whole,
                comparing,
                tuple(
                    DefaultRule(
                        Match(rule.actions, rule.name),
                        rule.rank,
                        None if rule.about_user is None else About.of(rule.about_user),
                        rule.alone,
                    )
                    for rule in rules
                ),
                # Without changes, all users have the same.
                _DEFAULTS_BYTES if changes else 0,
            )
        return found

    def find(self, rules: Sequence[DeviceRule]) -> Chunk | None:
        """These rules as compiled before, if that is still in use."""
        return self._chunks.get(_digest(rules))

    def compile(self, rules: Sequence[DeviceRule], report_bad: ReportBad) -> Chunk:
        """Compile those of a scope's neighbouring rules that parse."""
        # Most have the same actions, which are then in memory only once.
        parsed: dict[str, Actions] = {}
        looked_at = [found for rule in rules if (found := _try_to_look(rule, parsed, report_bad))]
        groups = [self._make_groups(group, report_bad) for group in _split(looked_at)]
        chunk = Chunk(tuple(group for some in groups for group in some))
        self._chunks[_digest(rules)] = chunk
        return chunk

    def _make_groups(
        self, rules: Sequence[_LookedAt], report_bad: ReportBad
    ) -> Sequence[RuleGroup]:
        try:
            return (_group(rules, self._find_tests(rules)),)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # noqa: BLE001 - a panic in Rust is no Exception
            if len(rules) == 1:
                report_bad(rules[0].rule, error)
                return ()
            return [group for each in rules for group in self._make_groups((each,), report_bad)]

    def _find_tests(self, rules: Sequence[_LookedAt]) -> GroupTests:
        digest = _digest_of(each.rule.conditions for each in rules)
        tests = self._tests.get(digest)
        if tests is None:
            tests = self._tests[digest] = self._compile_tests(rules)
        return tests

    def _compile_tests(self, rules: Sequence[_LookedAt]) -> GroupTests:
        needs = tuple(each.conditions.needs for each in rules)
        marked = [_marked(number, each.rule.conditions) for number, each in enumerate(rules)]
        is_costly = any(each.conditions.is_costly for each in rules)
        return GroupTests(
            rules=(
                tuple(self._compile([rule, _NO_MATCH]) for rule in marked)
                if is_costly
                else self._compile([*marked, _NO_MATCH])
            ),
            needs=needs,
            hints=hints_of(needs),
            is_costly=is_costly,
        )


def _group(rules: Sequence[_LookedAt], tests: GroupTests) -> RuleGroup:
    return RuleGroup(
        tests=tests,
        matches=tuple(Match(each.actions, each.rule.name) for each in rules),
        before_room=KINDS[rules[0].rule.kind] > KINDS["room"],
        size=_GROUP_BYTES
        + sum(
            _RULE_BYTES
            + _BY_ITSELF_BYTES * tests.is_costly
            + _CONDITION_BYTES * each.conditions.size
            + _JSON_FACTOR * (len(each.rule.conditions) + len(each.rule.actions))
            for each in rules
        ),
    )


def _digest(rules: Iterable[DeviceRule]) -> bytes:
    return _digest_of((rule.kind, rule.rule_id, rule.conditions, rule.actions) for rule in rules)


def _digest_of(content: Iterable[object]) -> bytes:
    return hashlib.blake2b(repr([*content]).encode(), digest_size=16).digest()


def _try_to_look(
    rule: DeviceRule, parsed: dict[str, Actions], report_bad: ReportBad
) -> _LookedAt | None:
    try:
        return _LookedAt(rule, _look_at(rule.conditions), parse_once(rule.actions, parsed))
    except (ValueError, TypeError, RecursionError) as error:
        report_bad(rule, error)
        return None


def parse_once(actions: str, parsed: dict[str, Actions]) -> Actions:
    """A rule's actions, reused if other rules have the same.

    Args:
        actions: JSON.
        parsed: what was parsed for the same user. Short ones are reused for all users.

    Raises:
        ValueError, TypeError: this is not a list.
    """
    if len(actions) <= _SHORT_ACTIONS:
        return _parse_short(actions)
    if actions not in parsed:
        parsed[actions] = parse_actions(actions)
    return parsed[actions]


_parse_short = functools.lru_cache(maxsize=1000)(parse_actions)


def _split(rules: Sequence[_LookedAt]) -> Iterator[Sequence[_LookedAt]]:
    """Split rules into groups: those that only compare, and the others."""
    group: list[_LookedAt] = []
    size = 0
    for rule in rules:
        conditions = rule.conditions
        size += conditions.size
        if group and (
            size > MAX_CONDITIONS_OF_GROUP
            or group[-1].conditions.is_costly is not conditions.is_costly
        ):
            yield group
            group, size = [], conditions.size
        group.append(rule)
    if group:
        yield group


def _marked(number: int, conditions: str) -> RawRule:
    return RawRule(str(number), KINDS["override"], conditions, actions_with_mark(number))


def compile_always(compile_rules: Compile) -> CompiledRules:
    """Compile a marked rule without conditions."""
    return compile_rules([_marked(0, "[]")])
