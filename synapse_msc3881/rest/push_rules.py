# SPDX-License-Identifier: AGPL-3.0-or-later
"""``/pushrules/`` with device scopes (specification 3). What concerns `global` is Synapse's.

Also for a device with settings of its own (specification 9): Synapse's servlet handles the request,
and reads and writes the device's scope in place of `global`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote_to_bytes

import attr
from synapse.module_api.errors import (
    Codes,
    InvalidRuleException,
    RuleNotFoundException,
    SynapseError,
)

from synapse_msc3881 import seams
from synapse_msc3881.cascade.profile_tags import GLOBAL, InvalidProfileTagsError, check_tag
from synapse_msc3881.cascade.rulesets import Ruleset
from synapse_msc3881.push_rules import DevicePushRules
from synapse_msc3881.rest.readable_rules import check_conditions, check_readable
from synapse_msc3881.storage.own_scope import OwnScope
from synapse_msc3881.storage.rule_statements import RuleKey
from synapse_msc3881.storage.rule_texts import check_tweaks

if TYPE_CHECKING:
    from synapse.http.site import SynapseRequest
    from synapse.module_api import ModuleApi
    from synapse.server import HomeServer

_PREFIX = b"/pushrules/"

#: What stands below a device's scope for whether it is the device's own settings.
_OWN = "org.matrix.msc3837.own"


@attr.s(auto_attribs=True, frozen=True, slots=True)
class DevicePath:
    """A path below ``/pushrules/device``: the profile tag, and what follows it."""

    profile_tag: str | None
    rest: Sequence[str]


def parse_device_path(raw_path: bytes) -> DevicePath:
    """Split a request's path and then decode each part, since a profile tag may contain "/".

    A first part ``device%2F…`` is a whole scope: so libraries send it to which a scope is one name.

    Args:
        raw_path: the path as the client sent it, of a request that concerns device scopes.

    Raises:
        SynapseError: 400 `M_INVALID_PARAM`, for a bad profile tag or a bad encoding.
    """
    scope, *parts = raw_path.partition(_PREFIX)[2].split(b"/")
    _device, slash, tag_in_scope = _decode(scope).partition("/")
    decoded = [*([tag_in_scope] if slash else []), *map(_decode, parts)]
    if decoded in ([], [""]):
        return DevicePath(None, decoded)
    tag, *rest = decoded
    return DevicePath(_profile_tag(tag), rest)


def _decode(part: bytes) -> str:
    try:
        decoded = unquote_to_bytes(part).decode("utf-8")
    except UnicodeDecodeError:
        raise _invalid("The path is not valid UTF-8") from None
    if "\0" in decoded:
        raise _invalid("The path must not hold a null character")
    return decoded


def _profile_tag(tag: str) -> str:
    if tag == GLOBAL:
        raise _invalid("'global' names the global scope, so it cannot be a profile tag")
    try:
        return check_tag(tag)
    except InvalidProfileTagsError as error:
        raise _invalid(f"The path is refused: {error}") from error


def _invalid(problem: str) -> SynapseError:
    return SynapseError(HTTPStatus.BAD_REQUEST, problem, Codes.INVALID_PARAM)


def _bad_rule(problem: object) -> SynapseError:
    # It may quote the request. Synapse could neither log nor send what is not Unicode.
    message = str(problem).encode("utf-8", "backslashreplace").decode("utf-8")
    return SynapseError(HTTPStatus.BAD_REQUEST, message)


class PushRulesServlet(seams.PushRuleRestServlet):
    """``/pushrules/`` and all below it."""

    def __init__(self, hs: HomeServer, api: ModuleApi, device_rules: DevicePushRules) -> None:
        super().__init__(hs)
        self._api = api
        self._device_rules = device_rules
        self._rules = device_rules.rules
        self._own = device_rules.own
        # Synapse makes a servlet for each port, and a queue for each servlet.
        self._push_rule_linearizer = device_rules.writing
        self._limits_of_global = seams.limits_of_global(hs)
        self._is_writer = seams.writes_push_rules(hs)
        self._writer = ", ".join(seams.push_rules_writers(hs))

    async def on_GET(self, request: SynapseRequest, path: str) -> tuple[int, Any]:
        """Any part of the user's rules."""
        if not _concerns_device(request):
            showing = seams.servlet_showing(
                self,
                lambda user: self._device_rules.for_request(user, seams.requesting_device(request)),
            )
            return await seams.PushRuleRestServlet.on_GET(showing, request, path)
        requester = await self._api.get_user_by_req(request)
        device_path = parse_device_path(request.path)
        user_id = requester.user.to_string()
        if (device_id := _own_of(device_path)) is not None:
            return HTTPStatus.OK, {"enabled": await self._own.is_on(user_id, device_id)}
        scopes = await self._device_rules.shown(user_id)
        return HTTPStatus.OK, _part_of(scopes, device_path)

    async def on_PUT(self, request: SynapseRequest, path: str) -> tuple[int, Any]:
        """Write a rule, or one of its attributes."""
        if not _concerns_device(request):
            return await super().on_PUT(request, path)
        requester = await self._api.get_user_by_req(request)
        self._require_writer()
        user_id = requester.user.to_string()
        device_path = parse_device_path(request.path)
        if (device_id := _own_of(device_path)) is not None:
            on = _parse_own(request)
            # Nothing else of the user is written to `global` meanwhile, or to a device's.
            async with self._push_rule_linearizer.queue(user_id):
                await self._own.switch(user_id, device_id, on)
            await self._device_rules.followed(user_id)
            return HTTPStatus.OK, {}
        try:
            await self._put(request, user_id, device_path)
        except InvalidRuleException as error:
            raise _bad_rule(error) from error
        return HTTPStatus.OK, {}

    async def on_DELETE(self, request: SynapseRequest, path: str) -> tuple[int, Any]:
        """Delete a rule."""
        if not _concerns_device(request):
            return await super().on_DELETE(request, path)
        requester = await self._api.get_user_by_req(request)
        self._require_writer()
        key, _ = _rule(parse_device_path(request.path))
        try:
            await self._rules.delete(requester.user.to_string(), key)
        except RuleNotFoundException:
            raise seams.NotFoundError from None
        return HTTPStatus.OK, {}

    async def handle_put(
        self, request: SynapseRequest, path: str, user_id: str
    ) -> tuple[int, dict[str, Any]]:
        """Synapse's part of PUT, for `global`, without rules that it could not read back."""
        try:
            check_readable(request, path, self._api, self._limits_of_global)
        except InvalidRuleException as error:
            raise _bad_rule(error) from error
        servlet = await self._servlet_for(request, user_id)
        return await seams.PushRuleRestServlet.handle_put(servlet, request, path, user_id)

    async def handle_delete(
        self, request: SynapseRequest, path: str, user_id: str
    ) -> tuple[int, dict[str, Any]]:
        """Synapse's part of DELETE, for `global`."""
        servlet = await self._servlet_for(request, user_id)
        return await seams.PushRuleRestServlet.handle_delete(servlet, request, path, user_id)

    async def _servlet_for(
        self, request: SynapseRequest, user_id: str
    ) -> seams.PushRuleRestServlet:
        """What writes where a request means by `global`: the account's, or its device's own."""
        device_id = seams.requesting_device(request)
        if device_id is None or not await self._own.has_own(user_id, device_id):
            return self
        return seams.servlet_writing_to(self, OwnScope(self._own, device_id))

    def _require_writer(self) -> None:
        if not self._is_writer:
            raise seams.UnrecognizedRequestError(
                f"Push rules are changed on {self._writer}: send this request there", code=405
            )

    async def _put(self, request: SynapseRequest, user_id: str, device_path: DevicePath) -> None:
        # The checks are in the same order as in `global`.
        key, spec = _rule(device_path)
        seams.priority_class(spec)
        if "/" in key.rule_id or "\\" in key.rule_id:
            raise _bad_rule("rule_id may not contain slashes")
        content = seams.parse_json_value_from_request(request)
        if spec.attr:
            await self._put_attribute(user_id, key, spec.attr, content)
            return
        if key.rule_id.startswith("."):
            raise _bad_rule("cannot add new rule_ids that start with '.'")
        conditions, actions = _parse_rule(key, content)
        try:
            await self._rules.put(
                user_id,
                key,
                conditions,
                actions,
                before=_neighbour(request, "before"),
                after=_neighbour(request, "after"),
            )
        except RuleNotFoundException as error:
            raise _bad_rule(error) from error

    async def _put_attribute(
        self, user_id: str, key: RuleKey, attribute: str, content: Any
    ) -> None:
        if attribute not in ("enabled", "actions"):
            raise seams.UnrecognizedRequestError
        if key.rule_id.startswith("."):  # There are no server-default rules here.
            raise seams.NotFoundError("Unknown rule")
        try:
            if attribute == "enabled":
                await self._rules.set_enabled(user_id, key, _parse_enabled(content))
            else:
                actions = _parse_actions(content, self._api)
                await self._rules.set_actions(user_id, key, actions)
        except RuleNotFoundException:
            raise seams.NotFoundError("Unknown rule") from None
        except InvalidRuleException as error:
            raise _bad_rule(f"Invalid actions: {error}") from error


