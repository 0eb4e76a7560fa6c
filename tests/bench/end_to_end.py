# SPDX-License-Identifier: AGPL-3.0-or-later
"""What a message costs the whole server, and how long it takes to reach the gateway.

CPU time is that of the server's process, from before a message is sent until the server is at
rest again. A large room is there twice: with pushers that all push, which is most of what such a
message costs, and with pushers that are switched off, whose scopes are evaluated all the same.

Latency is the time from before `PUT /send` to the push at the gateway, of one message at a time,
in a room of two.
"""

from collections.abc import Iterator

from demo.gateway import Gateway
from tests.bench.course import Course
from tests.bench.population import Population, RoomPlan
from tests.bench.results import Comparison
from tests.bench.servers import Workshop
from tests.bench.sizes import Size
from tests.bench.variants import (
    ALL,
    ALL_MATCHING,
    ALL_ROOMS,
    CONTROL,
    IDLE,
    VANILLA,
    Variant,
)

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
        course, rooms = Course(gateway), population.rooms
        # What differs little needs more of them to show. With pushers that would take too long.
        rounds_off = size.control_rounds if variant in {CONTROL, IDLE} else size.rounds
        cpu = [
            course.take_turns(
                one, other, rooms[ON], size.messages, size.rounds, pushes=len(rooms[ON].members)
            ),
            course.take_turns(one, other, rooms[OFF], size.messages * _OFF_FACTOR, rounds_off),
        ]
        for room, rounds in zip((ON, OFF), cpu, strict=True):
            found = Comparison(
                f"{kind}, {room}", size.room, VANILLA.name, variant.name, CPU, rounds
            )
            workshop.say(f"{found.where}: {variant.name}: CPU {found.ratio:.3f} of vanilla")
            yield found
        latencies = [
            (course.latency(one, rooms[PAIR]), course.latency(other, rooms[PAIR]))
            for _ in range(size.latencies + 5)
        ][5:]
        found = Comparison(kind, 2, VANILLA.name, variant.name, LATENCY, latencies)
        workshop.say(f"{kind}: {variant.name}: latency {found.ratio:.3f} of vanilla")
        yield found
