# SPDX-License-Identifier: AGPL-3.0-or-later
"""What a message costs the whole server, and how long it takes to reach the gateway.

CPU time is that of the server's process, from before a message is sent until the server is at
rest again. A large room is there twice: with pushers that all push, which is most of what such a
message costs, and with pushers that are switched off, whose scopes are evaluated all the same.

Latency is the time from before `PUT /send` to the push at the gateway, of one message at a time,
in a room of two.
"""

import time
from collections.abc import Iterator

from demo.gateway import Gateway
from tests.bench.population import Population, RoomPlan
from tests.bench.results import Comparison
from tests.bench.servers import Server, Workshop
from tests.bench.sizes import Size
from tests.bench.variants import (
    ALL,
    ALL_MATCHING,
    ALL_ROOMS,
    CONTROL,
    IDLE,
    VANILLA,
    Variant,
    content,
)
from tests.harness.waiting import wait_until

CPU, LATENCY = "CPU time", "latency"
ON, OFF, PAIR = "pushers on", "pushers off", "a room of two"

VARIANTS = (CONTROL, IDLE, ALL, ALL_MATCHING, ALL_ROOMS)
#: On all databases but the first.
ELSEWHERE = (CONTROL, IDLE, ALL, ALL_MATCHING)
SOME = (ALL_MATCHING,)

# Without pushes a message costs little: more of them for a batch that can be measured.
_OFF_FACTOR = 10


def measure(workshop: Workshop, size: Size) -> Iterator[Comparison]:
    """Compare the variants on each database."""
    plans = [RoomPlan(ON, size.room), RoomPlan(OFF, size.room), RoomPlan(PAIR, 2)]
    for kind in size.kinds:
        population = workshop.populate(kind, plans)
        variants = VARIANTS if kind == size.kinds[0] else ELSEWHERE
        for variant in SOME if size.some else variants:
            yield from _compare(workshop, population, variant, size)


def _compare(
    workshop: Workshop, population: Population, variant: Variant, size: Size
) -> Iterator[Comparison]:
    kind = population.deployment.kind
    with (
        Gateway() as gateway,
        workshop.serve(population, VANILLA, gateway=gateway.url, off=[OFF]) as one,
        workshop.serve(population, variant, gateway=gateway.url, off=[OFF]) as other,
    ):
        course = _Course(population, gateway)
        # What differs little needs more of them to show. With pushers that would take too long.
        rounds_off = size.control_rounds if variant in {CONTROL, IDLE} else size.rounds
        cpu = [
            _by_turns(course, one, other, ON, size.messages, size.rounds),
            _by_turns(course, one, other, OFF, size.messages * _OFF_FACTOR, rounds_off),
        ]
        for room, rounds in zip((ON, OFF), cpu, strict=True):
            found = Comparison(
                f"{kind}, {room}", size.room, VANILLA.name, variant.name, CPU, rounds
            )
            workshop.say(f"{found.where}: {variant.name}: CPU {found.ratio:.3f} of vanilla")
            yield found
        latencies = [
            (course.latency(one), course.latency(other)) for _ in range(size.latencies + 5)
        ][5:]
        found = Comparison(kind, 2, VANILLA.name, variant.name, LATENCY, latencies)
        workshop.say(f"{kind}: {variant.name}: latency {found.ratio:.3f} of vanilla")
        yield found


def _by_turns(
    course: "_Course", one: Server, other: Server, room: str, messages: int, rounds: int
) -> list[tuple[float, float]]:
    taken = []
    for number in range(-1, rounds):
        # Who goes first has the caches of the processor against it.
        order = (one, other) if number % 2 else (other, one)
        cpu = {server.variant.name: course.cpu(server, room, messages) for server in order}
        if number >= 0:
            taken.append((cpu[one.variant.name], cpu[other.variant.name]))
    return taken


class _Course:
    """Sends messages to one of the rooms of servers with the same population."""

    def __init__(self, population: Population, gateway: Gateway) -> None:
        self._rooms = population.rooms
        self._gateway = gateway

    def cpu(self, server: Server, room: str, messages: int) -> float:
        """The CPU milliseconds that the server takes for a message to a room."""
        server.rest()
        before = server.cpu()
        for _ in range(messages):
            event_id = server.sender.send(self._rooms[room].room_id, content())
            if room != OFF:
                self._wait_for_all(event_id, len(self._rooms[room].members))
        server.rest()
        self._gateway.clear()
        return (server.cpu() - before) / messages * 1000

    def latency(self, server: Server) -> float:
        """The milliseconds from sending a message to its push."""
        sent_at = time.monotonic()
        event_id = server.sender.send(self._rooms[PAIR].room_id, content())
        push = self._gateway.wait_for(event_id=event_id)
        self._gateway.clear()
        return (push.received_at - sent_at) * 1000

    def _wait_for_all(self, event_id: str, count: int) -> None:
        def all_came() -> bool:
            return sum(push.event_id == event_id for push in self._gateway.pushes()) == count

        wait_until(all_came, f"{count} pushes of {event_id}", 120)
