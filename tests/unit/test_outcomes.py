# SPDX-License-Identifier: AGPL-3.0-or-later
"""The outcome of an evaluation, stored in a row and decided from it."""

import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from synapse_msc3881.cascade.outcomes import (
    FAILED,
    MARK,
    Outcomes,
    is_mark,
    with_outcomes,
    without_mark,
)
from synapse_msc3881.cascade.profile_tags import Match, walk
from synapse_msc3881.storage.push_actions import _OURS

TWEAK = {"set_tweak": "sound", "value": "siren"}
HIGHLIGHT = {"set_tweak": "highlight"}

SCOPES = st.sampled_from(["phone", "tablet", "ß/%_"])
TAGS = st.lists(st.sampled_from(["global", "phone", "tablet", "ß/%_", "nothing"]), max_size=5)
ACTIONS: st.SearchStrategy[list[Any]] = st.lists(
    st.sampled_from(["notify", "dont_notify", TWEAK, HIGHLIGHT]), max_size=3
)
RULES = st.none() | st.sampled_from(["room/!a:b", "content/", "override/ß%"])
MATCHES = st.dictionaries(SCOPES, st.builds(Match, ACTIONS, RULES))


def stored(actions: Sequence[Any]) -> Any:
    """The actions after a journey through the database."""
    return json.loads(json.dumps(actions))


@given(TAGS, st.none() | ACTIONS, MATCHES)
def test_deciding_from_the_row_is_walking_over_what_matched(
    tags: list[str], global_actions: list[Any] | None, scopes: dict[str, Match]
) -> None:
    """`global_actions` is None where no global rule matched."""
    notifies = global_actions is not None and "notify" in global_actions
    outcomes = dict(scopes)
    if global_actions is not None and not notifies:
        outcomes["global"] = Match([])
    row = stored(with_outcomes(global_actions or [], outcomes))

    decision = Outcomes.read(row, notifies).decide(tags)

    matches = dict(scopes)
    if global_actions is not None:
        matches["global"] = Match(global_actions if notifies else [])
    assert decision == walk(tags, matches)


@given(ACTIONS, MATCHES)
def test_synapse_reads_from_the_row_what_it_would_without_us(
    actions: list[Any], scopes: dict[str, Match]
) -> None:
    row = with_outcomes(actions, scopes)
    notifies = "notify" in actions
    assert without_mark(row) == (actions if notifies else [])
    assert ("notify" in row) == notifies
    # Synapse looks for this one when it counts highlights.
    assert (HIGHLIGHT in row) == (notifies and HIGHLIGHT in actions)


@given(MATCHES)
def test_a_row_that_only_a_device_scope_made_is_found_by_its_beginning(
    scopes: dict[str, Match],
) -> None:
    for row in (with_outcomes([], scopes), [FAILED, "notify"]):
        compact = json.dumps(row, separators=(",", ":"))
        assert compact.startswith(_OURS)


@given(TAGS, ACTIONS)
def test_a_row_without_our_mark_is_a_match_of_global(tags: list[str], actions: list[Any]) -> None:
    row = ["notify", *actions]
    assert Outcomes.read(row, True).decide(tags) == walk(tags, {"global": Match(row)})


@given(TAGS, ACTIONS)
def test_after_a_failure_every_pusher_goes_by_global(tags: list[str], actions: list[Any]) -> None:
    row = stored([FAILED, "notify", *actions])
    for outcomes in (Outcomes.read(row, True), Outcomes.of_global(row, True)):
        decision = outcomes.decide(tags)
        assert decision is not None
        assert (decision.scope, list(decision.actions)) == ("global", ["notify", *actions])
        assert outcomes.failed


@pytest.mark.parametrize(
    "broken",
    [
        "text",
        1,
        [],
        True,
        {"phone": "notify"},
        {"phone": None},
        {"phone": {}},
        {"phone": {"room/!a:b": "notify"}},
        {"phone": {"room/!a:b": ["notify"], "room/!b:c": []}},
        {"phone": {"room/!a:b": {"room/!a:b": []}}},
    ],
)
def test_a_broken_mark_is_an_error(broken: object) -> None:
    with pytest.raises(ValueError, match="outcome"):
        Outcomes.read(["notify", {MARK: broken}], True)
    assert Outcomes.of_global(["notify", {MARK: broken}], True).matches == {
        "global": Match(["notify"])
    }


def test_only_our_mark_is_taken_out() -> None:
    assert is_mark(FAILED)
    for action in ("notify", MARK, HIGHLIGHT, {"set_tweak": MARK}, 1, None):
        assert not is_mark(action)
    assert without_mark([FAILED, "notify", HIGHLIGHT]) == ["notify", HIGHLIGHT]