def _concerns_device(request: SynapseRequest) -> bool:
    raw_path: bytes = request.path
    scope = raw_path.partition(_PREFIX)[2].partition(b"/")[0]
    return unquote_to_bytes(scope).partition(b"/")[0] == b"device"


def _own_of(device_path: DevicePath) -> str | None:
    """The device whose own settings a path is about; None where it is about rules."""
    return device_path.profile_tag if list(device_path.rest) == [_OWN] else None


def _parse_own(request: SynapseRequest) -> bool:
    content = seams.parse_json_value_from_request(request)
    if not isinstance(content, dict):
        raise SynapseError(HTTPStatus.BAD_REQUEST, "Content must be a JSON object.", Codes.BAD_JSON)
    seams.assert_params_in_dict(content, ["enabled"])
    enabled = content["enabled"]
    if not isinstance(enabled, bool):
        raise _invalid("'enabled' must be a boolean")
    return enabled


def _rule(device_path: DevicePath) -> tuple[RuleKey, seams.RuleSpec]:
    """The rule that a path names; raises as the same path in `global` does."""
    if device_path.profile_tag is None:
        raise seams.UnrecognizedRequestError
    spec = seams.rule_spec(device_path.rest)
    return RuleKey(device_path.profile_tag, spec.template, spec.rule_id), spec


