# SPDX-License-Identifier: AGPL-3.0-or-later
"""``GET /pushers`` and ``POST /pushers/set`` with MSC3881 and MSC3837 (SEMANTICS 1 and 2)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

import attr
from synapse.module_api import parse_json_object_from_request
from synapse.module_api.errors import Codes, SynapseError

from synapse_msc3881 import seams
from synapse_msc3881.cascade.profile_tags import DEFAULT_TAGS, InvalidProfileTagsError, parse_tags
from synapse_msc3881.cascade.rulesets import to_json
from synapse_msc3881.config import Config
from synapse_msc3881.delivery.pushers import Pushers, profile_tags_of

if TYPE_CHECKING:
    from synapse.http.site import SynapseRequest
    from synapse.module_api import ModuleApi
    from synapse.server import HomeServer

T = TypeVar("T")

ENABLED = ("enabled", "org.matrix.msc3881.enabled")
DEVICE_ID = ("device_id", "org.matrix.msc3881.device_id")
PROFILE_TAGS = ("profile_tags", "org.matrix.msc3837.profile_tags")

_REQUIRED = (
    "kind",
    "app_id",
    "app_display_name",
    "device_display_name",
    "pushkey",
    "lang",
    "data",
)

# The specification allows 64 characters and 512 bytes. Synapse has no limit, and PostgreSQL one
# on the columns of an index, which is 2704 bytes for these two and the user id together.
_MAX_BYTES = {"app_id": 255, "pushkey": 2048}


@attr.s(auto_attribs=True, frozen=True, slots=True)
class Change:
    """A field as a request gives it under its stable and its unstable name, each or not."""

    stable: Any
    unstable: Any

    @classmethod
    def parse(
        cls, content: Mapping[str, Any], names: tuple[str, str], parse: Callable[[Any, str], T]
    ) -> Change:
        """Read and check both names of a field; a name that is not there is None."""
        stable, unstable = (
            parse(content[name], name) if name in content else None for name in names
        )
        return cls(stable, unstable)

    def apply(self, stored: T, omitted: T) -> T:
        """What the field becomes, by the echo rule (SEMANTICS 1).

        Args:
            stored: what is stored, or the default for a new pusher.
            omitted: what to take where the request has neither name.

        Returns:
            The value that differs from what is stored; the stable one where both do.
        """
        given = [value for value in (self.stable, self.unstable) if value is not None]
        if not given:
            return omitted
        return next((value for value in given if value != stored), stored)


@attr.s(auto_attribs=True, frozen=True, slots=True)
class PusherFields:
    """The fields of a pusher that Synapse stores as they come."""

    kind: str
    app_id: str
    app_display_name: str
    device_display_name: str
    pushkey: str
    lang: str | None
    data: Mapping[str, Any] | None
    profile_tag: str


@attr.s(auto_attribs=True, frozen=True, slots=True)
class SetPusher:
    """A request to set a pusher, checked."""

    fields: PusherFields
    enabled: Change
    profile_tags: Change
    append: bool


def parse_set_pusher(content: Mapping[str, Any], tag_limit: int) -> SetPusher:
    """Check the body of ``POST /pushers/set``, in the order of SEMANTICS 2.

    Args:
        content: the JSON object.
        tag_limit: how many profile tags a pusher may have.

    Raises:
        SynapseError: 400, `M_MISSING_PARAM` or `M_INVALID_PARAM`, naming the field.
    """
    seams.assert_params_in_dict(dict(content), _REQUIRED)
    enabled = Change.parse(content, ENABLED, _boolean)
    profile_tags = Change.parse(
        content, PROFILE_TAGS, lambda value, name: _tags(value, name, tag_limit)
    )
    return SetPusher(
        fields=PusherFields(
            kind=_text(content["kind"], "kind"),
            app_id=_text(content["app_id"], "app_id"),
            app_display_name=_text(content["app_display_name"], "app_display_name"),
            device_display_name=_text(content["device_display_name"], "device_display_name"),
            pushkey=_text(content["pushkey"], "pushkey"),
            lang=None if content["lang"] is None else _text(content["lang"], "lang"),
            data=_data(content),
            profile_tag=_text(content.get("profile_tag", ""), "profile_tag"),
        ),
        enabled=enabled,
        profile_tags=profile_tags,
        append=_boolean(content.get("append", False), "append"),
    )


def _invalid(name: str, problem: str) -> SynapseError:
    return SynapseError(HTTPStatus.BAD_REQUEST, f"'{name}' {problem}", Codes.INVALID_PARAM)


def _boolean(value: Any, name: str) -> bool:
    if not isinstance(value, bool):
        raise _invalid(name, "must be true or false")
    return value


def _tags(value: Any, name: str, limit: int) -> tuple[str, ...]:
    try:
        return parse_tags(value, limit)
    except InvalidProfileTagsError as error:
        raise _invalid(name, f"is refused: {error}") from error


def _text(value: Any, name: str) -> str:
    """A string that both databases can store and index."""
    limit = _MAX_BYTES.get(name)
    if limit is not None and len(_string(value, name).encode("utf-8")) > limit:
        raise _invalid(name, f"must have at most {limit} bytes")
    return _string(value, name)


def _string(value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise _invalid(name, "must be a string")
    if "\0" in value:
        raise _invalid(name, "must not hold a null character")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise _invalid(name, "must be valid Unicode") from None
    return value


def _data(content: Mapping[str, Any]) -> Mapping[str, Any] | None:
    if content["kind"] == "email":
        _check_email(content["pushkey"])
    data = content["data"]
    if data is None:  # For some kinds Synapse stores it, and for others it has its own error.
        return None
    if not isinstance(data, dict):
        raise _invalid("data", "must be an object")
    try:
        to_json(data)
    except ValueError as error:
        raise _invalid("data", f"is not valid JSON: {error}") from error
    if content["kind"] == "http" and isinstance(data.get("url"), str):
        _check_url(data["url"])
    return data


def _check_url(url: str) -> None:
    # Synapse checks the path; these two would fail it, there or when it pushes.
    try:
        url.encode("utf-8")
        urlsplit(url)
    except ValueError as error:
        raise _invalid("data.url", "is not a URL") from error


def _check_email(address: Any) -> None:
    try:
        seams.canonicalise_email(_text(address, "pushkey"))
    except ValueError as error:
        raise _invalid("pushkey", "must be an e-mail address for this kind") from error


def format_pusher(config: seams.PusherConfig) -> dict[str, Any]:
    """A pusher as ``GET /pushers`` shows it, with both names of each field (SEMANTICS 1)."""
    pusher: dict[str, Any] = config.as_dict()
    device_id = pusher.pop("device_id", None)
    for name in ENABLED:
        pusher[name] = config.enabled
    for name in PROFILE_TAGS:
        pusher[name] = list(profile_tags_of(config))
    if device_id is not None:
        for name in DEVICE_ID:
            pusher[name] = device_id
    return pusher


class PushersServlet(seams.PushersRestServlet):
    """``GET /pushers``."""

    def __init__(self, hs: HomeServer, api: ModuleApi) -> None:
        super().__init__(hs)
        self._hs = hs
        self._api = api

    async def on_GET(self, request: SynapseRequest) -> tuple[int, dict[str, Any]]:
        """The user's pushers, on all their devices."""
        requester = await self._api.get_user_by_req(request)
        pushers = await seams.pushers_of(self._hs, requester.user.to_string())
        return HTTPStatus.OK, {"pushers": [format_pusher(pusher) for pusher in pushers]}


