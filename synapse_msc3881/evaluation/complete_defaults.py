# SPDX-License-Identifier: AGPL-3.0-or-later
"""The server-default rules of a device with settings of its own (specification 9).

Most of them say nothing about the user. So they are run once for each event, for nobody in
particular, which decides for nearly everybody; only those whom the event may name or mention are
asked one by one.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import attr

from synapse_msc3881.cascade.profile_tags import Match
from synapse_msc3881.cascade.rulesets import KINDS
from synapse_msc3881.evaluation.conditions import needs_of
from synapse_msc3881.evaluation.prefilter import (
    KEY_WITH_WORDS,
    Needs,
    may_be_in,
    searched_for_names,
)
from synapse_msc3881.evaluation.running import CompiledRules, EventFacts, Run, mark_of


@attr.s(auto_attribs=True, frozen=True, slots=True)
class About:
    """For whom a rule about the user may match.

    Attributes:
        needs: what an event must have for it to match for anyone.
        list_key: the key of a list that must have the user's id; None if it asks for no such.
        by_name: whether the text must have one of the user's names.
    """

    needs: Needs
    list_key: str | None
    by_name: bool

    @classmethod
    def of(cls, conditions: Sequence[Mapping[str, Any]]) -> About:
        """For whom a rule with these conditions may match."""
        listed = [
            each["key"]
            for each in conditions
            if each.get("kind") == "event_property_contains" and each.get("value_type") == "user_id"
        ]
        return cls(
            needs_of(list(conditions)), listed[0] if listed else None, any(map(_names, conditions))
        )


def _names(condition: Mapping[str, Any]) -> bool:
    kind, key = condition.get("kind"), condition.get("key")
    return kind == "contains_display_name" or (
        kind == "event_match"
        and key == KEY_WITH_WORDS
        and condition.get("pattern_type") == "user_localpart"
    )


@attr.s(auto_attribs=True, frozen=True, slots=True)
class DefaultRule:
    """A server-default rule that is on.

    Attributes:
        match: what it says.
        rank: how many of `KINDS` precede it and so take priority.
        about: for whom it may match; None if for all users alike.
        alone: the rule compiled by itself, if it searches a text.
    """

    match: Match
    rank: int
    about: About | None = None
    alone: CompiledRules | None = None


@attr.s(auto_attribs=True, frozen=True, slots=True)
class _Answer:
    """What the rules say of an event.

    Attributes:
        number: the first that matches, except for rules about the user.
        for_anyone: whether an earlier rule may match for anyone.
        listed: the ids of users for whom one may match.
        text: one may match for those whose names are in it; None if for nobody else.
    """

    number: int | None
    for_anyone: bool
    listed: Collection[object] = frozenset()
    text: str | None = None

    def may_differ(self, user: Sequence[Any]) -> bool:
        """Whether an earlier rule may match for a user."""
        user_id = user[0]
        if self.for_anyone or user_id in self.listed:
            return True
        text = self.text
        if text is None:
            return False
        name = user[1]
        return (name is not None and may_be_in(text, name)) or may_be_in(
            text, user_id[1:].partition(":")[0]
        )


@attr.s(auto_attribs=True, frozen=True, slots=True, eq=False)
class CompleteDefaults:
    """The server-default rules of a complete scope. Users may share them.

    For a user with one such device, who must be asked, all of them are run in one call. Some look
    for the user's name, which the user may have made expensive. So for a user with more devices,
    only those that just compare are run in one call, and each of the others once for all of the
    devices: however many these are, it takes no longer than `global`.

    Attributes:
        whole: the rules that are on, with their numbers as marks.
        comparing: those of them that search no text.
        rules: what is known of each, by its number.
        size: how many bytes of memory they take.
    """

    whole: CompiledRules
    comparing: CompiledRules
    rules: tuple[DefaultRule, ...]
    size: int

    def first(self, own: Match | None, run: Run, event: EventFacts) -> Match | None:
        """The highest-priority match, given that of the scope's other rules."""
        # Nothing precedes an override rule except the master rule, if that is on.
        if own is not None and self.rules and _place_of(own) < self.rules[0].rank:
            return own
        answer: _Answer | None = event.known.get(self)
        if answer is None:
            answer = event.known[self] = self._answer(event)
        number = answer.number
        if answer.may_differ(run.user):
            number = run.once(self, lambda: self._ask(run, event))
        if number is None:
            return own
        rule = self.rules[number]
        return own if own is not None and _place_of(own) < rule.rank else rule.match

    def _answer(self, event: EventFacts) -> _Answer:
        number = self._first(event.run_for_nobody(self.comparing), event, None)
        listed: set[object] = set()
        text: str | None = None
        for rule in self.rules[:number]:
            about = rule.about
            if about is None or not about.needs.are_met(event.text):
                continue
            if about.list_key is not None:
                listed.update(event.text.items_of(about.list_key))
                continue
            text = searched_for_names(event.text) if about.by_name else None
            if text is None:
                return _Answer(number, for_anyone=True)
        return _Answer(number, False, listed, text)

    def _ask(self, run: Run, event: EventFacts) -> int | None:
        """The first rule that matches for a user."""
        if run.complete_scopes == 1:
            return mark_of(run(self.whole))
        return self._first(mark_of(run(self.comparing)), event, run)

    def _first(self, comparing: int | None, event: EventFacts, run: Run | None) -> int | None:
        """The first rule that matches, given the first of those that search no text."""
        for number, rule in enumerate(self.rules[:comparing]):
            if rule.alone is not None and _matches_alone(rule, event, run):
                return number
        return comparing


def _matches_alone(rule: DefaultRule, event: EventFacts, run: Run | None) -> bool:
    """Whether a rule that searches a text matches: it is run once, whatever asks for it."""
    alone, what = rule.alone, ("default", rule.match.rule)
    if rule.about is not None:
        return run is not None and run.once(what, lambda: mark_of(run(alone)) is not None)
    found: bool | None = event.known.get(what)
    if found is None:
        found = event.known[what] = event.run_for_nobody(alone) is not None
    return found


_PLACES = {kind: place for place, kind in enumerate(KINDS)}


def _place_of(match: Match) -> int:
    return _PLACES[(match.rule or "").partition("/")[0]]
