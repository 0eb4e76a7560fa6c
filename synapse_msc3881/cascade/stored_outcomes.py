# SPDX-License-Identifier: AGPL-3.0-or-later
"""The outcome of an event's evaluation, read from the row that `outcomes` describes: pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attr

from synapse_msc3881.cascade.outcomes import (
    MARK,
    OWN_MARK,
    OwnMatch,
    Recorded,
    Suppressed,
    is_mark,
    scope_key,
    sendable,
)
from synapse_msc3881.cascade.profile_tags import (
    DEFAULT_TAGS,
    GLOBAL,
    Actions,
    Decision,
    Match,
    walk,
)


@attr.s(auto_attribs=True, frozen=True, slots=True)
class Outcomes:
    """What a stored row says about its user's scopes.

    Attributes:
        matches: the match of each scope that has one; ask `outcome_in`.
        failed: whether every pusher uses the `global` rules because evaluating failed.
        suppressed: the matches that do not count.
        by_fingerprint: whether these are keyed by the scopes' fingerprints, and name rules by
            theirs. Rows of early versions have the names.
        own: what the scopes of devices with settings of their own say, where they are listed.
    """

    matches: Mapping[str, Match]
    failed: bool = False
    suppressed: Mapping[str, Suppressed] = attr.ib(factory=dict)
    by_fingerprint: bool = False
    own: Mapping[str, OwnMatch] = attr.ib(factory=dict)

    @classmethod
    def read(cls, actions: Actions, notif: bool) -> Outcomes:
        """Read the actions of a row, with or without our element.

        Args:
            actions: the row's actions.
            notif: whether the row is one that `global` caused.

        Raises:
            ValueError: our element does not have the form that `outcomes` describes.
        """
        found: dict[str, Recorded] = {}
        failed = by_fingerprint = False
        for action in actions:
            if is_mark(action):
                assert isinstance(action, Mapping)
                stored = action[MARK]
                if stored is None:
                    failed = True
                elif isinstance(stored, list):
                    by_fingerprint = True
                    found.update(_entries(stored))
                else:
                    found.update(_named_matches(stored))
        matches = {scope: one for scope, one in found.items() if isinstance(one, Match)}
        suppressed = {scope: one for scope, one in found.items() if isinstance(one, Suppressed)}
        own = {scope: one for scope, one in found.items() if isinstance(one, OwnMatch)}
        matches.update((scope, one.match) for scope, one in own.items() if one.match is not None)
        matches.update(_global_match(actions, notif))
        return cls(matches, failed, suppressed, by_fingerprint, own)

    @classmethod
    def of_global(cls, actions: Actions, notif: bool) -> Outcomes:
        """What is left of a row whose outcomes cannot be read: `global`."""
        return cls(_global_match(actions, notif), failed=True)

    def decide(self, tags: Sequence[str], own: str | None = None) -> Decision | None:
        """Decide what a pusher does about the event (specification 5 and 9).

        Args:
            tags: the pusher's profile tags.
            own: the pusher's device, where it goes by the settings of that.

        Returns:
            The decision, or None where no scope that the pusher lists matched.
        """
        if own is not None:
            match = self.match_for(own)
            return None if match is None else Decision(own, match)
        return walk(self.walked(tags), self.match_in)

    def match_for(self, device_id: str) -> Match | None:
        """The match for a device with settings of its own.

        Where these are not listed they say the same as `global`.
        """
        own = self.own_of(device_id)
        return self.matches.get(GLOBAL) if own is None else own.match

    def own_of(self, device_id: str) -> OwnMatch | None:
        """What the settings of a device say, where they are listed."""
        return None if self.failed else self.own.get(self._key(device_id))

    def walked(self, tags: Sequence[str]) -> Sequence[str]:
        """The tags that a pusher with these walks over."""
        return DEFAULT_TAGS if self.failed else tags

    def match_in(self, tag: str) -> Match | None:
        """The match in a scope, where there is one that counts."""
        return self.matches.get(self._key(tag))

    def suppressed_in(self, tag: str) -> Suppressed | None:
        """The match in a scope that does not count, where there is one."""
        return self.suppressed.get(self._key(tag))

    def _key(self, tag: str) -> str:
        return scope_key(tag) if self.by_fingerprint else tag

    def named(self, names: Callable[[], Mapping[tuple[str, str], str]]) -> Outcomes:
        """The same with the rules' names, or None for those that are not known.

        Args:
            names: for the fingerprints of a scope and of a rule the rule's name. Called where
                there are any to look up.
        """
        if not self.by_fingerprint:
            return self
        known = names()

        def name(scope: str, rule: str | None) -> str | None:
            return None if rule is None else known.get((scope, rule))

        return attr.evolve(
            self,
            matches={
                scope: Match(match.actions, name(scope, match.rule))
                for scope, match in self.matches.items()
            },
            suppressed={
                scope: Suppressed(match.by, name(scope, match.rule))
                for scope, match in self.suppressed.items()
            },
            own={
                scope: OwnMatch(one.match and Match(one.match.actions, name(scope, one.match.rule)))
                for scope, one in self.own.items()
            },
        )


def _global_match(actions: Actions, notif: bool) -> dict[str, Match]:
    return {GLOBAL: Match(sendable(actions))} if notif else {}


def _entries(entries: list[Any]) -> dict[str, Recorded]:
    found: dict[str, Recorded] = {}
    said: list[Any] = []
    for entry in entries:
        if not isinstance(entry, list) or len(entry) != len(("scope", "rule", "actions")):
            raise ValueError("an outcome is no scope, rule and actions")
        scope, rule, stored = entry
        if not isinstance(scope, str) or not (rule is None or isinstance(rule, str)):
            raise ValueError("an outcome's scope or rule is no text")
        if type(stored) is int and 0 <= stored < len(said):
            stored = said[stored]
        said.append(stored)
        if scope.startswith(OWN_MARK):
            found[scope[len(OWN_MARK) :]] = OwnMatch(_own_match(stored, rule))
        elif isinstance(stored, str):
            found[scope] = Suppressed(stored, rule)
        else:
            found[scope] = _match(stored, rule)
    return found


def _own_match(stored: object, rule: str | None) -> Match | None:
    return None if stored is None else _match(stored, rule)


def _match(stored: object, rule: str | None) -> Match:
    if not isinstance(stored, list):
        raise ValueError("an outcome is no list of actions")
    return Match(sendable(stored), rule)


def _named_matches(outcomes: object) -> dict[str, Match]:
    """What rows of early versions hold: for each scope the rule's name and its actions."""
    if not isinstance(outcomes, Mapping):
        raise ValueError("the outcomes are no list and no map")
    return {scope: _named_match(outcome) for scope, outcome in outcomes.items()}


def _named_match(outcome: object) -> Match:
    rule = None
    if isinstance(outcome, Mapping) and len(outcome) == 1:
        ((rule, outcome),) = outcome.items()
    if not isinstance(outcome, list):
        raise ValueError("an outcome is no list of actions")
    return Match(sendable(outcome), rule)
