# SPDX-License-Identifier: AGPL-3.0-or-later
"""Device scopes, compiled to be matched against events (MSC3837).

Each rule is compiled with a mark as its only action, and neighbouring rules in groups; why, see
`matching`, which runs them.

A user's rules are compiled in **chunks** of neighbours, one at a time, as a user may have
thousands. Where a chunk ends depends on the rules around its end alone, and one that is still in
use is found again. So after a change only the chunk with the change in it is compiled, and users
with the same rules share what is made of them.
"""

from __future__ import annotations

import functools
import hashlib
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol
from weakref import WeakValueDictionary

import attr

from synapse_msc3881.cascade.own_settings import DefaultChange, OwnSettings
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
    CompleteDefaults,
    GroupTests,
    RuleGroup,
    SilentGlobal,
    UserScopes,
    actions_with_mark,
)
from synapse_msc3881.evaluation.prefilter import (
    Needs,
    hints_of,
    is_costly,
    needs_of,
)

# The kinds that Synapse's evaluator runs. The others are looked up by their id.
_BEFORE_ROOM = ("override", "content")
_AFTER_SENDER = ("underride",)

# A group of rules is run at once, and so cannot be stopped before its end.
MAX_CONDITIONS_OF_GROUP = 64

# From this size on, one rule in so many ends a chunk. A small scope is one chunk, and one group.
_MIN_CONDITIONS_OF_CHUNK = 48
_ENDS_CHUNK = 4

# Without parsing a rule, these tell that it may have a pattern. Those without are compiled first.
_SIGNS_OF_PATTERNS = ("content.body", "*", "?", "display_name")

# Nearly all users have the same few actions, which are short.
_SHORT_ACTIONS = 200

# Of rules that are only looked up, so many are a step.
_LOOKUPS_OF_STEP = 1000

# What these take of memory, in bytes, about (`tests/unit/test_memory.py` measures it): a group, a
# rule in it, more for one that is compiled by itself, a condition of a rule, and each byte of a
# rule's JSON.
_GROUP_BYTES = 1200
_RULE_BYTES = 630
_BY_ITSELF_BYTES = 500
_CONDITION_BYTES = 170
_JSON_FACTOR = 2

_DEFAULTS_BYTES = 10_000

_NOTHING: Mapping[object, Actions] = {}
_NO_OWN: Mapping[str, OwnSettings] = {}

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

#: What is changed of server-default rules: their names, actions (JSON) and whether they are on.
DefaultChanges = Mapping[str, tuple[str | None, bool | None]]


class DefaultRule(Protocol):
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


#: Compiles the server-default rules with these changes, and marks; see `seams.RuleCompiler`.
CompileComplete = Callable[
    [DefaultChanges, Callable[[int], str]], tuple[CompiledRules, Sequence[DefaultRule]]
]

#: Is told of a rule that cannot be compiled, which is left out.
ReportBad = Callable[[DeviceRule, BaseException], None]


class GlobalRules(Protocol):
    """What is needed of Synapse to look into a user's `global` rules."""

    def silent_rules(self, rules: CompiledRules, mark: str) -> tuple[CompiledRules, Iterator[str]]:
        """The server-default rules that do not notify, marked; and, one by one, the conditions
        of the others that do not, in JSON."""


