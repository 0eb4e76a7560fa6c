# SPDX-License-Identifier: AGPL-3.0-or-later
"""The test before the evaluator, against the evaluator: it never rules out a match."""

import json
import sys
from typing import Any

import attr
import pytest
from hypothesis import event as note
from hypothesis import example, given, settings
from hypothesis import strategies as st

from synapse_msc3881.evaluation.compiling import RawRule
from synapse_msc3881.evaluation.conditions import hints_of, is_costly, needs_of
from synapse_msc3881.evaluation.prefilter import EventText, Hints, Needs, is_hinted_at, searchable
from tests.harness.occasions import EXTENSIBLE_OFF, MATCHED, MESSAGE, Occasion, runner

# Letters whose case folds in odd ways.
LONG_S, KELVIN, DOTTED_I, DOTLESS_I = "\u017f", "\u212a", "\u0130", "\u0131"
SHARP_S, CAPITAL_SHARP_S, SIGMAS, DOT, LIGATURE = "ß", "ẞ", "Σς\u03c3", "\u0307", "\ufb01"
LETTERS = (
    f"sS{LONG_S}kK{KELVIN}iI{DOTTED_I}{DOTLESS_I}{DOT}{SHARP_S}{CAPITAL_SHARP_S}{SIGMAS}f{LIGATURE}"
    "aA éÉ."
    # What counts as part of a word, and what does not: numbers, marks, joiners, other scripts.
    "1_-!\u00b2\u00bd\u2160\u24d0\u0663\u0915\u093f\u200d\u203f\u3042\u6f22\u0434\u0414"
    "\u13a0\uab70\U00010400\U00010428\U0001d7d8\U0001f600\n"
)
TEXTS = st.text(LETTERS, max_size=8)
PATTERNS = st.text(LETTERS + "**??", max_size=6)
KEYS = st.sampled_from(["content.body", "content.topic"])
KINDS = st.sampled_from(["event_match", "event_property_is"])

FOLDED = {"kind": "event_match", "key": "content.topic", "pattern": "*sk"}


def occasion(keys: dict[str, Any]) -> Occasion:
    return Occasion({**MESSAGE.keys, **keys}, None, False, 2, 0, None)


def matches(conditions: list[Any], event: Occasion) -> bool:
    row = RawRule("x", 5, json.dumps(conditions), json.dumps(MATCHED))
    compiled = EXTENSIBLE_OFF.compiler.compile([row])
    return runner(event, EXTENSIBLE_OFF)(compiled) == MATCHED


def could_match(alternatives: list[Needs], event: EventText) -> bool:
    return any(needs.are_met(event) for needs in alternatives)


@st.composite
def conditions_and_events(draw: st.DrawFn) -> tuple[list[Any], Occasion]:
    """Conditions, and an event whose texts were made from their patterns."""
    conditions: list[Any] = []
    texts: dict[str, Any] = {}
    for _ in range(draw(st.integers(1, 2))):
        key, pattern = draw(KEYS), draw(PATTERNS)
        if draw(KINDS) == "event_match":
            conditions.append({"kind": "event_match", "key": key, "pattern": pattern})
        else:
            conditions.append({"kind": "event_property_is", "key": key, "value": pattern})
        text = "".join(
            draw(TEXTS) if character in "*?" else draw(st.sampled_from(_like(character)))
            for character in pattern
        )
        beside = draw(TEXTS) + text + draw(TEXTS)
        forms = [text, f"{text} s", beside, text.upper(), text.lower(), None]
        texts[key] = draw(st.sampled_from(forms))
    return conditions, occasion(texts)


def _like(character: str) -> list[str]:
    """A character, and those of `LETTERS` that are the same without case."""
    return [character] + [each for each in LETTERS if each.casefold() == character.casefold()]


@settings(max_examples=500, deadline=None)
@given(conditions_and_events())
@example(([FOLDED], occasion({"content.topic": f"-{LONG_S}{KELVIN}"})))
def test_no_match_is_ruled_out(case: tuple[list[Any], Occasion]) -> None:
    conditions, event = case
    needs = [needs_of(conditions)]
    possible = could_match(needs, searchable(event.keys))
    if possible:
        assert is_hinted_at(hints_of(needs), searchable(event.keys))
    if matches(conditions, event):
        note("match")
        assert possible
    else:
        note("no match, ruled out" if not possible else "no match, not ruled out")


