# SPDX-License-Identifier: AGPL-3.0-or-later
"""Rules that a request writes to `global`, and that Synapse could not read back.

Synapse answers some malformed rules with 500, and stores others, after which it answers 500 to
everything that reads the user's rules.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from synapse.module_api.errors import InvalidRuleException, SynapseError

from synapse_msc3881 import seams
from synapse_msc3881.cascade.profile_tags import GLOBAL
from synapse_msc3881.storage.rule_texts import normalise, size_of

if TYPE_CHECKING:
    from synapse.http.site import SynapseRequest
    from synapse.module_api import ModuleApi


def check_readable(
    request: SynapseRequest, path: str, api: ModuleApi, limits: seams.PushRuleLimits | None
) -> None:
    """Raise InvalidRuleException for a rule in `global` that Synapse could not read back.

    What Synapse itself refuses with a 4xx is left to it.

    Args:
        request: what is written.
        path: where.
        api: checks actions as Synapse does.
        limits: those of `global`; None if it has none.
    """
    try:
        spec = _spec_in_global(path)
        content: Any = seams.parse_json_value_from_request(request)
    except (SynapseError, InvalidRuleException):
        return
    finally:
        if request.content is not None:
            request.content.seek(0)
    try:
        rule = _written(spec, content, api)
    except (SynapseError, InvalidRuleException) as error:
        if _is_unicode(str(error)):
            return
        raise  # Synapse could not send it.
    except TypeError as error:  # Synapse would fail.
        raise InvalidRuleException(
            "The rule must be a JSON object, its conditions a list of objects"
        ) from error
    if spec.attr is None:
        check_conditions(spec.template, content)
    if rule is not None and not _is_refused_as_too_large(spec, rule, limits):
        normalise(spec.template, *rule)


def _spec_in_global(path: str) -> seams.RuleSpec:
    """The rule in `global` that a path names; raises where Synapse refuses whatever is written."""
    _pushrules, *parts = path.split("/")
    if parts[:1] != [GLOBAL]:
        raise seams.UnrecognizedRequestError
    spec = seams.rule_spec(parts[1:])
    seams.priority_class(spec)
    rule_id: str = spec.rule_id
    if "\\" in rule_id or (rule_id.startswith(".") and not _is_default_rule(spec)):
        raise seams.UnrecognizedRequestError
    return spec


def _is_default_rule(spec: seams.RuleSpec) -> bool:
    """Whether it is an attribute of a server-default rule, the rest of which nobody may write."""
    return spec.attr is not None and f"{spec.template}/{spec.rule_id}" in seams.default_rule_names()


def _written(
    spec: seams.RuleSpec, content: Any, api: ModuleApi
) -> tuple[Sequence[Any], Sequence[Any]] | None:
    """The conditions and the actions that a request writes to `global`; None for neither.

    Raises:
        SynapseError, InvalidRuleException: Synapse refuses them.
        TypeError: Synapse fails.
    """
    if spec.attr is None:
        conditions, actions = seams.rule_from_request(spec.template, spec.rule_id, content)
        return conditions, actions
    if spec.attr != "actions" or not isinstance(content, dict):
        return None
    actions = content.get("actions")
    if not isinstance(actions, list):
        return None
    api.check_push_rule_actions(actions)
    return [], actions


def _is_refused_as_too_large(
    spec: seams.RuleSpec,
    rule: tuple[Sequence[Any], Sequence[Any]],
    limits: seams.PushRuleLimits | None,
) -> bool:
    """Whether Synapse refuses a rule before it has to read it back."""
    if limits is None:
        return False
    length = len(f"global/{spec.template}/{spec.rule_id}".encode())
    return size_of(*rule) > limits.rule_size or length > limits.rule_id_length


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def check_conditions(kind: str, content: Mapping[str, Any]) -> None:
    """Raise InvalidRuleException for conditions that are no list of objects."""
    conditions = content.get("conditions", [])
    if kind in ("override", "underride") and not (
        isinstance(conditions, list) and all(isinstance(c, dict) for c in conditions)
    ):
        raise InvalidRuleException("'conditions' must be a list of objects")