@attr.s(auto_attribs=True, frozen=True, slots=True)
class Conditions:
    """What is known of a rule's conditions before they are run.

    Attributes:
        needs: what an event must have to fulfil them.
        size: how many there are, a rule with none being counted as well.
        is_costly: whether running them may take time that counts.
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
    """Neighbouring rules of a scope, compiled at once. Users may share one."""

    groups: tuple[RuleGroup, ...]

    @property
    def size(self) -> int:
        """What it takes of memory, in bytes."""
        return sum(group.size for group in self.groups)


class Compiler:
    """Compiles the rules of one homeserver's users, and finds again what is in use."""

    def __init__(
        self, compile_rules: Compile, compile_complete: CompileComplete | None = None
    ) -> None:
        """
        Args:
            compile_rules: Synapse's compiler.
            compile_complete: the same for server-default rules; None where no scope is complete.
        """
        self._compile = compile_rules
        self._compile_complete = compile_complete
        self._defaults: WeakValueDictionary[frozenset[object], CompleteDefaults] = (
            WeakValueDictionary()
        )
        self._chunks: WeakValueDictionary[bytes, Chunk] = WeakValueDictionary()
        self._tests: WeakValueDictionary[bytes, GroupTests] = WeakValueDictionary()

    def complete_defaults(self, changes: Mapping[str, DefaultChange]) -> CompleteDefaults:
        """The server-default rules of a complete scope, which most have as the server has them.

        Raises:
            Exception: they do not compile.
        """
        assert self._compile_complete is not None
        in_short = {name: (change.actions, change.enabled) for name, change in changes.items()}
        key = frozenset(in_short.items())
        found = self._defaults.get(key)
        if found is None:
            compiled, rules = self._compile_complete(in_short, actions_with_mark)
            found = self._defaults[key] = CompleteDefaults(
                compiled,
                tuple(Match(rule.actions, rule.name) for rule in rules),
                tuple(rule.rank for rule in rules),
                # Without changes all have the same.
                _DEFAULTS_BYTES if changes else 0,
            )
        return found

    def find(self, rules: Sequence[DeviceRule]) -> Chunk | None:
        """The same rules, if they were compiled and are in use."""
        return self._chunks.get(_digest(rules))

    def compile(self, rules: Sequence[DeviceRule], report_bad: ReportBad) -> Chunk:
        """Compile neighbouring rules of a scope: those which parse."""
        # Most have the same actions, which then are in memory once.
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
    """A rule's actions, found again if others have the same.

    Args:
        actions: JSON.
        parsed: what was parsed of the same user's. What is short is found for all users.

    Raises:
        ValueError, TypeError: it holds no list.
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


def _chunks(rules: Iterable[DeviceRule]) -> Iterator[tuple[DeviceRule, ...]]:
    """Split rules where it depends on little but the rules there, so that most splits stay.

    Rules that seem to have patterns and others are not in one chunk.
    """
    chunk: list[DeviceRule] = []
    size = 0
    for rule in rules:
        if chunk and _seems_costly(rule) is not _seems_costly(chunk[-1]):
            yield tuple(chunk)
            chunk, size = [], 0
        # As `Conditions.size`, about, without parsing it.
        of_rule = 1 + rule.conditions.count('"kind"')
        if chunk and size + of_rule > MAX_CONDITIONS_OF_GROUP:
            yield tuple(chunk)
            chunk, size = [], 0
        chunk.append(rule)
        size += of_rule
        # Where rules are large, the limit would end all chunks, and one more rule shift them all.
        if size + 2 * of_rule >= _MIN_CONDITIONS_OF_CHUNK and _ends_chunk(rule):
            yield tuple(chunk)
            chunk, size = [], 0
    if chunk:
        yield tuple(chunk)


def _seems_costly(rule: DeviceRule) -> bool:
    return any(sign in rule.conditions for sign in _SIGNS_OF_PATTERNS)


def _ends_chunk(rule: DeviceRule) -> bool:
    content = (rule.rule_id + rule.conditions).encode("utf-8", "surrogatepass")
    return hashlib.blake2b(content, digest_size=1).digest()[0] % _ENDS_CHUNK == 0


def _marked(number: int, conditions: str) -> RawRule:
    return RawRule(str(number), KINDS["override"], conditions, actions_with_mark(number))


def compile_always(compile_rules: Compile) -> CompiledRules:
    """Compile a marked rule without conditions."""
    return compile_rules([_marked(0, "[]")])


@attr.s(auto_attribs=True, slots=True)
class _Part:
    """The rules of a chunk, and what was compiled of them."""

    rules: Sequence[DeviceRule]
    chunk: Chunk | None
    #: What is compiled first: rules that only compare, and of these and others the silent ones.
    seems_costly: bool
    has_silent: bool


@attr.s(auto_attribs=True, slots=True)
class _Scope:
    """A scope that is being compiled."""

    rules: Sequence[DeviceRule]
    rooms: dict[object, Actions] = attr.Factory(dict)
    senders: dict[object, Actions] = attr.Factory(dict)
    #: In the order in which they are evaluated.
    parts: list[_Part] = attr.Factory(list)
    defaults: CompleteDefaults | None = None

    def so_far(self) -> CompiledScope:
        chunks = tuple(part.chunk for part in self.parts if part.chunk is not None)
        return CompiledScope(
            groups=tuple(group for chunk in chunks for group in chunk.groups),
            rooms=self.rooms or _NOTHING,
            senders=self.senders or _NOTHING,
            chunks=chunks,
            defaults=self.defaults,
        )


class Compilation:
    """Compiles the device scopes that a user's pushers list, step by step.

    What is only looked up comes first, then what is found again, then rules that only compare: they
    count though the rest is not there yet. Of these and of the rest, silent rules come first, so
    that what was muted stays muted.
    """

    def __init__(
        self,
        compiler: Compiler,
        rules: Iterable[DeviceRule],
        tag_lists: Iterable[Sequence[str]],
        report_bad: ReportBad,
        max_bytes: int = sys.maxsize,
        max_new_chunks: int = sys.maxsize,
        own: Mapping[str, OwnSettings] = _NO_OWN,
    ) -> None:
        """
        Args:
            compiler: the homeserver's.
            rules: the user's device rules.
            tag_lists: the profile tags of each of the user's pushers.
            report_bad: is told of each rule that is left out, as it does not parse.
            max_bytes: what is compiled may take of memory, about.
            max_new_chunks: how many chunks of each scope may be compiled, and not found: of
                rules that only compare and of others, of silent ones and of others.
            own: the user's devices with settings of their own that a pusher goes by.
        """
        self._compiler = compiler
        self._rules = rules
        self._tag_lists = list(tag_lists)
        self._report_bad = report_bad
        self._max_bytes = max_bytes
        self._max_new_chunks = max_new_chunks
        self._own = own
        self._bytes = 0
        self._scopes: dict[str, _Scope] = {}
        #: Whether rules were left out as they are too large.
        self.is_too_large = False
        #: Whether rules were left out as they are too many to be compiled now.
        self.is_cut_short = False

    def steps(self) -> Iterator[None]:
        """The work: each step is as long as a group of rules is to compile, about."""
        yield from self.first_steps()
        yield from self.further_steps()

    def first_steps(self) -> Iterator[None]:
        """Find what is only looked up. It takes little, and without it muted rooms would ring."""
        listed = {tag for tags in self._tag_lists for tag in tags}.union(self._own)
        rules = [rule for rule in self._rules if rule.enabled and rule.profile_tag in listed]
        self._scopes = {sys.intern(tag): _Scope(rules) for tag, rules in by_scope(rules).items()}
        yield
        for device_id, settings in self._own.items():
            scope = self._scopes.setdefault(sys.intern(device_id), _Scope(()))
            scope.defaults = self._compiler.complete_defaults(settings.defaults)
            yield
        for scope in self._scopes.values():
            yield from self._look_up(scope)

    def further_steps(self) -> Iterator[None]:
        """Compile the rest."""
        for scope in self._scopes.values():
            yield from self._split(scope)
        for costly in (False, True):
            for silent in (True, False):
                for scope in self._scopes.values():
                    yield from self._compile(scope, costly, silent)

    def _look_up(self, scope: _Scope) -> Iterator[None]:
        parsed: dict[str, Actions] = {}
        for number, rule in enumerate(scope.rules):
            if number % _LOOKUPS_OF_STEP == 0:
                yield
            if rule.kind not in ("room", "sender"):
                continue
            found = scope.rooms if rule.kind == "room" else scope.senders
            try:
                found[rule.rule_id] = parse_once(rule.actions, parsed)
            except (ValueError, TypeError, RecursionError) as error:
                self._report_bad(rule, error)

    def _split(self, scope: _Scope) -> Iterator[None]:
        for kinds in (_BEFORE_ROOM, _AFTER_SENDER):
            for rules in _chunks(rule for rule in scope.rules if rule.kind in kinds):
                part = _Part(
                    rules,
                    chunk=self._compiler.find(rules),
                    seems_costly=_seems_costly(rules[0]),
                    has_silent=any('"notify"' not in rule.actions for rule in rules),
                )
                scope.parts.append(part)
                yield

    def _compile(self, scope: _Scope, costly: bool, silent: bool) -> Iterator[None]:
        new = 0
        for part in scope.parts:
            if part.seems_costly is not costly or part.has_silent is not silent:
                continue
            if part.chunk is None:
                # Another scope may have had the same since.
                part.chunk = self._compiler.find(part.rules)
            if part.chunk is None and new < self._max_new_chunks:
                new += 1
                part.chunk = self._compiler.compile(part.rules, self._report_bad)
            if part.chunk is None:
                self.is_cut_short = True
            elif self._bytes + part.chunk.size > self._max_bytes:
                self.is_too_large = True
                part.chunk = None
            else:
                self._bytes += part.chunk.size
            yield

    def so_far(self) -> UserScopes | None:
        """What is compiled; None where there is nothing that could match."""
        if not self._scopes:
            return None
        scopes = {tag: scope.so_far() for tag, scope in self._scopes.items()}
        return UserScopes(
            scopes,
            are_many=sum(scope.looked_at for scope in scopes.values()) > _MANY_RULES,
            needs_global_match=any(_walks_past_global(tags, scopes) for tags in self._tag_lists),
            complete={
                device_id: any(device_id in tags for tags in self._tag_lists)
                for device_id in self._own
            },
        )


def _walks_past_global(tags: Sequence[str], scopes: Mapping[str, object]) -> bool:
    return GLOBAL in tags and any(tag in scopes for tag in tags[tags.index(GLOBAL) + 1 :])


class GlobalCompilation:
    """Compiles what tells whether `global` matched silently, step by step."""

    def __init__(
        self,
        compiler: Compiler,
        global_rules: GlobalRules,
        rules: CompiledRules,
        max_bytes: int = sys.maxsize,
    ) -> None:
        """
        Args:
            compiler: the homeserver's.
            global_rules: looks into them.
            rules: the user's `global` rules.
            max_bytes: what is compiled may take of memory, about.
        """
        self._compiler = compiler
        self._global_rules = global_rules
        self._rules = rules
        self._max_bytes = max_bytes
        self._defaults: CompiledRules | None = None
        self._chunks: list[Chunk] = []
        self._is_complete = False

    def steps(self) -> Iterator[None]:
        """The work, as for `Compilation`."""
        self._defaults, others = self._global_rules.silent_rules(self._rules, actions_with_mark(0))
        yield
        # Any of them will do, so they go without a name, and their order is of no account.
        rules = (DeviceRule(GLOBAL, "override", "", 0, each, "[]", True) for each in others)
        left = self._max_bytes
        for chunk in _chunks(rules):
            compiled = self._compiler.find(chunk) or self._compiler.compile(chunk, _ignore)
            left -= compiled.size
            if left < 0:
                return
            self._chunks.append(compiled)
            yield
        self._is_complete = True

    def so_far(self) -> SilentGlobal:
        """What is compiled."""
        return SilentGlobal(
            of=self._rules,
            defaults=self._defaults,
            groups=tuple(group for chunk in self._chunks for group in chunk.groups),
            is_complete=self._is_complete,
        )


def _ignore(_rule: DeviceRule, _error: BaseException) -> None:
    """Synapse itself compiled the rule before."""