ASCII = st.text("sSkK 1é", max_size=2)
COMPARED = st.builds(
    lambda kind, key, text: {
        "kind": kind,
        "key": key,
        "pattern" if kind == "event_match" else "value": text,
    },
    st.sampled_from(["event_match", "event_property_is", "event_property_contains"]),
    st.sampled_from(["content.topic", "type"]),
    ASCII | st.sampled_from([True, 1, None, "*", "s?"]),
)
VALUES = ASCII | st.sampled_from([LONG_S, KELVIN, f"s{KELVIN}", SHARP_S, True, 1, 0, None, ""])


@settings(max_examples=500, deadline=None)
@given(
    st.lists(COMPARED, max_size=3),
    st.fixed_dictionaries(
        {},
        optional={key: VALUES | st.lists(VALUES, max_size=2) for key in ("content.topic", "type")},
    ),
)
@example([], {})
@example([{"kind": "event_match", "key": "type", "pattern": "ss"}], {"type": SHARP_S})
def test_what_suffices_is_a_match(conditions: list[Any], keys: dict[str, Any]) -> None:
    """Where our comparing is sure, the evaluator is not asked, so they must say the same."""
    needs, event = needs_of(conditions), attr.evolve(occasion({}), keys=keys)
    text = searchable(event.keys)
    if needs.are_met(text) and needs.suffice(text):
        note("sure")
        assert matches(conditions, event)


#: Capitals of which the oldest Python does not know the small letters, and these.
NEWER_CAPITALS = (
    "\u2c2f\ua7c0\ua7d0\ua7d6\ua7d8\U00010570\U00010595"
    "\u1c89\ua7cb\ua7cc\ua7ce\ua7d2\ua7d4\ua7da\ua7dc\U00010d50\U00010d65\U00016ea0\U00016eb8"
)
NEWER_SMALL = (
    "\u2c5f\ua7c1\ua7d1\ua7d7\ua7d9\U00010597\U000105bc"
    "\u1c8a\u0264\ua7cd\ua7cf\ua7d3\ua7d5\ua7db\u019b\U00010d70\U00010d85\U00016ebb\U00016ed3"
)


@pytest.mark.parametrize("key", ["content.body", "content.topic"])
@pytest.mark.parametrize("form", ["{}", "*{}*", "{}?"])
def test_letters_that_are_newer_than_python_are_ruled_out_by_no_case(key: str, form: str) -> None:
    for capital, small in zip(NEWER_CAPITALS, NEWER_SMALL, strict=True):
        for pattern, text in ((capital, small), (small, capital), (capital, capital)):
            conditions = [{"kind": "event_match", "key": key, "pattern": form.format(pattern)}]
            event = occasion({key: form.replace("?", "!").replace("*", "").format(text)})
            possible = could_match([needs_of(conditions)], searchable(event.keys))
            assert possible >= matches(conditions, event), (pattern, text)


def test_the_example_above_is_a_match() -> None:
    """Or else it would show nothing."""
    assert matches([FOLDED], occasion({"content.topic": f"-{LONG_S}{KELVIN}"}))


def test_no_number_counts_as_part_of_a_word_unless_it_surely_does() -> None:
    """To Python the sign for a half is a character of words, and to Synapse's evaluator not."""
    characters = [chr(each) for each in range(sys.maxunicode + 1)]
    in_words = [each for each in characters if searchable({"content.body": each}).words]
    assert len(in_words) > 10_000
    for each in in_words:
        folded = each.casefold()
        assert all(
            part.isalpha() or part.isdecimal() or part == "_" or not searchable_word(part)
            for part in folded
        ), hex(ord(each))


def searchable_word(character: str) -> bool:
    return bool(searchable({"content.body": character}).words)


BODY = {"content.body": "Lunch at NOON?", "content.number": 3, "content.list": ["a"]}


def body(pattern: str) -> dict[str, str]:
    return {"kind": "event_match", "key": "content.body", "pattern": pattern}


def topic(pattern: str) -> dict[str, str]:
    return {"kind": "event_match", "key": "content.topic", "pattern": pattern}


