# SPDX-License-Identifier: AGPL-3.0-or-later
"""A rule's conditions and actions, checked and put into the JSON that is stored."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from synapse.module_api.errors import InvalidRuleException

from synapse_msc3881 import seams
from synapse_msc3881.cascade.rulesets import KINDS, to_json


def normalise(kind: str, conditions: Sequence[Any], actions: Sequence[Any]) -> tuple[str, str]:
    """A rule's conditions and actions in JSON, as Synapse shows them once it has parsed them.

    Raises:
        InvalidRuleException: Synapse cannot parse the rule.
    """
    normal = seams.normalise_rule(
        "rule", KINDS.get(kind, KINDS["override"]), encode(conditions), encode(actions)
    )
    return encode(normal[0]), encode(normal[1])


def normalise_actions(kind: str, actions: Sequence[Any], size_limit: int) -> tuple[str, str]:
    """A rule's new actions in JSON, as a client sent them and as Synapse shows them.

    The second is empty if no rule can have them, being too large: that is to be said first.

    Raises:
        InvalidRuleException: Synapse cannot parse the actions.
    """
    raw = encode(actions)
    is_too_large = size_of([], actions) > size_limit
    return raw, "" if is_too_large else normalise(kind, [], actions)[1]


def size_of(conditions: Sequence[Any], actions: Sequence[Any]) -> int:
    """What counts as the size of a rule: the bytes of its conditions and actions in JSON."""
    return len(encode(conditions)) + len(encode(actions))


def check_tweaks(actions: Sequence[Any]) -> None:
    """Raise InvalidRuleException for a tweak that no pusher could send.

    Its name becomes a key of a JSON object.
    """
    for action in actions:
        if isinstance(action, dict) and not isinstance(action["set_tweak"], str):
            raise InvalidRuleException("The 'set_tweak' of an action must be a string")


def encode(value: object) -> str:
    """JSON; raises InvalidRuleException for what JSON cannot say."""
    try:
        return to_json(value)
    except ValueError as error:
        raise InvalidRuleException(f"The rule is not valid JSON: {error}") from error
