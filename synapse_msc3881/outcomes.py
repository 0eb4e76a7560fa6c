# SPDX-License-Identifier: AGPL-3.0-or-later
"""The outcome of an event's evaluation, as it rides inside Synapse's own row of push actions.

A row of `event_push_actions` holds the actions of the user's matching `global` rule. For a user
whose device scopes matter, one more element stands among them:

    {"org.matrix.msc3837.outcomes": {"phone": ["notify"], "tv": []}}

It maps each scope in which a rule matched to that rule's actions. `global` is in the map only
where it matched silently; where it notifies, its actions are those of the row, and otherwise it
did not match. A null instead of the map says that evaluating failed, and that every pusher of
the user goes by `global`. Synapse's pushers ignore the element.

Pure code: nothing here knows Synapse.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from synapse_msc3881.profile_tags import DEFAULT_TAGS, GLOBAL, Action, Actions, Decision, walk

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


def with_outcomes(actions: Actions, outcomes: Mapping[str, Actions]) -> list[Action]:
    """What to store for a user: the actions of `global`, and the outcomes of the scopes.

    Args:
        actions: what Synapse would store: the actions of the matching `global` rule.
        outcomes: for each device scope with a match that rule's actions, and for "global" the
            actions of a silent match.
    """
    # Without `notify`, the tweaks of `global` mean nothing, and `highlight` would be counted.
    kept = list(actions) if "notify" in actions else []
    return [{MARK: dict(outcomes)}, *kept]


def decide(tags: Sequence[str], actions: Actions, notif: bool) -> Decision | None:
    """Decide from a stored row what a pusher does about the event (SEMANTICS 5).

    Args:
        tags: the pusher's profile tags.
        actions: the row's actions, our element among them or not.
        notif: whether the row is one that `global` made.

    Returns:
        The decision, or None where no scope that the pusher lists matched.

    Raises:
        ValueError: our element is not of the form above.
    """
    matches: dict[str, Actions] = {}
    for action in actions:
        if isinstance(action, Mapping) and MARK in action:
            outcomes = action[MARK]
            if outcomes is None:
                tags = DEFAULT_TAGS
            else:
                matches.update(_checked(outcomes))
    if notif:
        matches[GLOBAL] = without_mark(actions)
    return walk(tags, matches)


def _checked(outcomes: object) -> Mapping[str, Actions]:
    if not isinstance(outcomes, Mapping) or not all(
        isinstance(actions, list) for actions in outcomes.values()
    ):
        raise ValueError("the outcomes are not a map of lists")
    return outcomes
