# SPDX-License-Identifier: AGPL-3.0-or-later
"""The module's options in ``homeserver.yaml`` (specification 7), parsed once into typed objects."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import attr
from synapse.module_api.errors import ConfigError


@attr.s(auto_attribs=True, frozen=True, slots=True)
class Limits:
    """How much one user may ask of the server."""

    profile_tags_per_pusher: int = 10
    device_scopes_per_user: int = 20


@attr.s(auto_attribs=True, frozen=True, slots=True)
class Page:
    """The web page for users (specification 8)."""

    enabled: bool = False


@attr.s(auto_attribs=True, frozen=True, slots=True)
class Config:
    """The module's options, all of them optional."""

    # Whether an update of a pusher that omits `enabled` or the profile tags keeps them. The
    # default if the page is on: users set things there that their apps do not know.
    keep_omitted: bool = False
    page: Page = attr.Factory(Page)
    limits: Limits = attr.Factory(Limits)


#: The names of the options below ``config``.
OPTIONS = tuple(field.name for field in attr.fields(Config))


def parse_config(raw: object) -> Config:
    """Turn the ``config`` of the module into a `Config`.

    Args:
        raw: what is under ``config:`` in ``homeserver.yaml``; None if nothing is.

    Raises:
        ConfigError: an unknown option, a wrong type or a limit below 1. Its path is the path of
            the option below ``config``; Synapse puts the rest in front.
    """
    options = _mapping(raw, ())
    _refuse_unknown(options, OPTIONS, ())

    page = _mapping(options.get("page"), ("page",))
    _refuse_unknown(page, ("enabled",), ("page",))
    page_enabled = _boolean(page.get("enabled", False), ("page", "enabled"))

    limits = _mapping(options.get("limits"), ("limits",))
    names = tuple(field.name for field in attr.fields(Limits))
    _refuse_unknown(limits, names, ("limits",))

    return Config(
        keep_omitted=_boolean(options.get("keep_omitted", page_enabled), ("keep_omitted",)),
        page=Page(enabled=page_enabled),
        limits=Limits(**{name: _limit(limits[name], name) for name in names if name in limits}),
    )


def _mapping(value: object, path: tuple[str, ...]) -> Mapping[str, object]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise ConfigError(f"expected a mapping of options, got {value!r}", path)
    return value


def _refuse_unknown(
    options: Mapping[str, object], known: Collection[str], path: tuple[str, ...]
) -> None:
    for name in options:
        if name not in known:
            raise ConfigError(
                f"unknown option {name!r}; the options here are {', '.join(known)}",
                (*path, str(name)),
            )


def _boolean(value: object, path: tuple[str, ...]) -> bool:
    if not isinstance(value, bool):
        raise ConfigError(f"expected true or false, got {value!r}", path)
    return value


def _limit(value: object, name: str) -> int:
    # `True` is an int to Python, but not to whoever wrote the config.
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ConfigError(f"expected a whole number of at least 1, got {value!r}", ("limits", name))
    return value
