# SPDX-License-Identifier: AGPL-3.0-or-later
"""A cheap test for rules that cannot match an event, before Synapse's evaluator runs them.

Running a set of rules costs microseconds, and a pattern half a millisecond or more, because Synapse
builds a regular expression from it at each run. Most rules do not match most events, and a glance
tells: the text lacks a word of the pattern, a value is different, or the event lacks the key.

The test never rules out a match, and lets few others through; what it lets through is evaluated. It
takes less time than Synapse's evaluator would for the same rule. Pure code: nothing here knows
Synapse.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import attr

# What is certainly a word character. Synapse's evaluator and Python do not always agree, so numbers
# that are not digits, new letters and the rarer planes of Unicode are left out: one word may be
# taken for two.
_NUMBERS = (
    "\u00b2\u00b3\u00b9\u00bc-\u00be\u09f4-\u09f9\u0b72-\u0b77\u0bf0-\u0bf2\u0c78-\u0c7e"
    "\u0d58-\u0d5e\u0d70-\u0d78\u0f2a-\u0f33\u1369-\u137c\u16ee-\u16f0\u17f0-\u17f9\u19da"
    "\u2070-\u2bff\u2cfd\u3007\u3021-\u3029\u3038-\u303a\u3192-\u3195\u3220-\u33ff"
    "\ua6e6-\ua6ef\ua830-\ua835"
)
# Letters unknown to older versions of either, and the lower case of such letters.
_NEWER = "\u019b\u0264\u1c89\u1c8a\ua7cb-\ua7cf\ua7d2-\ua7d5\ua7da-\ua7dc"
WORD = re.compile(rf"[^\W{_NUMBERS}{_NEWER}\U00010000-\U0010ffff]+")

# Letters of Unicode 14, 16 and 17 with their lower case, which Synapse's evaluator knows and the
# oldest Python, 3.10, does not. (Unicode 15 has none with two cases.)
_NEWER_CASES = {
    0x2C2F: 0x2C5F,
    **{capital: capital + 1 for capital in (0xA7C0, 0xA7D0, 0xA7D6, 0xA7D8)},
    **{capital: capital + 0x27 for capital in range(0x10570, 0x10596)},
    0x1C89: 0x1C8A,
    0xA7CB: 0x0264,
    **{capital: capital + 1 for capital in (0xA7CC, 0xA7CE, 0xA7D2, 0xA7D4, 0xA7DA)},
    0xA7DC: 0x019B,
    **{capital: capital + 0x20 for capital in range(0x10D50, 0x10D66)},
    **{capital: capital + 0x1B for capital in range(0x16EA0, 0x16EB9)},
}
_NEWER_CAPITAL = re.compile(f"[{''.join(map(chr, _NEWER_CASES))}]")

# Synapse looks for words in this key, and compares whole values in all others.
KEY_WITH_WORDS = "content.body"

# In a longer text, looking for a piece takes time that matters, and so does comparing it.
_LONG_TEXT = 1024

# Roughly how many nanoseconds these take, erring on the high side: going through a character of the
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
    """A text in folded case: texts that Synapse takes for the same, ignoring case, become equal.

    To Synapse the long s is an s, and the kelvin sign a k. Folding turns these into ASCII.
    """
    if not text.isascii() and _NEWER_CAPITAL.search(text):
        text = text.translate(_NEWER_CASES)
    return text.casefold()


class EventText(dict[str, "str | None"]):
    """An event in the form in which rules are tested: for each key its text, in folded case.

    Texts that differ only in case become equal, a value that is not text becomes an empty one, and
    a key that the event lacks gives None. Each is worked out when first asked for.

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
        # Called only while the attribute is not set.
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
        """The items of a list; none for anything else."""
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
    """All that an event must have for a rule to match, and what running the rule costs.

    Attributes:
        words: words of the message's text.
        values: keys, each with its whole text.
        others: keys, each with its value or an item of its list.
        pieces: keys, each with a piece of its text.
        keys: keys that must be there.
        pattern_ns: how many nanoseconds Synapse needs for the rule's patterns, apart from going
            through the text.
        names: how many of these are the user's name, which may take longer.
        searched: keys whose text is gone through, and whether with wildcards.
        are_all: whether the rule matches if these needs are met and the texts compared are ASCII.
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
        """Whether `are_met` is enough to say that the rule matches; if not, Synapse must say.

        For ASCII, Synapse and Python agree on which texts are the same apart from case.
        """
        if not self.are_all:
            return False
        for key, _ in self.values:  # noqa: SIM110 - `all` takes longer
            if not event.raw[key].isascii():
                return False
        return True

    def look_ns(self, event: EventText) -> int:
        """Roughly how many nanoseconds `are_met` may take."""
        found = LOOK_NS
        for key, _ in self.pieces:
            found += _PIECE_NS * _length(event, key)
        return found

    def run_ns(self, event: EventText) -> int:
        """Roughly how many nanoseconds running the rule may take."""
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


def searched_for_names(event: EventText) -> str | None:
    """The message's text in folded case; None if searching it takes time that matters."""
    text = event[KEY_WITH_WORDS] or ""
    return text if len(text) <= _LONG_TEXT else None


def may_be_in(text: str, name: str) -> bool:
    """Whether Synapse may find a name in a text in folded case. The name may have wildcards."""
    return "*" in name or "?" in name or folded(name) in text


def _length(event: EventText, key: str) -> int:
    value = event.raw.get(key)
    return len(value) if isinstance(value, str) else 0


@attr.s(auto_attribs=True, frozen=True, slots=True)
class Hints:
    """What an event must have one of for any of several rules to match: a quick first test.

    Attributes:
        any_event: whether one of the rules needs nothing of the event.
        words: words of the message's text.
        values: keys, each with whole texts.
        pieces: keys, each with pieces of its text.
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
        """Roughly how many nanoseconds `is_hinted_at` may take."""
        found = LOOK_NS
        for key, of_key in self.pieces:
            found += _PIECE_NS * len(of_key) * min(_length(event, key), _LONG_TEXT)
        return found


def is_hinted_at(hints: Hints, event: EventText) -> bool:
    """Whether the event has the most telling need of at least one of several rules: a first test.

    It takes microseconds for any event: in a long text, pieces are not looked for.

    Args:
        hints: those of the rules.
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
