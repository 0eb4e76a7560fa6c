# SPDX-License-Identifier: AGPL-3.0-or-later
"""No device scope rings for what the server-default rules keep quiet (specification 4).

In `global`, the server-default `override` rules come before the kinds content, room, sender and
underride: reactions, edits, notices and the like ring for none of these. A device scope has no
such rules. So if a scope's match is of these kinds and has `notify`, the default rules are asked,
as the user has them in `global`; if the first of them to match is silent, the scope counts as not
matching.

Whatever does not depend on the user is asked once per event. Most events end there: no default rule
matches, and a user with none that is silent *and* about the user needs nothing else.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, MutableMapping, Sequence
from typing import Any

import attr

from synapse_msc3881 import seams
from synapse_msc3881.cascade.outcomes import Suppressed
from synapse_msc3881.cascade.profile_tags import Match
from synapse_msc3881.evaluation.running import CompiledRules, RunNative, actions_with_mark, mark_of

#: How many users' default rules a process remembers, and how many `global` rules of theirs it may
#: keep in memory for that, beyond what Synapse's own cache does.
MAX_USERS = 5000
MAX_RULES = 250_000

_KINDS_BEFORE = "override/"


@attr.s(auto_attribs=True, frozen=True, slots=True, eq=False)
class DefaultRules:
    """The server-default `override` rules that some users have on, with the same actions.

    Attributes:
        compiled: the rules, with their numbers as marks.
        silent: for each rule its id if it has no `notify`, else None.
        asks_user: for each rule as the first match, and at the end for no match, whether an earlier
            rule is about the user and decides otherwise.
    """

    compiled: CompiledRules
    silent: tuple[str | None, ...]
    asks_user: tuple[bool, ...]


#: For one event: which of the rules that do not depend on the user matches. None if none does.
Memo = MutableMapping[DefaultRules, int | None]


def rings_below_overrides(outcomes: Mapping[str, Match]) -> bool:
    """Whether any scope's match is one that the server-default rules may keep quiet."""
    for match in outcomes.values():  # noqa: SIM110 - `any` takes longer than the rest
        if _may_be_suppressed(match):
            return True
    return False


def suppress(outcomes: Mapping[str, Match], default_rule: str) -> dict[str, Match | Suppressed]:
    """The outcomes of an event that a server-default rule keeps quiet."""
    return {
        tag: Suppressed(default_rule, match.rule) if _may_be_suppressed(match) else match
        for tag, match in outcomes.items()
    }


def _may_be_suppressed(match: Match) -> bool:
    return "notify" in match.actions and not (match.rule or "").startswith(_KINDS_BEFORE)


class Suppression:
    """Finds the server-default rule, if any, that keeps an event quiet for a user."""

    def __init__(
        self,
        compiler: seams.RuleCompiler,
        max_users: int = MAX_USERS,
        max_rules: int = MAX_RULES,
    ) -> None:
        # Keyed by the rules themselves: nearly all users have the same.
        self._make = functools.lru_cache(maxsize=1000)(functools.partial(_compile, compiler))
        # With the `global` rules that they were taken from: another object after a change.
        self._by_user: dict[str, tuple[CompiledRules, DefaultRules, int]] = {}
        self._rules_held = 0
        self._max_users = max_users
        self._max_rules = max_rules

    def silencing_rule(
        self,
        run_native: RunNative,
        memo: Memo,
        rules: CompiledRules,
        user: Sequence[Any],
    ) -> str | None:
        """Find the rule that keeps the event quiet for a user.

        Nobody is charged: it takes less than `global` does for the same rules and event.

        Args:
            run_native: runs rules on the event.
            memo: the event's, empty at first.
            rules: the user's `global` rules.
            user: what `run_native` needs to know of the user, the user id first.

        Returns:
            The rule's id, such as ``.m.rule.reaction``; None if the event is not kept quiet.
        """
        defaults = self._defaults_of(user[0], rules)
        if defaults not in memo:
            memo[defaults] = mark_of(run_native(defaults.compiled, None, None))
        first = memo[defaults]
        if defaults.asks_user[-1 if first is None else first]:
            first = mark_of(run_native(defaults.compiled, *user))
        return None if first is None else defaults.silent[first]

    def _defaults_of(self, user_id: str, rules: CompiledRules) -> DefaultRules:
        held = self._by_user.get(user_id)
        if held is not None and held[0] is rules:
            return held[1]
        overrides, count = seams.default_overrides(rules)
        defaults = self._make(overrides)
        self._drop(user_id)
        while self._by_user and (
            len(self._by_user) >= self._max_users or self._rules_held + count > self._max_rules
        ):
            self._drop(next(iter(self._by_user)))
        self._by_user[user_id] = (rules, defaults, count)
        self._rules_held += count
        return defaults

    def _drop(self, user_id: str) -> None:
        held = self._by_user.pop(user_id, None)
        if held is not None:
            self._rules_held -= held[2]


def _compile(
    compiler: seams.RuleCompiler, overrides: tuple[seams.DefaultOverride, ...]
) -> DefaultRules:
    verdicts = [*(rule.notifies for rule in overrides), True]  # No match silences nothing.
    return DefaultRules(
        compiler.compile_defaults(
            {rule.rule_id: actions_with_mark(number) for number, rule in enumerate(overrides)}
        ),
        tuple(None if rule.notifies else rule.rule_id.rpartition("/")[2] for rule in overrides),
        tuple(
            any(rule.personal and rule.notifies is not verdict for rule in overrides[:number])
            for number, verdict in enumerate(verdicts)
        ),
    )
