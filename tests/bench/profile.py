# SPDX-License-Identifier: AGPL-3.0-or-later
"""Where the time of an evaluation goes: a sampling profile of the main thread."""

from collections.abc import Sequence
from typing import Any

from tests.bench.population import RoomPlan
from tests.bench.servers import Workshop
from tests.bench.sizes import Size
from tests.bench.variants import ALL, ALL_MATCHING, ALL_ROOMS, IDLE, VANILLA, content

VARIANTS = (VANILLA, IDLE, ALL, ALL_MATCHING, ALL_ROOMS)
SOME = (ALL_MATCHING,)

_MEMBERS = 1_000
_SHOWN = 12


def measure(workshop: Workshop, size: Size) -> dict[str, Sequence[Sequence[Any]]]:
    """Profile the evaluation of an event in a room of many members.

    Returns:
        By variant, the functions that took most: "file:name", and the part of the time.
    """
    members = min(_MEMBERS, max(size.members))
    population = workshop.populate("sqlite", [RoomPlan("large", members)])
    found = {}
    for variant in SOME if size.some else VARIANTS:
        with workshop.serve(population, variant) as server:
            answer = server.ask(
                "profile",
                sender=population.sender.user_id,
                room_id=population.rooms["large"].room_id,
                content=content(),
                seconds=size.profile_seconds,
            )
        found[variant.name] = answer["functions"][:_SHOWN]
        workshop.say(f"profiled: {variant.name}")
    return found
