# SPDX-License-Identifier: AGPL-3.0-or-later
"""What a rule's conditions tell before they are run: what an event needs, and what they may cost.

Worked out once, when a rule is compiled; `prefilter` checks events against it. Pure code: nothing
here knows Synapse.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

from synapse_msc3881.evaluation.prefilter import (
    KEY_WITH_WORDS,
    MISSING,
    WORD,
    Hints,
    Needs,
    folded,
)

# One wildcard, and a run of them.
_WILDCARD = re.compile(r"[*?]")
_WILDCARDS = re.compile(r"[*?]+")

_EVENT_MATCH = "event_match"
_OF_THE_VALUE = ("event_property_is", "event_property_contains")
_OF_THE_ROOM = ("room_member_count", "sender_notification_permission")

# How many pieces of text are looked for per rule, and how many characters of each: looking for more
# would take longer than running the rule, and these tell nearly as much.
_MAX_PIECES = 3
_MAX_PIECE_LENGTH = 24

# Roughly how many nanoseconds these take, erring on the high side: compiling a pattern, and each of
# its characters.
_PATTERN_NS = 400_000
_ASCII_NS, _OTHER_NS = 4_000, 20_000

_NO_NEEDS = Needs()
_ALWAYS = Needs(are_all=True)


def needs_of(conditions: Any) -> Needs:
    """What an event must have to fulfil all of a rule's conditions.

    Args:
        conditions: a rule's conditions, parsed from JSON. A condition of an unknown form tells
            nothing: the evaluator judges it.
    """
    if not isinstance(conditions, list):
        return _NO_NEEDS
    if not conditions:
        return _ALWAYS
    made = _NeedsOfRule()
    for condition in conditions:
        made.add(condition)
    return made.done()


class _NeedsOfRule:
    """Collects what the conditions of a rule need."""

    def __init__(self) -> None:
        self._words: set[str] = set()
        self._values: list[tuple[str, str]] = []
        self._others: list[tuple[str, object, bool]] = []
        self._pieces: list[tuple[str, str]] = []
        self._keys: set[str] = set()
        self._pattern_ns = 0
        self._names = 0
        self._searched: set[tuple[str, bool]] = set()
        self._are_all = True

    def add(self, condition: Any) -> None:
        self._are_all = self._are_all and _compares_ascii(condition)
        if not _only_compares(condition):
            self._add_costs(condition)
        if not isinstance(condition, dict) or not isinstance(key := condition.get("key"), str):
            return
        kind, pattern = condition.get("kind"), condition.get("pattern")
        if kind == _EVENT_MATCH:
            self._keys.add(key)
            if isinstance(pattern, str):
                self._add_pattern(key, pattern)
        elif kind in _OF_THE_VALUE:
            self._keys.add(key)
            value = condition.get("value", MISSING)
            # A number beyond these bounds is no value to Synapse, so the evaluator judges it.
            if value is None or isinstance(value, (str, bool, int)):
                self._others.append((key, value, kind != "event_property_is"))

    def _add_pattern(self, key: str, pattern: str) -> None:
        if key != KEY_WITH_WORDS:
            if _is_wild(pattern):
                self._pieces += [(key, piece) for piece in _pieces_between_wildcards(pattern)]
            else:
                self._values.append((key, sys.intern(folded(pattern))))
            return
        chunks = _WILDCARDS.split(folded(pattern))
        for number, chunk in enumerate(chunks):
            self._add_chunk(chunk, at_start=number == 0, at_end=number == len(chunks) - 1)

    def _add_chunk(self, chunk: str, *, at_start: bool, at_end: bool) -> None:
        """Add the words, and parts of words, between wildcards or the ends of the pattern."""
        # A pattern that does not end in a word character may stand next to anything.
        found = list(WORD.finditer(chunk))
        for word in found:
            is_whole = (at_start or word.start() > 0) and (at_end or word.end() < len(chunk))
            if is_whole:
                self._words.add(word[0])
        if not found or any(word[0] not in self._words for word in found):
            self._pieces.append((KEY_WITH_WORDS, chunk))

    def _add_costs(self, condition: Any) -> None:
        is_dict = isinstance(condition, dict)
        pattern = condition.get("pattern") if is_dict else None
        self._pattern_ns += pattern_ns(pattern if isinstance(pattern, str) else "")
        is_name = is_dict and condition.get("kind") == "contains_display_name"
        self._names += is_name
        key = condition.get("key") if is_dict else None
        is_wild = is_name or _is_wild(pattern)
        self._searched.add((key if isinstance(key, str) else KEY_WITH_WORDS, is_wild))

    def done(self) -> Needs:
        """Everything that the event must have, with the most expensive tests shortened."""
        pieces = {(key, _middle(piece)) for key, piece in self._pieces if piece}
        longest = sorted(pieces, key=lambda piece: (-len(piece[1]), piece))[:_MAX_PIECES]
        told = {key for key, _ in (*self._values, *longest)}
        return Needs(
            frozenset(self._words),
            tuple(dict.fromkeys(self._values)),
            tuple(self._others),
            tuple(longest),
            tuple(sorted(self._keys - told)),
            self._pattern_ns,
            self._names,
            tuple(sorted(self._searched)),
            self._are_all,
        )


def pattern_ns(pattern: str) -> int:
    """Roughly how many nanoseconds Synapse needs to compile a pattern."""
    others = 0 if pattern.isascii() else sum(character > "\x7f" for character in pattern)
    return _PATTERN_NS + (len(pattern) - others) * _ASCII_NS + others * _OTHER_NS


def _pieces_between_wildcards(pattern: str) -> list[str]:
    return [folded(piece) for piece in _WILDCARDS.split(pattern)]


def _middle(piece: str) -> str:
    # Not its beginning, which many room or user ids share.
    start = max(0, (len(piece) - _MAX_PIECE_LENGTH) // 2)
    return piece[start : start + _MAX_PIECE_LENGTH]


def _is_wild(pattern: object) -> bool:
    return isinstance(pattern, str) and _WILDCARD.search(pattern) is not None


def is_costly(conditions: Any) -> bool:
    """Whether running a rule may take time that matters, or depends on the user.

    It does if Synapse may build a regular expression from a pattern, a word or the user's name.
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
        whole = condition.get("key") != KEY_WITH_WORDS
        return whole and isinstance(pattern, str) and not _is_wild(pattern)
    if condition.get("kind") in _OF_THE_VALUE:
        return "value" in condition
    return condition.get("kind") in _OF_THE_ROOM


