# SPDX-License-Identifier: AGPL-3.0-or-later
"""What a device's own settings copy of a user's rules in `global`."""

import asyncio
from typing import Any

import attr
import pytest
from synapse.module_api.errors import InvalidRuleException

from synapse_msc3881.storage.global_rules import CopiedTexts, GlobalRule

_RULE = GlobalRule("override", "mine", 5, 0, "[]", '[ "notify" ]')


def test_others_get_their_turn_while_the_rules_are_prepared() -> None:
    rules = [attr.evolve(_RULE, actions=f'["notify"{" " * number}]') for number in range(1000)]
    turns = 0

    async def pause() -> None:
        nonlocal turns
        turns += 1

    texts = CopiedTexts()
    asyncio.run(texts.prepare(rules, pause))
    assert turns >= 20
    # What is prepared is not done again.
    first = [texts.of(rule) for rule in rules]
    assert all(texts.of(rule) is known for rule, known in zip(rules, first, strict=True))
    assert set(first) == {("[]", '["notify"]')}


def test_a_rule_that_was_changed_meanwhile_is_copied_as_it_is() -> None:
    texts = CopiedTexts()
    assert texts.of(_RULE) == ("[]", '["notify"]')
    assert texts.of(attr.evolve(_RULE, actions="[]")) == ("[]", "[]")
    assert texts.of(_RULE) == ("[]", '["notify"]')


@pytest.mark.parametrize(
    "bad",
    [
        {"priority_class": 4},
        {"conditions": "{}"},
        {"actions": '[{"set_tweak": 5}]'},
        {"actions": "no JSON"},
    ],
)
def test_a_rule_that_cannot_be_copied_says_so_each_time(bad: dict[str, Any]) -> None:
    texts = CopiedTexts()
    for _ in range(2):
        with pytest.raises(InvalidRuleException):
            texts.of(attr.evolve(_RULE, **bad))
