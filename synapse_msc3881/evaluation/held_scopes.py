# SPDX-License-Identifier: AGPL-3.0-or-later
"""The compiled device scopes that one process holds, in bounded memory.

What is in use stays. All users share the memory, but those who take much of it only share a part of
it among themselves: however many there are, the scopes of the others stay.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import attr

from synapse_msc3881.evaluation.matching import UserScopes

#: How many users' compiled scopes a process keeps, and what they may take of its memory.
MAX_COMPILED = 20_000
MAX_COMPILED_BYTES = 250_000_000

# Who takes more than this part of the memory is one of the large, who together take no more than
# that part; nor does one of them.
_LARGE = 50
_OF_THE_LARGE = 2.5


@attr.s(auto_attribs=True, frozen=True, slots=True)
class Failed:
    """Stands for the scopes of a user that could not be read, or are too costly."""


#: A user's scopes; None where none could match an event.
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
        #: Users with a pusher that walks on after "global".
        self.needing_global: set[str] = set()
        #: Called when something changed of a user, on whichever process.
        self.on_change: Callable[[], None] = lambda: None
        #: What the scopes of one user may take.
        self.max_bytes_of_user = int(max_bytes / _OF_THE_LARGE)
        self._max_compiled = max_compiled
        self._max_bytes = max_bytes
        # What is stale is kept until it is compiled again: most of it will be found in it.
        self._stale: dict[str, UserScopes] = {}
        self._sizes: dict[str, int] = {}
        self._large: dict[str, int] = {}
        self._bytes = 0
        # Who was asked for since it was last their turn to go.
        self._used: set[str] = set()
        # Users who are being read, and whether it is still of use for later events.
        self._reading: dict[str, bool] = {}

    def invalidate(self, key: tuple[str, ...]) -> None:
        """What is known of a user is stale, and they may have scopes now. Called by Synapse."""
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
        """Say that a user is read from now on."""
        self._reading[user_id] = True

    def is_read_anew(self, user_id: str) -> bool:
        """Whether a user is being read, and nothing has changed since that began."""
        return self._reading.get(user_id, False)

    def end_reading(self, user_id: str) -> bool:
        """Say that a user was read; tells whether it is up to date."""
        return self._reading.pop(user_id, False)

    def use(self, user_ids: Iterable[str]) -> None:
        """Have the scopes of these users stay longer than of those who are not used."""
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
        """Keep what was stale already when it was compiled, for the next time."""
        self.keep(user_id, scopes)
        self.set_aside(user_id)

    def set_aside(self, user_id: str) -> None:
        """Have a user's scopes compiled again, of what there is."""
        scopes = self.compiled.pop(user_id, None)
        if isinstance(scopes, UserScopes):
            self._stale[user_id] = scopes
        else:
            self.drop(user_id)

    def stale(self, user_id: str) -> UserScopes | None:
        """What was compiled before the user's scopes became stale, if it is still there."""
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
        # In turn. Who was used meanwhile is passed over once.
        user_id = next(iter(self.compiled))
        if user_id in self._used:
            self._used.discard(user_id)
            self.compiled[user_id] = self.compiled.pop(user_id)
        else:
            self.drop(user_id)