def _compares_ascii(condition: Any) -> bool:
    """Whether a condition asks for one ASCII text, as a whole value or as an item of a list."""
    if not isinstance(condition, dict):
        return False
    kind = condition.get("kind")
    if kind != _EVENT_MATCH and kind not in _OF_THE_VALUE:
        return False
    name = "pattern" if kind == _EVENT_MATCH else "value"
    key, text = condition.get("key"), condition.get(name)
    return (
        condition.keys() == {"kind", "key", name}
        and isinstance(key, str)
        and isinstance(text, str)
        and key.isascii()
        and text.isascii()
        and text != ""
        and (kind != _EVENT_MATCH or (key != KEY_WITH_WORDS and not _is_wild(text)))
    )


def hints_of(alternatives: Iterable[Needs]) -> Hints:
    """For each of several rules, its most telling need, in a form that is quick to test.

    Args:
        alternatives: the needs of each of the rules.
    """
    any_event = False
    words: set[str] = set()
    keys: set[str] = set()
    values: dict[str, set[str]] = {}
    pieces: dict[str, set[str]] = {}
    compared: set[str] = set()
    for needs in alternatives:
        compared.update(key for key, _ in needs.values)
        compared.update(key for key, *_ in needs.others)
        # Finding a word takes next to no time, a value hardly more; a piece means a search.
        if needs.words:
            words.add(max(needs.words, key=lambda word: (len(word), word)))
        elif needs.values:
            key, text = max(needs.values, key=lambda value: (len(value[1]), value))
            values.setdefault(key, set()).add(text)
        elif needs.pieces:
            key, piece = needs.pieces[0]
            pieces.setdefault(key, set()).add(piece)
        elif needs.keys:
            keys.add(max(needs.keys, key=lambda key: (len(key), key)))
        else:
            any_event = True
    return Hints(
        any_event,
        frozenset(words),
        _by_key(values, frozenset),
        _by_key(pieces, lambda each: tuple(sorted(each))),
        frozenset(keys),
        frozenset(compared),
    )


def _by_key(
    found: Mapping[str, set[str]], kept_as: Callable[[set[str]], Collection[str]]
) -> tuple[tuple[str, Collection[str]], ...]:
    return tuple((key, kept_as(texts)) for key, texts in found.items())