class PushersSetServlet(seams.PushersSetRestServlet):
    """``POST /pushers/set``."""

    def __init__(self, hs: HomeServer, api: ModuleApi, pushers: Pushers, config: Config) -> None:
        super().__init__(hs)
        self._hs = hs
        self._api = api
        self._pool = seams.pusher_pool(hs)
        self._pushers = pushers
        self._config = config
        # What a request changes depends on what is stored, so one request of a user at a time.
        self._queue = seams.make_linearizer(hs, "msc3881_set_pusher")

    async def on_POST(self, request: SynapseRequest) -> tuple[int, dict[str, Any]]:
        """Add, update or remove a pusher; nothing is stored when any check fails."""
        requester = await self._api.get_user_by_req(request)
        user_id = requester.user.to_string()
        content = parse_json_object_from_request(request)

        async with self._queue.queue(user_id):
            if _is_removal(content):
                await self._pool.remove_pusher(
                    _string(content["app_id"], "app_id"),
                    _string(content["pushkey"], "pushkey"),
                    user_id=user_id,
                )
            else:
                limit = self._config.limits.profile_tags_per_pusher
                await self._set(parse_set_pusher(content, limit), user_id, requester.device_id)
        return HTTPStatus.OK, {}

    async def _set(self, wanted: SetPusher, user_id: str, device_id: str | None) -> None:
        fields = wanted.fields
        existing = await seams.find_pusher(self._hs, user_id, fields.app_id, fields.pushkey)
        enabled = existing.enabled if existing else True
        tags = profile_tags_of(existing) if existing else DEFAULT_TAGS
        keep = self._config.keep_omitted
        try:
            await self._pushers.add_or_update(
                profile_tags=wanted.profile_tags.apply(tags, tags if keep else DEFAULT_TAGS),
                enabled=wanted.enabled.apply(enabled, enabled if keep else True),
                user_id=user_id,
                device_id=device_id,
                **attr.asdict(fields, recurse=False),
            )
        except seams.PusherConfigException as error:
            raise SynapseError(
                HTTPStatus.BAD_REQUEST, f"Config Error: {error}", Codes.MISSING_PARAM
            ) from error
        if not wanted.append:
            # Last, so that a refused request does not take another user's pusher away.
            await self._pool.remove_pushers_by_app_id_and_pushkey_not_user(
                app_id=fields.app_id, pushkey=fields.pushkey, not_user_id=user_id
            )
        seams.tell_other_processes(self._hs)


def _is_removal(content: Mapping[str, Any]) -> bool:
    return "pushkey" in content and "app_id" in content and content.get("kind", "") is None
