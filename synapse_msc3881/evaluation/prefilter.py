# SPDX-License-Identifier: AGPL-3.0-or-later
"""A cheap test for rules that cannot match an event, before Synapse's evaluator runs them.

Running a set of rules costs microseconds, and a pattern with a wildcard a millisecond or more:
Synapse makes a regular expression of it at each run. Most rules do not match most events, and a
glance tells: a literal part of a pattern is nowhere in the text, or the event lacks the key.

The test never rules out a match; what passes it is evaluated. Pure code: nothing here knows
Synapse.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

#: Where to look in the event, and the texts that must all be there.
Need = tuple[str, tuple[str, ...]]

#: What an event must have for a rule to match: all of it.
Needs = tuple[Need, ...]

#: Keys, and the texts of which one must be there for one of several rules to match.
Hints = tuple[tuple[str, tuple[str, ...]], ...]

# A wildcard, or a character that takes part in case folding beyond ASCII.
_NOT_LITERAL = re.compile(r"[^\x00-\x7f]+|[*?]+")
_WILDCARD = re.compile(r"[*?]")

_EVENT_MATCH = "event_match"
_OF_THE_VALUE = ("event_property_is", "event_property_contains")
_OF_THE_ROOM = ("room_member_count", "sender_notification_permission")

# Synapse looks for words in this key, and compares the whole value of the others.
_KEY_WITH_WORDS = "content.body"

# Of more text than this, comparing alone takes time that counts.
_MUCH_TEXT = 4096


def searchable(flattened_keys: Mapping[str, Any]) -> dict[str, str]:
    """An event in the form that `could_match` looks at.

    Args:
        flattened_keys: the event, as Synapse's evaluator gets it.

    Returns:
        For each key its text, so that texts that differ in case only are the same. A value that
        is no text is an empty one.
    """
    # Synapse compares without case, and to it the long s is an s, and the sign of the unit kelvin
    # a k. Folding makes ASCII of these.
    return {
        key: value.casefold() if isinstance(value, str) else ""
        for key, value in flattened_keys.items()
    }


def needs_of(conditions: Any) -> Needs:
    """What an event must have to fulfil all of a rule's conditions.

    Args:
        conditions: a rule's conditions, parsed from JSON. Nothing is learned from a condition of
            an unknown form: that is for the evaluator to judge.
    """
    if not isinstance(conditions, list):
        return ()
    return tuple(need for condition in conditions for need in _needs(condition))


def _needs(condition: Any) -> Iterable[Need]:
    if not isinstance(condition, dict) or not isinstance(key := condition.get("key"), str):
        return
    kind, pattern = condition.get("kind"), condition.get("pattern")
    if kind == _EVENT_MATCH:
        literals = _NOT_LITERAL.split(pattern) if isinstance(pattern, str) else ()
        yield key, tuple(literal.lower() for literal in literals if literal)
    elif kind in _OF_THE_VALUE:
        yield key, ()


def has_much_text(flattened_keys: Mapping[str, Any]) -> bool:
    """Whether an event's values are so long that comparing them takes time that counts.

    Args:
        flattened_keys: the event, as Synapse's evaluator gets it.
    """
    values = flattened_keys.values()
    return sum(len(value) for value in values if isinstance(value, (str, list))) > _MUCH_TEXT


def has_wildcard(conditions: Any) -> bool:
    """Whether a rule's conditions hold a pattern that is always made a regular expression of."""
    return isinstance(conditions, list) and any(
        isinstance(condition, dict) and _is_wild(condition.get("pattern"))
        for condition in conditions
    )


def _is_wild(pattern: object) -> bool:
    return isinstance(pattern, str) and _WILDCARD.search(pattern) is not None


def is_costly(conditions: Any) -> bool:
    """Whether running a rule may take time that counts, or depends on the user.

    So it is where Synapse may make a regular expression, of a pattern, a word or the user's name.
    All other rules compare values of the event or the room, for all users alike.

    Args:
        conditions: a rule's conditions, parsed from JSON. One of an unknown form is costly.
    """
    return not isinstance(conditions, list) or not all(map(_only_compares, conditions))


def _only_compares(condition: Any) -> bool:
    if not isinstance(condition, dict):
        return False
    if condition.get("kind") == _EVENT_MATCH:
        pattern = condition.get("pattern")
        whole = condition.get("key") != _KEY_WITH_WORDS
        return whole and isinstance(pattern, str) and not _is_wild(pattern)
    if condition.get("kind") in _OF_THE_VALUE:
        return "value" in condition
    return condition.get("kind") in _OF_THE_ROOM


def could_match(alternatives: Iterable[Needs], event: Mapping[str, str]) -> bool:
    """Whether the event has all that at least one of several rules needs.

    Args:
        alternatives: the needs of each of the rules.
        event: from `searchable`.
    """
    for needs in alternatives:
        for key, literals in needs:
            text = event.get(key)
            if text is None:
                break
            for literal in literals:
                if literal not in text:
                    break
            else:
                continue
            break
        else:
            return True
    return False


def hints_of(alternatives: Iterable[Needs]) -> Hints:
    """For each of several rules the need that is likely to tell most, in a form quick to test.

    Args:
        alternatives: the needs of each of the rules.
    """
    hints: dict[str, list[str]] = {}
    for needs in alternatives:
        key, literal = _hint_of(needs)
        if literal not in (literals := hints.setdefault(key, [])):
            literals.append(literal)
    return tuple((key, tuple(literals)) for key, literals in hints.items())


def _hint_of(needs: Needs) -> tuple[str, str]:
    # Empty, and so no help, where the rule needs no text.
    texts = [(key, literal) for key, literals in needs for literal in literals]
    return max(texts, key=lambda text: len(text[1]), default=("", ""))


def is_hinted_at(hints: Hints, event: Mapping[str, str]) -> bool:
    """Whether the event has what at least one of several rules needs most: a first `could_match`.

    Args:
        hints: of the rules.
        event: from `searchable`.
    """
    for key, literals in hints:
        text = event.get(key, "")
        for literal in literals:
            if literal in text:
                return True
    return False
