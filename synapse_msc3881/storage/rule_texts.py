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
