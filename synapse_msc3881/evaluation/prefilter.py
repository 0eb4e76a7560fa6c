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
import sys
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

import attr

# A wildcard, and what lies between.
_WILDCARD = re.compile(r"[*?]")
_WILDCARDS = re.compile(r"[*?]+")

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

_EVENT_MATCH = "event_match"
_OF_THE_VALUE = ("event_property_is", "event_property_contains")
_OF_THE_ROOM = ("room_member_count", "sender_notification_permission")

# Synapse looks for words in this key, and compares the whole value of the others.
KEY_WITH_WORDS = "content.body"

# Of a rule, so many pieces of text are looked for, and of each so many characters: looking for more
# would take longer than running the rule, and these tell nearly as much.
_MAX_PIECES = 3
_MAX_PIECE_LENGTH = 24

# In a longer text, looking for a piece takes time that counts, and so does comparing it.
_LONG_TEXT = 1024

# What things take, in nanoseconds, about; rather more than less. Compiling a pattern, and each of
# its characters; going through a character of the text with a plain word, or with wildcards; and
# looking for a piece of text in it.
_PATTERN_NS = 400_000
_ASCII_NS, _OTHER_NS = 4_000, 20_000
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
        if value is MISSING:
            return None
        text = self[key] = folded(value) if isinstance(value, str) else ""
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
        searched: keys whose text is gone through, and whether for a wildcard.
        are_all: whether a rule matches whose needs are met, where the texts compared are ASCII.
    """

    words: frozenset[str] = NO_WORDS
    values: tuple[tuple[str, str], ...] = _NOTHING
    others: tuple[tuple[str, object, bool], ...] = _NOTHING
    pieces: tuple[tuple[str, str], ...] = _NOTHING
    keys: tuple[str, ...] = _NOTHING
    pattern_ns: int = 0
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


_NO_NEEDS = Needs()
_ALWAYS = Needs(are_all=True)


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


def needs_of(conditions: Any) -> Needs:
    """What an event must have to fulfil all of a rule's conditions.

    Args:
        conditions: a rule's conditions, parsed from JSON. Nothing is learned from a condition of
            an unknown form: that is for the evaluator to judge.
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
            # To Synapse a number beyond these bounds is no value: that is for it to judge.
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
        """Add what stands between wildcards, or an end of the pattern: words and parts of such."""
        # A pattern without word characters at its end may stand next to anything.
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
        text = pattern if isinstance(pattern, str) else ""
        others = 0 if text.isascii() else sum(character > "\x7f" for character in text)
        self._pattern_ns += _PATTERN_NS + (len(text) - others) * _ASCII_NS + others * _OTHER_NS
        key = condition.get("key") if is_dict else None
        self._searched.add((key if isinstance(key, str) else KEY_WITH_WORDS, _is_wild(pattern)))

    def done(self) -> Needs:
        """All that the event must have, the dearest tests shortened."""
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
            tuple(sorted(self._searched)),
            self._are_all,
        )


def _pieces_between_wildcards(pattern: str) -> list[str]:
    return [folded(piece) for piece in _WILDCARDS.split(pattern)]


def _middle(piece: str) -> str:
    # Not its beginning: that of a room's id or a user's is the same for many.
    start = max(0, (len(piece) - _MAX_PIECE_LENGTH) // 2)
    return piece[start : start + _MAX_PIECE_LENGTH]


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
        whole = condition.get("key") != KEY_WITH_WORDS
        return whole and isinstance(pattern, str) and not _is_wild(pattern)
    if condition.get("kind") in _OF_THE_VALUE:
        return "value" in condition
    return condition.get("kind") in _OF_THE_ROOM


def _compares_ascii(condition: Any) -> bool:
    """Whether a condition asks for one text, in ASCII, that is a whole value or in a list."""
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
    """For each of several rules the need that is likely to tell most, in a form quick to test.

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
        # A word is found in no time, a value nearly so, and a piece is looked for in all the text.
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