@pytest.mark.parametrize(
    ("condition", "possible"),
    [
        (body("noon"), True),
        (body("L*?Noon"), True),
        (body("lunch*dinner"), False),
        (body("at noon"), True),
        (body("lun noon"), False),
        # Words, and not parts of words.
        (body("noo"), False),
        (body("unch"), False),
        (body("noo?"), True),
        (body("noo*"), True),
        (body("*unch"), True),
        (body("noon?"), True),
        (body("lun*at"), True),
        (body("*é*"), False),
        (body("*"), True),
        ({"kind": "event_match", "key": "content.topic", "pattern": "*"}, False),
        ({"kind": "event_match", "key": "content.number", "pattern": "3"}, False),
        ({"kind": "event_property_is", "key": "content.number", "value": 3}, True),
        ({"kind": "event_property_is", "key": "content.number", "value": 4}, False),
        ({"kind": "event_property_is", "key": "content.none", "value": None}, False),
        ({"kind": "event_property_contains", "key": "content.list", "value": "a"}, True),
        ({"kind": "event_property_contains", "key": "content.list", "value": "b"}, False),
        ({"kind": "event_property_contains", "key": "content.body", "value": "b"}, False),
        ({"kind": "event_property_contains", "key": "content.none", "value": "a"}, False),
        ({"kind": "event_property_contains", "key": "content.list", "value": [1]}, True),
        ({"kind": "contains_display_name"}, True),
        ({"kind": "related", "key": "content.none", "pattern": "a"}, True),
        ({"kind": "event_match", "key": "content.body"}, True),
        ({"kind": "event_match", "key": 5, "pattern": "a"}, True),
        ("no condition", True),
    ],
    ids=str,
)
def test_what_is_ruled_out(condition: Any, possible: bool) -> None:
    event = searchable(BODY)
    assert could_match([needs_of([condition])], event) is possible
    elsewhere = {"kind": "event_match", "key": "content.none", "pattern": "a"}
    ruled_out = needs_of([elsewhere])
    # All conditions of a rule are needed, and one rule of several is enough.
    assert could_match([needs_of([condition, condition])], event) is possible
    assert not could_match([needs_of([condition, elsewhere])], event)
    assert could_match([ruled_out, needs_of([condition])], event) is possible
    if possible:
        assert is_hinted_at(hints_of([ruled_out, needs_of([condition])]), event)


def test_values_are_compared_whole_and_words_only_in_the_body() -> None:
    event = searchable({"content.topic": "Lunch at noon"})
    assert could_match([needs_of([topic("lunch AT noon")])], event)
    assert not could_match([needs_of([topic("lunch")])], event)
    assert could_match([needs_of([topic("lunch*")])], event)


def test_no_rules_match_nothing_and_a_rule_without_conditions_anything() -> None:
    assert not could_match([], searchable({}))
    assert not is_hinted_at(hints_of([]), searchable({}))
    nothing: Any
    for nothing in ([], "no list"):
        assert could_match([needs_of(nothing)], searchable({}))
        assert is_hinted_at(hints_of([needs_of(nothing)]), searchable({}))


def test_little_is_looked_for_whatever_the_rule() -> None:
    """Looking for hundreds of pieces of text would take longer than running the rule."""
    many = needs_of([body("*".join(f"piece{n}" + "x" * n for n in range(20))), topic("*ab*cd*")])
    assert len(many.pieces) == 3
    assert all(len(piece) <= 24 for _, piece in many.pieces)
    long = searchable({"content.body": "x" * 65_000, "content.topic": ""})
    assert many.look_ns(long) < 1_000_000
    # Words and values are found in no time, however many.
    phrase = needs_of([body(" ".join(f"word{n}" for n in range(100))), topic("x" * 900)])
    assert phrase.look_ns(long) < 1000


def test_a_quick_look_does_not_search_long_texts() -> None:
    hints = hints_of([needs_of([body("*needle*")])])
    assert not is_hinted_at(hints, searchable({"content.body": "hay"}))
    assert is_hinted_at(hints, searchable({"content.body": "hay" * 1000}))


def test_a_quick_look_for_many_pieces_is_reckoned() -> None:
    hints = hints_of([needs_of([body(f"*needle{n}*")]) for n in range(30)])
    short, long = searchable({"content.body": "hay"}), searchable({"content.body": "hay" * 10_000})
    assert hints.piece_count == 30
    assert hints.look_ns(short) < 2_000
    assert 50_000 < hints.look_ns(long) < 200_000


@pytest.mark.parametrize(
    ("conditions", "at_least", "at_most"),
    [
        ([], 0, 0),
        ([topic("lunch")], 0, 0),
        ([{"kind": "event_property_is", "key": "content.body", "value": "lunch *"}], 0, 0),
        # What Synapse was seen to take, in nanoseconds.
        ([body("lunch")], 400_000, 1_000_000),
        ([body("lunch")] * 10, 4_000_000, 10_000_000),
        ([body("*".join("abcdefghij" * 45))], 2_500_000, 10_000_000),
        ([body("é" * 300 + "*")], 5_000_000, 20_000_000),
        ([{"kind": "contains_display_name"}], 400_000, 1_000_000),
    ],
    ids=str,
)
def test_what_running_a_rule_takes_is_reckoned(
    conditions: list[Any], at_least: int, at_most: int
) -> None:
    event = searchable({"content.body": "a" * 60_000})
    assert at_least <= needs_of(conditions).run_ns(event) <= at_most


