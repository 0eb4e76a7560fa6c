# SPDX-License-Identifier: AGPL-3.0-or-later
"""Starting the pushers of a process.

Synapse reads all pushers at once and then starts them a few at a time, which takes seconds if there
are many.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Collection, Iterable, Iterator

from synapse_msc3881 import seams
from synapse_msc3881.storage.push_actions import PushActionStore
from synapse_msc3881.storage.pusher_tags import PusherKey

logger = logging.getLogger(__name__)


class PusherStart:
    """The start of the pushers of one process, and what overtook it.

    A pusher that is set, disabled or removed meanwhile is started or stopped by that change, and
    what was read about it before is out of date.
    """

    def __init__(self) -> None:
        # None while no start is in progress.
        self._overtaken: set[PusherKey] | None = None

    def begin(self) -> None:
        """A start is about to read the pushers."""
        self._overtaken = set()

    def fail(self) -> None:
        """The pushers could not be read: Synapse starts none of them."""
        self._overtaken = None

    def overtake(self, key: PusherKey) -> None:
        """This process starts or stops that pusher for some other reason."""
        if self._overtaken is not None:
            self._overtaken.add(key)

    def unchanged(self, pushers: Iterable[seams.PusherConfig]) -> Iterator[seams.PusherConfig]:
        """The pushers that were read, except those that have changed by their turn."""
        overtaken = self._overtaken if self._overtaken is not None else set()
        try:
            for pusher in pushers:
                # Nothing is looked up for each pusher of the server if nothing overtook the start.
                if not overtaken or PusherKey.of(pusher) not in overtaken:
                    yield pusher
        finally:
            self._overtaken = None


class FirstLook:
    """Whether pushers that start may have something to push, asked for several at once.

    One question is in progress at a time. Pushers that ask meanwhile share the next one.
    """

    def __init__(self, push_actions: PushActionStore) -> None:
        self._push_actions = push_actions
        self._next: _Question | None = None
        self._under_way: _Question | None = None

    async def may_have_push(self, user_id: str, after: int) -> bool:
        """Whether a user may have something to push after a stream ordering."""
        question = self._next
        if question is not None:
            question.about.append((user_id, after))
            found = await question.answer.wait()
        else:
            question = self._next = _Question([(user_id, after)])
            found = await self._ask(question)
        return (user_id, after) in found

    async def _ask(self, question: _Question) -> Collection[tuple[str, int]]:
        if self._under_way is not None:
            with contextlib.suppress(Exception):  # Others wait for this one: it must continue.
                await self._under_way.answer.wait()
        self._next, self._under_way = None, question
        found: Collection[tuple[str, int]]
        try:
            found = await self._push_actions.which_have_any(question.about)
        except Exception:
            logger.warning(
                "msc3881: could not ask which pushers may have something to push", exc_info=True
            )
            found = question.about  # Each looks for itself.
        self._under_way = None
        question.answer.set(found)
        return found


class _Question:
    """One question for several pushers, each by its user and its position."""

    __slots__ = ("about", "answer")

    def __init__(self, about: list[tuple[str, int]]) -> None:
        self.about = about
        self.answer: seams.Shared[Collection[tuple[str, int]]] = seams.Shared()
