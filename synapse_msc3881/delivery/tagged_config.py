# SPDX-License-Identifier: AGPL-3.0-or-later
"""Synapse's config of a pusher, with its profile tags."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from operator import attrgetter

import attr

from synapse_msc3881 import seams
from synapse_msc3881.cascade.profile_tags import DEFAULT_TAGS
from synapse_msc3881.storage.pusher_tags import PusherKey, StoredTags


@attr.s(slots=True, auto_attribs=True)
class TaggedPusherConfig(seams.PusherConfig):
    """Synapse's config of a pusher, with its profile tags.

    Attributes:
        profile_tags: as they were set.
        device_has_own: whether its device has settings of its own.
    """

    profile_tags: tuple[str, ...] = DEFAULT_TAGS
    device_has_own: bool = False


# At once, since there is one for each pusher of the server.
_native_fields = attrgetter(*(field.name for field in attr.fields(seams.PusherConfig)))


def profile_tags_of(config: seams.PusherConfig | None) -> tuple[str, ...]:
    """A pusher's profile tags.

    The default if there is no such pusher, or if its config was not read from the database.
    """
    return config.profile_tags if isinstance(config, TaggedPusherConfig) else DEFAULT_TAGS


def own_device_of(config: seams.PusherConfig) -> str | None:
    """The device whose own settings a pusher follows; None if it follows its profile tags."""
    if isinstance(config, TaggedPusherConfig) and config.device_has_own:
        return config.device_id if config.profile_tags == DEFAULT_TAGS else None
    return None


def with_tags(
    pushers: Iterable[seams.PusherConfig], stored: StoredTags
) -> Iterator[seams.PusherConfig]:
    """The pushers that Synapse has read, each with what is stored about it here."""
    if not stored:
        yield from pushers
        return
    for pusher in pushers:
        tags = stored.tags.get(PusherKey.of(pusher), DEFAULT_TAGS)
        has_own = (pusher.user_name, pusher.device_id) in stored.own
        if has_own or tags != DEFAULT_TAGS:
            yield TaggedPusherConfig(*(*_native_fields(pusher), tags, has_own))
        else:
            yield pusher
