# SPDX-License-Identifier: AGPL-3.0-or-later
"""``GET /pushers`` and ``POST /pushers/set`` with MSC3881 and MSC3837 (specification 1 and 2)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Generic, TypeVar
from urllib.parse import urlsplit

import attr
from synapse.module_api import parse_json_object_from_request
from synapse.module_api.errors import Codes, SynapseError

from synapse_msc3881 import seams
from synapse_msc3881.cascade.profile_tags import (
    DEFAULT_TAGS,
    InvalidProfileTagsError,
    listed_tags,
    parse_tags,
)
from synapse_msc3881.cascade.rulesets import to_json
from synapse_msc3881.config import Config
from synapse_msc3881.delivery.pushers import PusherChange, Pushers
from synapse_msc3881.delivery.tagged_config import own_device_of, profile_tags_of
from synapse_msc3881.metrics import OMITTABLE
from synapse_msc3881.storage.pusher_tags import PusherKey

if TYPE_CHECKING:
    from synapse.http.site import SynapseRequest
    from synapse.module_api import ModuleApi
    from synapse.server import HomeServer

T = TypeVar("T")

ENABLED = ("enabled", "org.matrix.msc3881.enabled")
DEVICE_ID = ("device_id", "org.matrix.msc3881.device_id")
PROFILE_TAGS = ("profile_tags", "org.matrix.msc3837.profile_tags")
AS_READ = "org.matrix.msc3881.as_read"
OWN = "own"

_REQUIRED = (
    "kind",
    "app_id",
    "app_display_name",
    "device_display_name",
    "pushkey",
    "lang",
    "data",
)

# The specification allows 64 characters and 512 bytes. Synapse has no limit, but PostgreSQL has
# one on the columns of an index: 2704 bytes for these two and the user ID together.
_MAX_BYTES = {"app_id": 255, "pushkey": 2048}


@attr.s(auto_attribs=True, frozen=True, slots=True)
class Field(Generic[T]):
    """A field as a request gives it, under its stable and its unstable name; None if omitted."""

    stable: T | None
    unstable: T | None

    @classmethod
    def parse(
        cls, content: Mapping[str, Any], names: tuple[str, str], parse: Callable[[Any, str], T]
    ) -> Field[T]:
        """Read and check both names of a field."""
        stable, unstable = (
            parse(content[name], name) if name in content else None for name in names
        )
        return cls(stable, unstable)

    def meant(self, as_read: T | None) -> T | None:
        """What the request says about the field, according to the echo rule (specification 1).

        The stored value plays no part, so that a stale or repeated request means what it meant.

        Args:
            as_read: the field as the client read it; None if it does not say.
        """
        if self.stable is None or self.unstable is None:
            return self.unstable if self.stable is None else self.stable
        if as_read is not None and self.stable != as_read:
            return self.stable
        return self.unstable


@attr.s(auto_attribs=True, frozen=True, slots=True)
class AsRead:
    """A pusher's state as the client read it, which `GET` gives to be sent back.

    Attributes:
        own: whether the profile tags were those of its device's own settings, set by nobody.
    """

    enabled: bool | None = None
    profile_tags: tuple[str, ...] | None = None
    own: bool = False

    @classmethod
    def parse(cls, content: Mapping[str, Any]) -> AsRead:
        """Read it; what is not of the shape that `GET` gives is as none."""
        value = content.get(AS_READ)
        if not isinstance(value, dict) or not isinstance(value.get("enabled"), bool):
            return cls()
        tags = listed_tags(value.get("profile_tags"))
        return cls() if tags is None else cls(value["enabled"], tags, value.get(OWN) is True)


def parse_set_pusher(
    content: Mapping[str, Any],
    stored: seams.PusherConfig | None,
    tag_limit: int,
    keep_omitted: bool,
) -> PusherChange:
    """Check the body of ``POST /pushers/set``, in the order of specification 2.

    Args:
        content: the JSON object.
        stored: the pusher as it is. A value that is as stored is never refused.
        tag_limit: how many profile tags a pusher may have.
        keep_omitted: whether an update that omits a field keeps what is stored.

    Raises:
        SynapseError: 400, `M_MISSING_PARAM` or `M_INVALID_PARAM`, naming the field.
    """
    seams.assert_params_in_dict(dict(content), _REQUIRED)
    enabled, tags = _parse_ours(content, stored, tag_limit)
    fields = _parse_native(content, stored)
    append = content.get("append") is not None and _boolean(content["append"], "append")
    undone = () if keep_omitted else _undone(enabled, tags, stored)
    if enabled is None:
        enabled = stored.enabled if stored and keep_omitted else True
    if tags is None:
        tags = profile_tags_of(stored) if keep_omitted else DEFAULT_TAGS
    return PusherChange(fields, enabled, tags, append, undone)


def _parse_ours(
    content: Mapping[str, Any], stored: seams.PusherConfig | None, tag_limit: int
) -> tuple[bool | None, tuple[str, ...] | None]:
    """What the request says about `enabled` and the profile tags; None for what it omits."""

    def parse_list(value: Any, name: str) -> tuple[str, ...]:
        if value == list(stored_tags := profile_tags_of(stored)):
            return stored_tags
        if stored and value == list(shown_tags(stored)):
            return shown_tags(stored)
        return _tags(value, name, tag_limit)

    as_read = AsRead.parse(content)
    enabled = Field.parse(content, ENABLED, _boolean).meant(as_read.enabled)
    tags = Field.parse(content, PROFILE_TAGS, parse_list).meant(as_read.profile_tags)
    if tags is not None and _echoes_own(tags, as_read, stored):
        tags = DEFAULT_TAGS
    return enabled, tags


def _parse_native(
    content: Mapping[str, Any], stored: seams.PusherConfig | None
) -> Mapping[str, Any]:
    """The fields that Synapse has too."""

    def text(name: str) -> str:
        value = content[name]
        is_stored = isinstance(value, str) and stored and getattr(stored, name) == value
        return value if is_stored else _text(value, name)

    return {
        "kind": text("kind"),
        "app_id": text("app_id"),
        "app_display_name": text("app_display_name"),
        "device_display_name": text("device_display_name"),
        "pushkey": text("pushkey"),
        "lang": None if content["lang"] is None else text("lang"),
        "data": _data(content),
        "profile_tag": _text(content.get("profile_tag", ""), "profile_tag"),
    }


def _undone(
    enabled: bool | None, tags: tuple[str, ...] | None, stored: seams.PusherConfig | None
) -> tuple[str, ...]:
    """The fields that a request omits, and whose stored value is not the default."""
    is_undone = {
        "enabled": enabled is None and stored is not None and not stored.enabled,
        "profile_tags": tags is None and profile_tags_of(stored) != DEFAULT_TAGS,
    }
    return tuple(name for name in OMITTABLE if is_undone[name])


def _echoes_own(tags: tuple[str, ...], as_read: AsRead, stored: seams.PusherConfig | None) -> bool:
    """Whether tags are those that `GET` shows of a pusher that has none (specification 9).

    They were chosen by nobody. Stored, they would hold when the device has no settings of its own
    any more, and then it would not ring at all. A client that does not say what it read cannot
    tell the two apart.
    """
    if as_read.profile_tags is not None:
        return as_read.own and tags == as_read.profile_tags
    return stored is not None and own_device_of(stored) is not None and tags == shown_tags(stored)


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
    if data is None:  # For some kinds Synapse stores it; for others it has its own error.
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
    # Synapse checks the path; these two would make it fail, there or when it pushes.
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


def shown_tags(config: seams.PusherConfig) -> tuple[str, ...]:
    """The profile tags that hold for a pusher: its device's, where that has settings of its own."""
    own = own_device_of(config)
    return profile_tags_of(config) if own is None else (own,)


