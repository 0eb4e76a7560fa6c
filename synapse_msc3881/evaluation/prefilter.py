# SPDX-License-Identifier: AGPL-3.0-or-later
"""A cheap test for rules that cannot match an event, before Synapse's evaluator runs them.

Running a set of rules costs microseconds, and a pattern half a millisecond or more: Synapse makes
a regular expression of it at each run. Most rules do not match most events, and a glance tells: a
word of the pattern is not among those of the text, a value is another, or the event lacks the key.

The test never rules out a match, and lets little pass that is none; what passes is evaluated. It
takes less time than Synapse's evaluator would for the same rule. Pure code: nothing here knows
Synapse.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import attr

# Characters of words, for sure. Synapse's evaluator and Python do not always agree. So numbers that
# are no digits, new letters, and the rarer planes of Unicode, are left out here: a word may be
# taken for two.
_NUMBERS = (
    "\u00b2\u00b3\u00b9\u00bc-\u00be\u09f4-\u09f9\u0b72-\u0b77\u0bf0-\u0bf2\u0c78-\u0c7e"
    "\u0d58-\u0d5e\u0d70-\u0d78\u0f2a-\u0f33\u1369-\u137c\u16ee-\u16f0\u17f0-\u17f9\u19da"
    "\u2070-\u2bff\u2cfd\u3007\u3021-\u3029\u3038-\u303a\u3192-\u3195\u3220-\u33ff"
    "\ua6e6-\ua6ef\ua830-\ua835"
)
# Letters that are newer than some of both, or the small ones of such.
_NEWER = "\u019b\u0264\u1c89\u1c8a\ua7cb-\ua7cf\ua7d2-\ua7d5\ua7da-\ua7dc"
WORD = re.compile(rf"[^\W{_NUMBERS}{_NEWER}\U00010000-\U0010ffff]+")

# Letters of Unicode 16 and 17 with the small one of each, which Synapse's evaluator knows and the
# oldest Python may not.
_NEWER_CASES = {
    0x1C89: 0x1C8A,
    0xA7CB: 0x0264,
    **{capital: capital + 1 for capital in (0xA7CC, 0xA7CE, 0xA7D2, 0xA7D4, 0xA7DA)},
    0xA7DC: 0x019B,
    **{capital: capital + 0x20 for capital in range(0x10D50, 0x10D66)},
    **{capital: capital + 0x1B for capital in range(0x16EA0, 0x16EB9)},
}
_NEWER_CAPITAL = re.compile(f"[{''.join(map(chr, _NEWER_CASES))}]")

# Synapse looks for words in this key, and compares the whole value of the others.
KEY_WITH_WORDS = "content.body"

# In a longer text, looking for a piece takes time that counts, and so does comparing it.
_LONG_TEXT = 1024

# What things take, in nanoseconds, about; rather more than less: going through a character of the
# text with a plain word, or with wildcards; and looking for a piece of text in it.
_WORD_NS_OF_ASCII_TEXT, _WORD_NS_OF_TEXT = 2, 20
_WILD_NS_OF_ASCII_TEXT, _WILD_NS_OF_TEXT = 10, 60
_PIECE_NS = 3
#: Looking at a rule or a group of rules.
LOOK_NS = 500

NO_WORDS: frozenset[str] = frozenset()
_NOTHING: tuple[Any, ...] = ()
MISSING = object()


def folded(text: str) -> str:
    """A text, so that what is the same to Synapse without case is the same.

    To it the long s is an s, and the sign of the unit kelvin a k. Folding makes ASCII of these.
    """
    if not text.isascii() and _NEWER_CAPITAL.search(text):
        text = text.translate(_NEWER_CASES)
    return text.casefold()


class EventText(dict[str, "str | None"]):
    """An event in the form that rules are tested with: for each key its text, in folded case.

    Texts that differ in case only are the same, and a value that is no text is an empty one. Each
    is made when it is first asked for, and for a key that the event lacks there is None.

    Attributes:
        raw: the event's values, as Synapse's evaluator gets them.
        words: the words of the message's text.
        long_keys: the keys with much text.
    """

    __slots__ = ("_items", "long_keys", "raw", "words")

    words: frozenset[str]
    long_keys: frozenset[str]

    def __init__(self, raw: Mapping[str, Any]) -> None:
        super().__init__()
        self.raw = raw
        self._items: dict[str, frozenset[object]] = {}

    def __missing__(self, key: str) -> Any:
        value = self.raw.get(key, MISSING)
        text: str | None = None
        if value is not MISSING:
            text = folded(value) if isinstance(value, str) else ""
        self[key] = text
        return text

    def __getattr__(self, name: str) -> Any:
        # Only while it is not there.
        if name == "words":
            text = self[KEY_WITH_WORDS]
            self.words = frozenset(WORD.findall(text)) if text else NO_WORDS
            return self.words
        if name == "long_keys":
            self.long_keys = frozenset(
                key
                for key, value in self.raw.items()
                if isinstance(value, (str, list)) and len(value) > _LONG_TEXT
            )
            return self.long_keys
        raise AttributeError(name)

    def items_of(self, key: str) -> frozenset[object]:
        """What is in a list; nothing for what is none."""
        found = self._items.get(key)
        if found is None:
            value = self.raw.get(key)
            found = frozenset(value if isinstance(value, (list, tuple)) else ())
            self._items[key] = found
        return found


def searchable(flattened_keys: Mapping[str, Any]) -> EventText:
    """An event in the form that `Needs` and `Hints` look at.

    Args:
        flattened_keys: the event, as Synapse's evaluator gets it.
    """
    return EventText(flattened_keys)


@attr.s(auto_attribs=True, frozen=True, slots=True)
class Needs:
    """What an event must have for a rule to match: all of it; and what running the rule takes.

    Attributes:
        words: of the message's text.
        values: keys, and the whole text of each.
        others: keys, and the value of each, or one that is in its list.
        pieces: keys, and a piece of the text of each.
        keys: keys that must be there.
        pattern_ns: how long Synapse needs for the rule's patterns, in nanoseconds, but for going
            through the text.
        names: how many of these are the user's name, which may make them longer.
        searched: keys whose text is gone through, and whether for a wildcard.
        are_all: whether a rule matches whose needs are met, where the texts compared are ASCII.
    """

    words: frozenset[str] = NO_WORDS
    values: tuple[tuple[str, str], ...] = _NOTHING
    others: tuple[tuple[str, object, bool], ...] = _NOTHING
    pieces: tuple[tuple[str, str], ...] = _NOTHING
    keys: tuple[str, ...] = _NOTHING
    pattern_ns: int = 0
    names: int = 0
    searched: tuple[tuple[str, bool], ...] = _NOTHING
    are_all: bool = False

    def are_met(self, event: EventText) -> bool:
        """Whether the event has all of it."""
        if self.words and not self.words <= event.words:
            return False
        return self._has_values(event) and self._has_pieces(event)

    def _has_values(self, event: EventText) -> bool:
        raw = event.raw
        for key in self.keys:
            if key not in raw:
                return False
        for key, text in self.values:
            if event[key] != text:
                return False
        for key, value, is_in_list in self.others:
            if is_in_list:
                if value not in event.items_of(key):
                    return False
            elif raw.get(key, MISSING) != value:
                return False
        return True

    def _has_pieces(self, event: EventText) -> bool:
        for key, piece in self.pieces:
            text = event[key]
            if text is None or piece not in text:
                return False
        return True

    def suffice(self, event: EventText) -> bool:
        """Whether the rule matches, once `are_met` says so; if not, it is for Synapse to say.

        Of ASCII, Synapse and Python have the same idea what is the same without case.
        """
        if not self.are_all:
            return False
        for key, _ in self.values:  # noqa: SIM110 - `all` takes longer
            if not event.raw[key].isascii():
                return False
        return True

    def look_ns(self, event: EventText) -> int:
        """How long `are_met` may take, in nanoseconds, about."""
        found = LOOK_NS
        for key, _ in self.pieces:
            found += _PIECE_NS * _length(event, key)
        return found

    def run_ns(self, event: EventText) -> int:
        """How long running the rule may take, in nanoseconds, about."""
        found = self.pattern_ns
        for key, is_wild in self.searched:
            text = event.raw.get(key)
            if not isinstance(text, str):
                continue
            if text.isascii():
                found += len(text) * (_WILD_NS_OF_ASCII_TEXT if is_wild else _WORD_NS_OF_ASCII_TEXT)
            else:
                found += len(text) * (_WILD_NS_OF_TEXT if is_wild else _WORD_NS_OF_TEXT)
        return found


def _length(event: EventText, key: str) -> int:
    value = event.raw.get(key)
    return len(value) if isinstance(value, str) else 0


@attr.s(auto_attribs=True, frozen=True, slots=True)
class Hints:
    """Of which an event must have one for one of several rules to match: a quick first test.

    Attributes:
        any_event: whether one of the rules needs nothing of the event.
        words: of the message's text.
        values: keys, and whole texts of each.
        pieces: keys, and pieces of the text of each.
        keys: keys that are there.
        compared: keys whose values the rules compare.
    """

    any_event: bool
    words: frozenset[str]
    values: tuple[tuple[str, Collection[str]], ...]
    pieces: tuple[tuple[str, Collection[str]], ...]
    keys: frozenset[str]
    compared: frozenset[str]

    @property
    def piece_count(self) -> int:
        """How many pieces of text are looked for."""
        return sum(len(of_key) for _, of_key in self.pieces)

    def look_ns(self, event: EventText) -> int:
        """How long `is_hinted_at` may take, in nanoseconds, about."""
        found = LOOK_NS
        for key, of_key in self.pieces:
            found += _PIECE_NS * len(of_key) * min(_length(event, key), _LONG_TEXT)
        return found


def is_hinted_at(hints: Hints, event: EventText) -> bool:
    """Whether the event has what at least one of several rules needs most: a first test.

    Takes microseconds, whatever the event: in a long text, pieces are not looked for.

    Args:
        hints: of the rules.
        event: from `searchable`.
    """
    if hints.words and not hints.words.isdisjoint(event.words):
        return True
    for key, values in hints.values:
        if event[key] in values:
            return True
    if hints.pieces and _may_have_piece(hints.pieces, event):
        return True
    for key in hints.keys:
        if key in event.raw:
            return True
    return hints.any_event


def _may_have_piece(pieces: Iterable[tuple[str, Collection[str]]], event: EventText) -> bool:
    for key, of_key in pieces:
        text = event[key]
        if text is None:
            continue
        if len(text) > _LONG_TEXT:
            return True
        for piece in of_key:
            if piece in text:
                return True
    return False
