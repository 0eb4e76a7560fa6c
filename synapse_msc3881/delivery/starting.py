# SPDX-License-Identifier: AGPL-3.0-or-later
"""Starting the pushers of a process: what changes meanwhile is not undone.

Synapse reads all pushers at once and then starts them one by one, which takes seconds where there
are many. One that is set, disabled or removed in that time is started or stopped by that change,
and what was read of it before is of yesterday.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from synapse_msc3881.storage.pusher_tags import PusherKey

if TYPE_CHECKING:
    from synapse_msc3881 import seams


class PusherStart:
    """The start of the pushers of one process, and what overtook it."""

    def __init__(self) -> None:
        # None while no start is under way.
        self._overtaken: set[PusherKey] | None = None

    def begin(self) -> None:
        """A start is about to read the pushers."""
        self._overtaken = set()

    def overtake(self, key: PusherKey) -> None:
        """This process starts or stops that pusher for another reason."""
        if self._overtaken is not None:
            self._overtaken.add(key)

    def unchanged(self, pushers: Iterable[seams.PusherConfig]) -> Iterator[seams.PusherConfig]:
        """The pushers that were read, but those that changed until it is their turn."""
        overtaken = self._overtaken if self._overtaken is not None else set()
        try:
            for pusher in pushers:
                if PusherKey(pusher.user_name, pusher.app_id, pusher.pushkey) not in overtaken:
                    yield pusher
        finally:
            self._overtaken = None
