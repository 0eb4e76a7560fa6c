# SPDX-License-Identifier: AGPL-3.0-or-later
"""Pushers that are made while a process has not heard yet that their device was switched."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from synapse_msc3881.cascade.profile_tags import DEFAULT_TAGS
from synapse_msc3881.delivery.own_devices import OwnDevices
from synapse_msc3881.delivery.stored_pushers import StoredPushers
from synapse_msc3881.storage.pusher_tags import PusherKey

KEY = PusherKey("@bob:x", "app", "key")


class Tags:
    """Notes in which order the pusher is written and all processes are told."""

    def __init__(self) -> None:
        self.done: list[str] = []

    async def invalidate(self, user_id: str) -> None:
        self.done.append(f"told of {user_id}")


@pytest.mark.parametrize(
    ("heard_of", "is_new", "done"),
    [
        ("@bob:x", True, ["written", "told of @bob:x"]),
        ("@bob:x", False, ["written"]),
        ("@alice:x", True, ["written"]),
    ],
)
def test_all_processes_hear_of_a_pusher_made_while_its_device_was_switched(
    heard_of: str, is_new: bool, done: list[str]
) -> None:
    """Who loaded the user's tags in between found no pusher that follows the device."""
    tags: Any = Tags()
    own = OwnDevices(set())
    census: Any = SimpleNamespace(changed=lambda: None)
    stored = StoredPushers(tags, own, census)

    async def write(**_: Any) -> None:
        own.invalidate((heard_of,))
        tags.done.append("written")

    before: Any = None if is_new else SimpleNamespace()
    with stored.writing(KEY, before, DEFAULT_TAGS):
        asyncio.run(stored.add_pusher(write))
    assert tags.done == done


def test_the_first_switch_of_a_user_is_told_once() -> None:
    first: list[str] = []
    own = OwnDevices({"@alice:x"})
    own.on_first = first.append
    for user_id in ("@alice:x", "@bob:x", "@bob:x"):
        own.invalidate((user_id,))
    assert first == ["@bob:x"]
