# SPDX-License-Identifier: AGPL-3.0-or-later
"""The compiled device scopes that one process holds, in bounded memory.

Scopes in use stay. All users share the memory, but those who take a lot share only a part of it
among themselves: however many they are, the others' scopes stay.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import attr

from synapse_msc3881.evaluation.matching import UserScopes

#: How many users' compiled scopes a process keeps, and how many bytes they may take.
MAX_COMPILED = 20_000
MAX_COMPILED_BYTES = 250_000_000

# A user who takes more than one part in 50 of the memory counts as large. The large ones together
# take no more than one part in 2.5, nor does any one of them.
_LARGE = 50
_OF_THE_LARGE = 2.5


@attr.s(auto_attribs=True, frozen=True, slots=True)
class Failed:
    """Stands in for a user's scopes that could not be read or are too costly."""


#: A user's scopes; None if none could match an event.
Scopes = UserScopes | Failed | None


class HeldScopes:
    """The users with profile tags, and the compiled scopes of some of them."""

    def __init__(
        self,
        users: set[str],
        max_compiled: int = MAX_COMPILED,
        max_bytes: int = MAX_COMPILED_BYTES,
    ) -> None:
        self.users = users
        #: What is compiled and up to date.
        self.compiled: dict[str, Scopes] = {}
        #: Users with a pusher that tries further scopes after "global".
        self.needing_global: set[str] = set()
        #: Called when something about a user has changed, on whichever process.
        self.on_change: Callable[[], None] = lambda: None
        #: How many bytes one user's scopes may take.
        self.max_bytes_of_user = int(max_bytes / _OF_THE_LARGE)
        self._max_compiled = max_compiled
        self._max_bytes = max_bytes
        # Stale scopes are kept until they are compiled again: most of that is found in them.
        self._stale: dict[str, UserScopes] = {}
        self._sizes: dict[str, int] = {}
        self._large: dict[str, int] = {}
        self._bytes = 0
        # Users who were asked for since it was last their turn to go.
        self._used: set[str] = set()
        # Users being read, and whether the result will still do for later events.
        self._reading: dict[str, bool] = {}

    def invalidate(self, key: tuple[str, ...]) -> None:
        """What is known about a user is stale; they may have scopes now. Called by Synapse."""
        user_id = key[0]
        self.users.add(user_id)
        self._make_stale(user_id)
        self.on_change()

    def invalidate_all(self) -> None:
        """All compiled scopes are stale. Called by Synapse."""
        for user_id in [*self.compiled, *self._reading]:
            self._make_stale(user_id)

    def _make_stale(self, user_id: str) -> None:
        if user_id in self._reading:
            self._reading[user_id] = False
        if user_id in self.compiled:
            self.set_aside(user_id)

    def start_reading(self, user_id: str) -> None:
        """Note that reading a user begins."""
        self._reading[user_id] = True

    def is_read_anew(self, user_id: str) -> bool:
        """Whether a user is being read and nothing has changed since that began."""
        return self._reading.get(user_id, False)

    def end_reading(self, user_id: str) -> bool:
        """Note that a user was read; returns whether the result is up to date."""
        return self._reading.pop(user_id, False)

    def use(self, user_ids: Iterable[str]) -> None:
        """Keep these users' scopes longer than those of users who are not asked for."""
        self._used.update(user_ids)

    def keep(self, user_id: str, scopes: Scopes) -> None:
        """Keep a user's compiled scopes."""
        self.drop(user_id)
        size = scopes.size if isinstance(scopes, UserScopes) else 0
        self._make_room(size)
        self.compiled[user_id] = scopes
        if size:
            self._sizes[user_id] = size
            self._bytes += size
        if self._is_large(size):
            self._large[user_id] = size
        if isinstance(scopes, UserScopes) and scopes.needs_global_match:
            self.needing_global.add(user_id)

    def keep_stale(self, user_id: str, scopes: UserScopes) -> None:
        """Keep scopes that were already stale when they were compiled, for the next time."""
        self.keep(user_id, scopes)
        self.set_aside(user_id)

    def set_aside(self, user_id: str) -> None:
        """Have a user's scopes compiled again, reusing what there is."""
        scopes = self.compiled.pop(user_id, None)
        if isinstance(scopes, UserScopes):
            self._stale[user_id] = scopes
        else:
            self.drop(user_id)

    def stale(self, user_id: str) -> UserScopes | None:
        """What was compiled before the user's scopes became stale, if it is still kept."""
        return self._stale.get(user_id)

    def drop(self, user_id: str) -> None:
        """Forget a user's compiled scopes."""
        self.compiled.pop(user_id, None)
        self._stale.pop(user_id, None)
        self.needing_global.discard(user_id)
        self._used.discard(user_id)
        self._large.pop(user_id, None)
        self._bytes -= self._sizes.pop(user_id, 0)

    def _is_large(self, size: int) -> bool:
        return size > self._max_bytes / _LARGE

    def _make_room(self, size: int) -> None:
        if self._is_large(size):
            while self._large and sum(self._large.values()) + size > self.max_bytes_of_user:
                self.drop(max(self._large, key=self._large.__getitem__))
        while self._stale and self._is_full(size):
            self.drop(next(iter(self._stale)))
        while self.compiled and self._is_full(size):
            self._drop_one()

    def _is_full(self, size: int) -> bool:
        kept = len(self.compiled) + len(self._stale)
        return kept >= self._max_compiled or self._bytes + size > self._max_bytes

    def _drop_one(self) -> None:
        # In turn. Users asked for meanwhile are passed over once.
        user_id = next(iter(self.compiled))
        if user_id in self._used:
            self._used.discard(user_id)
            self.compiled[user_id] = self.compiled.pop(user_id)
        else:
            self.drop(user_id)
