# SPDX-License-Identifier: AGPL-3.0-or-later
"""What is compiled for a user, step by step: in which order, and within which bounds.

A user's rules are compiled in **chunks** of neighbours, one at a time, since there may be
thousands. Where a chunk ends depends only on the rules around its end, and one that is still in
use is found again. So a change recompiles only the chunk that contains it.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Protocol

import attr

from synapse_msc3881.cascade.own_settings import OwnSettings
from synapse_msc3881.cascade.profile_tags import GLOBAL, Actions
from synapse_msc3881.cascade.rulesets import DeviceRule, by_scope
from synapse_msc3881.evaluation.compiling import (
    MAX_CONDITIONS_OF_GROUP,
    Chunk,
    Compiler,
    ReportBad,
    parse_once,
)
from synapse_msc3881.evaluation.complete_defaults import CompleteDefaults
from synapse_msc3881.evaluation.matching import CompiledScope, SilentGlobal, UserScopes
from synapse_msc3881.evaluation.running import CompiledRules, actions_with_mark

# The kinds that Synapse's evaluator runs. The others are looked up by their id.
_BEFORE_ROOM = ("override", "content")
_AFTER_SENDER = ("underride",)

# From this size on, one rule in this many ends a chunk. A small scope is one chunk and one group.
_MIN_CONDITIONS_OF_CHUNK = 48
_ENDS_CHUNK = 4

# Signs, without parsing a rule, that it may have a pattern. Those without are compiled first.
_SIGNS_OF_PATTERNS = ("content.body", "*", "?", "display_name")

# How many rules make one step: where they are only looked up, and where it is seen what they cost.
_LOOKUPS_OF_STEP = 1000
_RULES_OF_STEP = 200

_NOTHING: Mapping[object, Actions] = {}
_NO_OWN: Mapping[str, OwnSettings] = {}

# With more rules than this to look at, even looking takes time that matters.
_MANY_RULES = 64


class GlobalRules(Protocol):
    """What Synapse must provide to look into a user's `global` rules."""

    def silent_rules(self, rules: CompiledRules, mark: str) -> tuple[CompiledRules, Iterator[str]]:
        """The server-default rules that do not notify, marked; and the conditions, in JSON, of each
        other rule that does not."""


@attr.s(auto_attribs=True, slots=True)
class _Part:
    """The rules of a chunk, and what they were compiled into."""

    rules: Sequence[DeviceRule]
    chunk: Chunk | None
    has_silent: bool


@attr.s(auto_attribs=True, slots=True)
class _Run:
    """Neighbouring rules that all seem to have patterns, or all seem only to compare."""

    seems_costly: bool
    rules: list[DeviceRule]
    #: In the order of evaluation. Empty until the rules are split.
    parts: list[_Part] = attr.Factory(list)


@attr.s(auto_attribs=True, slots=True)
class _Scope:
    """A scope that is being compiled."""

    rules: Sequence[DeviceRule]
    rooms: dict[object, Actions] = attr.Factory(dict)
    senders: dict[object, Actions] = attr.Factory(dict)
    #: In the order of evaluation.
    runs: list[_Run] = attr.Factory(list)
    defaults: CompleteDefaults | None = None

    def parts(self, *, costly: bool) -> Iterator[_Part]:
        """The chunks of rules that seem costly, or of the others."""
        for run in self.runs:
            if run.seems_costly is costly:
                yield from run.parts

    def so_far(self) -> CompiledScope:
        parts = (part for run in self.runs for part in run.parts)
        chunks = tuple(part.chunk for part in parts if part.chunk is not None)
        return CompiledScope(
            groups=tuple(group for chunk in chunks for group in chunk.groups),
            rooms=self.rooms or _NOTHING,
            senders=self.senders or _NOTHING,
            chunks=chunks,
            defaults=self.defaults,
        )