def test_going_through_a_long_text_is_reckoned() -> None:
    def run_ns(pattern: str, text: str) -> int:
        return needs_of([body(pattern)]).run_ns(searchable({"content.body": text}))

    assert run_ns("a", "x" * 60_000) > run_ns("a", "x")
    assert run_ns("a*", "é" * 40_000) > run_ns("a", "é" * 40_000) > run_ns("a", "x" * 40_000)


BY_TYPE = [{"kind": "event_match", "key": "type", "pattern": "m.room.message"}, body("hi")]
BY_VALUE = BY_TYPE[:1]


@pytest.mark.parametrize(
    ("alternatives", "event", "expected"),
    [
        ([], {"type": "m.room.message"}, False),
        ([[]], {}, True),
        ([BY_TYPE], {"type": "m.room.message", "content.body": "Hi!"}, True),
        ([BY_TYPE], {"type": "m.room.message"}, False),
        ([BY_VALUE], {"type": "m.room.message"}, True),
        ([BY_VALUE], {"type": "m.room.message2"}, False),
        ([BY_VALUE], {}, False),
        ([BY_TYPE, [body("lunch!!!")]], {"content.body": "time for lunch"}, True),
        ([BY_TYPE, [body("lunch!!!")]], {"content.body": "m.room.message"}, False),
        ([[{"kind": "event_match", "key": "x", "pattern": "*"}]], {"x": 5}, True),
        ([[{"kind": "event_match", "key": "x", "pattern": "*"}]], {"y": 5}, False),
    ],
    ids=str,
)
def test_an_event_is_hinted_at_by_one_need_of_each_rule(
    alternatives: list[Any], event: dict[str, Any], expected: bool
) -> None:
    hints: Hints = hints_of([needs_of(each) for each in alternatives])
    assert is_hinted_at(hints, searchable(event)) is expected


def test_the_text_of_an_event_is_folded_once_and_when_it_is_needed() -> None:
    event = EventText({"type": "M.Type", "content.body": "Straße, noon", "content.number": 5})
    assert event == {}
    found = [event[key] for key in ("type", "content.number", "nothing")]
    assert found == ["m.type", "", None]
    assert event == {"type": "m.type", "content.number": "", "nothing": None}
    assert event.words == {"strasse", "noon"}
    assert event.words is event.words
    assert EventText({}).words == frozenset()


@pytest.mark.parametrize(
    ("conditions", "expected"),
    [
        ([], False),
        ([{"kind": "event_match", "key": "type", "pattern": "m.room.message"}], False),
        ([{"kind": "event_match", "key": "type", "pattern": "m.*"}], True),
        ([{"kind": "event_match", "key": "content.body", "pattern": "lunch"}], True),
        ([{"kind": "event_match", "key": "type", "pattern_type": "user_id"}], True),
        ([{"kind": "event_property_is", "key": "content.body", "value": "lunch *"}], False),
        ([{"kind": "event_property_contains", "key": "content.list", "value": 1}], False),
        ([{"kind": "event_property_contains", "key": "x", "value_type": "user_id"}], True),
        ([{"kind": "room_member_count", "is": ">2"}], False),
        ([{"kind": "sender_notification_permission", "key": "room"}], False),
        ([{"kind": "contains_display_name"}], True),
        ([{"kind": "im.nheko.msc3664.related_event_match", "key": "type"}], True),
        ([{"kind": "room_member_count", "is": "2"}, {"kind": "contains_display_name"}], True),
        ([{}], True),
        (["no condition"], True),
        ("no list", True),
    ],
    ids=str,
)
def test_only_rules_that_compare_are_cheap(conditions: Any, expected: bool) -> None:
    assert is_costly(conditions) is expected


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({}, set()),
        ({"content.body": "Hello", "content.number": 5, "content.none": None}, set()),
        ({"content.body": "Hello", "content.other": "x" * 4096}, {"content.other"}),
        ({"content.list": ["x"] * 5000}, {"content.list"}),
    ],
    ids=["none", "little", "long", "list"],
)
def test_much_text_is_seen(keys: dict[str, Any], expected: set[str]) -> None:
    assert searchable(keys).long_keys == expected