def format_pusher(config: seams.PusherConfig) -> dict[str, Any]:
    """A pusher as ``GET /pushers`` shows it, with both names of each field (specification 1)."""
    pusher: dict[str, Any] = config.as_dict()
    device_id = pusher.pop("device_id", None)
    tags = list(shown_tags(config))
    for name in ENABLED:
        pusher[name] = config.enabled
    for name in PROFILE_TAGS:
        pusher[name] = tags
    pusher[AS_READ] = {"enabled": config.enabled, "profile_tags": tags}
    if own_device_of(config) is not None:
        pusher[AS_READ][OWN] = True
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
        self._pushers = pushers
        self._config = config

    async def on_POST(self, request: SynapseRequest) -> tuple[int, dict[str, Any]]:
        """Add, update or remove a pusher; nothing is stored if any check fails."""
        requester = await self._api.get_user_by_req(request)
        user_id = requester.user.to_string()
        content = parse_json_object_from_request(request)
        if _is_removal(content):
            await self._pushers.remove(
                PusherKey(
                    user_id,
                    _string(content["app_id"], "app_id"),
                    _string(content["pushkey"], "pushkey"),
                )
            )
        else:
            await self._set(content, user_id, requester.device_id)
        return HTTPStatus.OK, {}

    async def _set(self, content: Mapping[str, Any], user_id: str, device_id: str | None) -> None:
        def decide(stored: seams.PusherConfig | None) -> PusherChange:
            limit = self._config.limits.profile_tags_per_pusher
            return parse_set_pusher(content, stored, limit, self._config.keep_omitted)

        key = _key(content, user_id)
        if key is None:
            decide(None)  # which says what is wrong with them, in its order
            raise AssertionError("a pusher without a name was not refused")
        try:
            await self._pushers.set(key, device_id, decide)
        except seams.PusherConfigException as error:
            raise SynapseError(
                HTTPStatus.BAD_REQUEST, f"Config Error: {error}", Codes.MISSING_PARAM
            ) from error
        seams.tell_other_processes(self._hs)


def _key(content: Mapping[str, Any], user_id: str) -> PusherKey | None:
    """The pusher that a request sets; None if its name could not be stored."""
    try:
        app_id, pushkey = (_string(content.get(name), name) for name in ("app_id", "pushkey"))
    except SynapseError:
        return None
    return PusherKey(user_id, app_id, pushkey)


def _is_removal(content: Mapping[str, Any]) -> bool:
    return "pushkey" in content and "app_id" in content and content.get("kind", "") is None
