# SPDX-License-Identifier: AGPL-3.0-or-later
"""Rules run on one event: marks, what is known of the event, and who it is run for.

Synapse's evaluator returns the actions of the first match, so a rule is told by its **mark**;
`matching` explains why.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

import attr

from synapse_msc3881.cascade.rulesets import to_json
from synapse_msc3881.evaluation.prefilter import EventText, searchable

T = TypeVar("T")

_MARK = "mark"

#: What Synapse's evaluator runs. Opaque here.
CompiledRules = Any

#: Synapse's `run` for the current event: takes the rules, then what it needs to know of the user.
RunNative = Callable[..., Sequence[Any]]


def actions_with_mark(number: int) -> str:
    """A mark, as the JSON of a rule's actions."""
    return to_json([{"set_tweak": _MARK, "value": number}])


def mark_of(actions: Sequence[Any]) -> int | None:
    """The mark in what the evaluator returned, or None for the actions of an unmarked rule."""
    first = actions[0] if actions else None
    if isinstance(first, dict) and first.get("set_tweak") == _MARK:
        mark: int = first["value"]
        return mark
    return None


class Run(Protocol):
    """Runs rules on the current event for the current user, who may have to pay for it.

    Attributes:
        user: what running rules needs to know of the user: the id, the display name, and more.
        is_over: whether no more patterns may be run for the user.
        skipped: how often rules were not run for that reason.
        complete_scopes: how many of the user's scopes are complete (specification 9).
    """

    user: tuple[Any, ...]
    is_over: bool
    skipped: int
    complete_scopes: int

    def __call__(self, rules: CompiledRules) -> Sequence[Any]:
        """The actions of the first rule that matches."""

    def once(self, what: object, find: Callable[[], T]) -> T:
        """What `find` returned when this was first asked, for this user and event."""

    def may(self, work_ns: int) -> bool:
        """Whether work that takes roughly this long may be done; if not, it counts as skipped."""

    def name_ns(self) -> int:
        """Roughly how many nanoseconds the user's name adds to a pattern."""


@attr.s(auto_attribs=True, frozen=True, slots=True)
class EventFacts:
    """What matching needs to know about an event besides Synapse's evaluator for it.

    Room and sender are None if no rule about them can match: in rooms with extensible events,
    Synapse ignores all rules without a condition on the room version (MSC3932).
    """

    run_native: RunNative
    room_id: object
    sender: object
    text: EventText
    is_costly: bool  # Whether running any rules on it may take time that matters.
    # What is found out about the event once, whoever it is evaluated for.
    known: dict[object, Any] = attr.ib(factory=dict)

    def run_for_nobody(self, rules: CompiledRules) -> int | None:
        """The mark of the first rule to match that says nothing about the user."""
        return mark_of(self.run_native(rules, None, None))


def find_facts(
    run_native: RunNative, always: CompiledRules, flattened_keys: Mapping[str, Any]
) -> EventFacts:
    """What matching needs to know about an event.

    Args:
        run_native: runs rules on it.
        always: a marked rule without conditions.
        flattened_keys: the event, as Synapse's evaluator gets it.
    """
    matches = mark_of(run_native(always, None, None)) is not None
    by_id = flattened_keys if matches else {}
    return EventFacts(
        run_native,
        room_id=by_id.get("room_id"),
        sender=by_id.get("sender"),
        text=searchable(flattened_keys),
        # If the rule above does not match, a group goes on to the server-default rules.
        is_costly=not matches,
    )
