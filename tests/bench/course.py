# SPDX-License-Identifier: AGPL-3.0-or-later
"""Messages to the rooms of two servers that take turns, and what they cost."""

import time

from demo.gateway import Gateway
from tests.bench.population import Room
from tests.bench.servers import Server
from tests.bench.variants import content
from tests.harness.waiting import wait_until


class Course:
    """Sends messages to rooms of servers that push to one gateway."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    def take_turns(
        self,
        one: Server,
        other: Server,
        room: Room,
        messages: int,
        rounds: int,
        pushes: int = 0,
    ) -> list[tuple[float, float]]:
        """What a message to a room costs two servers, round by round, after a warm-up."""
        taken = []
        for number in range(-1, rounds):
            # Whoever goes first has the processor's caches against it.
            order = (one, other) if number % 2 else (other, one)
            cpu = {
                server.variant.name: self.cpu(server, room, messages, pushes) for server in order
            }
            if number >= 0:
                taken.append((cpu[one.variant.name], cpu[other.variant.name]))
        return taken

    def cpu(self, server: Server, room: Room, messages: int, pushes: int = 0) -> float:
        """The CPU milliseconds that a message takes the server, until its pushes have come."""
        server.rest()
        before = server.cpu()
        for _ in range(messages):
            event_id = server.sender.send(room.room_id, content())
            if pushes:
                wait_until(
                    lambda event_id=event_id: self._came(event_id) == pushes,  # type: ignore[misc]
                    f"{pushes} pushes of {event_id}",
                    120,
                )
        server.rest()
        assert len(self._gateway.pushes()) == pushes * messages
        self._gateway.clear()
        return (server.cpu() - before) / messages * 1000

    def latency(self, server: Server, room: Room) -> float:
        """The milliseconds from sending a message to its push."""
        sent_at = time.monotonic()
        event_id = server.sender.send(room.room_id, content())
        push = self._gateway.wait_for(event_id=event_id)
        self._gateway.clear()
        return (push.received_at - sent_at) * 1000

    def _came(self, event_id: str) -> int:
        return sum(push.event_id == event_id for push in self._gateway.pushes())
