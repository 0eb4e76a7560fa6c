# SPDX-License-Identifier: AGPL-3.0-or-later
"""Whose devices may have their own settings, as far as each process knows (specification 9)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable


class OwnDevices:
    """Hears of each switch, whichever process makes it."""

    def __init__(self, users: set[str]) -> None:
        """
        Args:
            users: those who have such a device.
        """
        #: The users who have such a device, and perhaps some more.
        self.users = users
        #: Called with a user who is new among these.
        self.on_first: Callable[[str], object] = lambda _user_id: None
        #: Called with the user for whom a device was switched.
        self.on_switch: Callable[[str], None] = lambda _user_id: None
        #: Awaited with the user before the request that switched is answered.
        self.on_answer: Callable[[str], Awaitable[None]] = _nobody_follows

    async def followed(self, user_id: str) -> None:
        """Return once this process's running pushers of a user follow what has been switched.

        Never raises.
        """
        await self.on_answer(user_id)

    def invalidate(self, key: tuple[str, ...]) -> None:
        """A device of a user was switched. Called by Synapse."""
        user_id = key[0]
        is_first = user_id not in self.users
        self.users.add(user_id)
        if is_first:
            self.on_first(user_id)
        self.on_switch(user_id)

    def invalidate_all(self) -> None:
        """Nothing is known to be stale. Called by Synapse."""


async def _nobody_follows(_user_id: str) -> None:
    pass
