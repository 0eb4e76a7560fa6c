# SPDX-License-Identifier: AGPL-3.0-or-later
"""The outcome of an event's evaluation, as it rides inside Synapse's own row of push actions.

A row of `event_push_actions` holds the actions of the user's matching `global` rule. For a user
whose device scopes matter, one more element stands among them:

    {"org.matrix.msc3837.outcomes": {"phone": {"content/pizza": ["notify"]}, "tv": []}}

It maps each scope in which a rule matched to that rule's name and actions, or to the actions
alone where the name is not known. `global` is in the map only where it matched silently; where it
notifies, its actions are those of the row, and otherwise it did not match. A null instead of the
map says that evaluating failed, and that every pusher of the user goes by `global`. Synapse's
pushers ignore the element.

Pure code: nothing here knows Synapse.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import attr

from synapse_msc3881.cascade.profile_tags import (
    DEFAULT_TAGS,
    GLOBAL,
    Action,
    Actions,
    Decision,
    Match,
    walk,
)

#: What marks our element, and what a row made only for a device scope starts with.
MARK = "org.matrix.msc3837.outcomes"

#: The element that says that evaluating failed.
FAILED: Mapping[str, Any] = {MARK: None}


def is_mark(action: object) -> bool:
    """Whether an element of a row's actions is ours."""
    return isinstance(action, Mapping) and MARK in action


def without_mark(actions: Actions) -> list[Action]:
    """The actions that Synapse and clients know."""
    return [action for action in actions if not is_mark(action)]


def with_outcomes(actions: Collection[Action], outcomes: Mapping[str, Match]) -> list[Action]:
    """What to store for a user: the actions of `global`, and the outcomes of the scopes.

    Args:
        actions: what Synapse would store: the actions of the matching `global` rule.
        outcomes: for each device scope with a match that match, and for "global" a silent one.
    """
    # Without `notify`, the tweaks of `global` mean nothing, and `highlight` would be counted.
    kept = actions if "notify" in actions else ()
    return [{MARK: {scope: _stored(match) for scope, match in outcomes.items()}}, *kept]


def _stored(match: Match) -> Any:
    return match.actions if match.rule is None else {match.rule: match.actions}


@attr.s(auto_attribs=True, frozen=True, slots=True)
class Outcomes:
    """What a stored row says of the scopes of its user.

    Attributes:
        matches: the match of each scope that has one.
        failed: whether every pusher goes by `global`, since evaluating failed.
    """

    matches: Mapping[str, Match]
    failed: bool = False

    @classmethod
    def read(cls, actions: Actions, notif: bool) -> Outcomes:
        """Read the actions of a row, our element among them or not.

        Args:
            actions: the row's actions.
            notif: whether the row is one that `global` made.

        Raises:
            ValueError: our element is not of the form above.
        """
        matches: dict[str, Match] = {}
        failed = False
        for action in actions:
            if isinstance(action, Mapping) and MARK in action:
                if action[MARK] is None:
                    failed = True
                else:
                    matches.update(_matches(action[MARK]))
        return cls({**matches, **_global_match(actions, notif)}, failed)

    @classmethod
    def of_global(cls, actions: Actions, notif: bool) -> Outcomes:
        """What is left of a row whose outcomes cannot be read: `global`."""
        return cls(_global_match(actions, notif), failed=True)

    def decide(self, tags: Sequence[str]) -> Decision | None:
        """Decide what a pusher does about the event (SEMANTICS 5).

        Args:
            tags: the pusher's profile tags.

        Returns:
            The decision, or None where no scope that the pusher lists matched.
        """
        return walk(self.walked(tags), self.matches)

    def walked(self, tags: Sequence[str]) -> Sequence[str]:
        """The tags that a pusher with these walks over."""
        return DEFAULT_TAGS if self.failed else tags


def _global_match(actions: Actions, notif: bool) -> dict[str, Match]:
    return {GLOBAL: Match(without_mark(actions))} if notif else {}


def _matches(outcomes: object) -> dict[str, Match]:
    if not isinstance(outcomes, Mapping):
        raise ValueError("the outcomes are no map")
    return {scope: _match(outcome) for scope, outcome in outcomes.items()}


def _match(outcome: object) -> Match:
    rule = None
    if isinstance(outcome, Mapping) and len(outcome) == 1:
        ((rule, outcome),) = outcome.items()
    if not isinstance(outcome, list):
        raise ValueError("an outcome is no list of actions")
    return Match(outcome, rule)