def _part_of(scopes: Mapping[str, Ruleset], device_path: DevicePath) -> Any:
    tag, rest = device_path.profile_tag, device_path.rest
    if tag is None:
        # A path without its last slash gets the same error as in `global`.
        return scopes if rest else seams.part_of_ruleset(scopes, rest)
    if tag not in scopes:
        raise seams.NotFoundError(f"There is no device scope {tag!r}")
    return seams.part_of_ruleset(scopes[tag], rest)


def _neighbour(request: SynapseRequest, name: str) -> str | None:
    rule_id = seams.parse_string(request, name)
    if rule_id and "\0" in rule_id:
        raise _invalid(f"'{name}' must not hold a null character")
    return rule_id


def _parse_rule(key: RuleKey, content: Any) -> tuple[list[Any], list[Any]]:
    """The conditions and the actions of a new rule.

    Raises:
        SynapseError, InvalidRuleException: what Synapse refuses in `global`, and besides what
            would make it fail there.
    """
    if not isinstance(content, dict):
        raise _bad_rule("The rule must be a JSON object")
    check_conditions(key.kind, content)
    if key.kind in ("override", "underride") and not all(
        isinstance(condition.get("kind", ""), str) for condition in content.get("conditions", [])
    ):
        raise _bad_rule("The 'kind' of a condition must be a string")
    if key.kind == "content" and not isinstance(content.get("pattern", ""), str):
        raise _bad_rule("'pattern' must be a string")
    conditions, actions = seams.rule_from_request(key.kind, key.rule_id, content)
    check_tweaks(actions)
    return list(conditions), list(actions)


def _parse_enabled(content: Any) -> bool:
    # Many clients send the bare boolean, which Synapse accepts in `global` too.
    if isinstance(content, dict) and "enabled" in content:
        content = content["enabled"]
    if not isinstance(content, bool):
        raise _bad_rule("Value for 'enabled' must be boolean")
    return content


def _parse_actions(content: Any, api: ModuleApi) -> list[Any]:
    if not isinstance(content, dict):
        raise _bad_rule("Value must be an object")
    actions = content.get("actions")
    if not isinstance(actions, list):
        raise _bad_rule("Value for 'actions' must be a list")
    api.check_push_rule_actions(actions)
    check_tweaks(actions)
    return actions
