# SPDX-License-Identifier: AGPL-3.0-or-later
"""How long Synapse takes to evaluate one event for all members of a room.

Measured inside the process: the whole of `BulkPushRuleEvaluator.action_for_events_by_user`, from
reading the members to writing the rows of push actions, for one event again and again. Two
servers are up at a time and take turns. They are started anew for each comparison, since two
processes that run the same differ a little.
"""

import statistics
from collections.abc import Iterator

from tests.bench.population import Population, Room, RoomPlan
from tests.bench.results import Comparison
from tests.bench.servers import Server, Workshop
from tests.bench.sizes import Size
from tests.bench.variants import (
    ALL,
    ALL_FIVE_ROOMS,
    ALL_MATCHING,
    ALL_ROOMS,
    ALL_WORD,
    CONTROL,
    IDLE,
    USED,
    VANILLA,
    Variant,
    content,
    in_global,
)

WALL, CPU = "time", "CPU time"
MENTIONS, LEGACY = "with m.mentions", "without m.mentions"

# Enough for all caches to be filled, and for Python to have specialised the code.
_WARM_UP = 5

_MOST_WITH_A_WORD = 100


def comparisons() -> Iterator[tuple[Variant, Variant, str]]:
    """What is compared: baseline, variant, and which messages."""
    for variant in (CONTROL, IDLE, *USED):
        yield VANILLA, variant, MENTIONS
    # What a rule costs in a device scope, beside what it costs in `global`.
    for variant in (ALL, ALL_MATCHING, ALL_WORD):
        yield in_global(variant), variant, MENTIONS
    yield ALL_FIVE_ROOMS, ALL_ROOMS, MENTIONS
    for variant in (IDLE, ALL):
        yield VANILLA, variant, LEGACY


SOME = (
    (VANILLA, IDLE, MENTIONS),
    (in_global(ALL_MATCHING), ALL_MATCHING, MENTIONS),
)


def measure(workshop: Workshop, size: Size) -> list[Comparison]:
    """Compare the variants in rooms of each size."""
    sizes = sorted({*size.members, *size.legacy_members})
    population = workshop.populate("sqlite", [RoomPlan(str(n), n) for n in sizes])
    found = []
    for baseline, variant, series in SOME if size.some else comparisons():
        with (
            workshop.serve(population, baseline) as one,
            workshop.serve(population, variant) as other,
        ):
            members = size.members if series == MENTIONS else size.legacy_members
            for count in members:
                if _takes_too_long(variant, count, size):
                    continue
                made = _compare(population, population.rooms[str(count)], one, other, series, size)
                ratios = ", ".join(f"{one.quantity} {one.ratio:.3f}" for one in made)
                workshop.say(
                    f"evaluation, {count} members, {series}: {variant.name}:"
                    f" {ratios} of {baseline.name}"
                )
                found += made
    return found


def _takes_too_long(variant: Variant, members: int, size: Size) -> bool:
    # A regular expression for each member takes a millisecond.
    if variant.use.matches == "word" and members > _MOST_WITH_A_WORD:
        return True
    rules = variant.share * members * variant.use.scopes * variant.use.rules_each
    return rules > size.most_rules


def _compare(
    population: Population, room: Room, one: Server, other: Server, series: str, size: Size
) -> list[Comparison]:
    few = other.variant in {CONTROL, IDLE}
    repeat = _WARM_UP
    rounds: list[tuple[dict[str, float], dict[str, float]]] = []
    for number in range(-1, size.control_rounds if few else size.rounds):
        # Who goes first has the caches of the processor against it.
        order = (one, other) if number % 2 else (other, one)
        taken = {
            server.variant.name: evaluate(population, room, server, series, repeat)
            for server in order
        }
        if number >= 0:
            rounds.append((taken[one.variant.name], taken[other.variant.name]))
        else:
            slowest = max(found[WALL] for found in taken.values())
            repeat = max(2, min(200, int(size.batch_seconds * 1000 / slowest)))
    return [
        Comparison(
            where=series,
            members=len(room.members) + 1,
            baseline=one.variant.name,
            variant=other.variant.name,
            quantity=quantity,
            rounds=[(first[quantity], second[quantity]) for first, second in rounds],
        )
        for quantity in (WALL, CPU)
    ]


def evaluate(
    population: Population, room: Room, server: Server, series: str, repeat: int
) -> dict[str, float]:
    """Evaluate an event, and see that it is evaluated as the variant says.

    Returns:
        The medians, in milliseconds.
    """
    found = server.ask(
        "evaluate",
        sender=population.sender.user_id,
        room_id=room.room_id,
        content=content(mentions=series == MENTIONS),
        repeat=repeat,
    )
    # Each member is notified, by `global`. Where a scope matched, the row says so.
    expected = 0
    if server.variant.with_module and server.variant.use.matches != "no":
        expected = len(server.variant.users(room.members))
    assert (found["staged"], found["marked"]) == (len(room.members), expected), found
    return {
        WALL: statistics.median(found["wall"]) * 1000,
        CPU: statistics.median(found["cpu"]) * 1000,
    }