class Compilation:
    """Compiles the device scopes that a user's pushers list, step by step.

    What is only looked up comes first, then rules that only compare, which apply even before the
    rest is ready. Among these, and among the rest, silent rules come first, to keep muted what was
    muted. Of thousands of rules with patterns, it takes a while even to find again what is still in
    use: that is done when the silent rules that only compare are ready.
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
            report_bad: called with each rule that is left out because it does not parse.
            max_bytes: roughly how much memory the compiled rules may take.
            max_new_chunks: how many chunks of each scope may be compiled rather than found again,
                counted separately for rules that only compare or do more, silent or not.
            own: by device, the own settings that one of the user's pushers follows.
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
        #: Whether rules were left out because they are too large.
        self.is_too_large = False
        #: Whether rules were left out because there are too many to compile now.
        self.is_cut_short = False

    def steps(self) -> Iterator[None]:
        """The work. Each step takes about as long as compiling a group of rules."""
        yield from self.first_steps()
        yield from self.further_steps()

    def first_steps(self) -> Iterator[None]:
        """Prepare what is only looked up: it is cheap, and without it muted rooms would ring."""
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
            yield from self._find_runs(scope)
        yield from self._split(costly=False)
        yield from self._compile(costly=False, silent=True)
        yield from self._split(costly=True)
        yield from self._compile(costly=False, silent=False)
        yield from self._compile(costly=True, silent=True)
        yield from self._compile(costly=True, silent=False)

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

    def _find_runs(self, scope: _Scope) -> Iterator[None]:
        before_room: list[_Run] = []
        after_sender: list[_Run] = []
        for number, rule in enumerate(scope.rules):
            if number % _RULES_OF_STEP == 0:
                yield
            if rule.kind in _BEFORE_ROOM:
                runs = before_room
            elif rule.kind in _AFTER_SENDER:
                runs = after_sender
            else:
                continue
            costly = _seems_costly(rule)
            if not runs or runs[-1].seems_costly is not costly:
                runs.append(_Run(costly, []))
            runs[-1].rules.append(rule)
        scope.runs = [*before_room, *after_sender]

    def _split(self, *, costly: bool) -> Iterator[None]:
        for scope in self._scopes.values():
            for run in scope.runs:
                if run.seems_costly is not costly:
                    continue
                for rules in _chunks(run.rules):
                    part = _Part(
                        rules,
                        chunk=self._compiler.find(rules),
                        has_silent=any('"notify"' not in rule.actions for rule in rules),
                    )
                    run.parts.append(part)
                    yield

    def _compile(self, *, costly: bool, silent: bool) -> Iterator[None]:
        for scope in self._scopes.values():
            new = 0
            for part in scope.parts(costly=costly):
                if part.has_silent is not silent:
                    continue
                if part.chunk is None:
                    # Another scope may have compiled the same since.
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
        """What is compiled so far; None if nothing could match."""
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
    """Compiles, step by step, what tells whether `global` matched silently."""

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
            global_rules: looks into the user's rules.
            rules: the user's `global` rules.
            max_bytes: roughly how much memory the compiled rules may take.
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
        # Any match will do, so they need no names, and their order does not matter.
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
        """What is compiled so far."""
        return SilentGlobal(
            of=self._rules,
            defaults=self._defaults,
            groups=tuple(group for chunk in self._chunks for group in chunk.groups),
            is_complete=self._is_complete,
        )


def _ignore(_rule: DeviceRule, _error: BaseException) -> None:
    """Ignore it: Synapse itself has compiled the rule before."""


def _chunks(rules: Iterable[DeviceRule]) -> Iterator[tuple[DeviceRule, ...]]:
    """Split rules at points that depend on little but the rules there: most survive a change.

    Rules that seem to have patterns never share a chunk with others.
    """
    chunk: list[DeviceRule] = []
    size = 0
    for rule in rules:
        if chunk and _seems_costly(rule) is not _seems_costly(chunk[-1]):
            yield tuple(chunk)
            chunk, size = [], 0
        # Roughly `Conditions.size`, without parsing.
        of_rule = 1 + rule.conditions.count('"kind"')
        if chunk and size + of_rule > MAX_CONDITIONS_OF_GROUP:
            yield tuple(chunk)
            chunk, size = [], 0
        chunk.append(rule)
        size += of_rule
        # With large rules the limit would end every chunk, and one more rule would shift them all.
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
