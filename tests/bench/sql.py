# SPDX-License-Identifier: AGPL-3.0-or-later
"""How many SQL statements a message costs, and how many calls in Python.

These are exact, and a test compares them with vanilla Synapse (test_counts.py). What a server
does at the same time by the clock is told apart from what a message causes by sending several:
of each kind of statement, the smallest number counts.
"""

import functools
import operator
from collections.abc import Sequence

import attr

from demo.gateway import Gateway
from tests.bench import sync
from tests.bench.population import Population, Room, RoomPlan, pushkey
from tests.bench.results import Count
from tests.bench.servers import Server, Workshop
from tests.bench.sizes import Size
from tests.bench.variants import ALL_MUTED, IDLE, USED, VANILLA, Variant, content

#: The number of pushers of the room in which statements are counted.
PUSHERS = 3
#: The sizes of the rooms in which calls are counted: the difference is what a member costs.
FEW, MANY = 5, 25

EVENT, PUSHES = "statements, event", "statements, pushes"
#: Those of either that are ours; each in the place of one of Synapse's.
OURS = "statements, ours"
PYTHON, C = "Python calls", "C calls"

#: Nobody in the room uses the module, others on the server do.
ELSEWHERE = Variant("only others use it")
#: The pushers of the room are switched off, others on the server are not.
OFF = Variant("vanilla, pushers off", with_module=False)

# By the logging context that a statement runs for: sending and persisting, and pushing.
_PATHS = {
    "PUT": EVENT,
    "persist_events": EVENT,
    "on_new_notifications": PUSHES,
    "httppush.process": PUSHES,
}

# Reads through a cache, made by whoever comes first: the pushes of a message, or the next one.
_OF_NEITHER = ("get_partial_state_events",)
# What the names of our transactions start with.
_OUR_PREFIX = "msc38"

_MESSAGES = 3


def measure(workshop: Workshop, size: Size) -> list[Count]:
    """Count in each variant, on each database."""
    return [found for kind in size.kinds for found in count(workshop, kind)]


def count(workshop: Workshop, kind: str, using: Sequence[Variant] = USED) -> list[Count]:
    """Count in each variant, on one database.

    Returns:
        For `VANILLA`, `OFF`, `IDLE`, `ELSEWHERE` and each of those `using` the module: the
        statements of one message in a room with `PUSHERS` pushers; for `OFF` and `ALL_MUTED` also
        in one of `MANY` members. For `VANILLA`, `IDLE` and `ELSEWHERE`, the calls in rooms of `FEW`
        and `MANY` members.
    """
    used = (ELSEWHERE, *using)
    sizes = (PUSHERS + 1, MANY)
    rooms = [(variant, PUSHERS + 1) for variant in used]
    rooms += [(ELSEWHERE, FEW), (ELSEWHERE, MANY), (ALL_MUTED, MANY)]
    rooms += [(OFF, members) for members in sizes]
    plans = [RoomPlan(_room(variant, members), members) for variant, members in rooms]
    population = workshop.populate(kind, plans)
    per_room = {_room(variant, members): variant for variant, members in rooms}
    found = []
    with Gateway() as gateway:
        for server_variant, variants in (
            (VANILLA, [ELSEWHERE, OFF]),
            (IDLE, [ELSEWHERE]),
            (IDLE, used),
        ):
            with workshop.serve(
                population,
                server_variant,
                per_room=per_room if variants is used else None,
                gateway=gateway.url,
                off=[_room(OFF, members) for members in sizes],
                count_statements=True,
            ) as server:
                for variant in variants:
                    is_server = variants is not used and variant is ELSEWHERE
                    name = server_variant.name if is_server else variant.name
                    for members in sizes:
                        if members == MANY and variant not in (OFF, ALL_MUTED):
                            continue
                        room = population.rooms[_room(variant, members)]
                        found += [
                            Count(kind, members, name, quantity, number)
                            for quantity, number in _statements(
                                room, server, gateway, variant
                            ).items()
                        ]
                    if variant is ELSEWHERE:
                        found += _calls(population, server, kind, name)
                        found += sync.count(server, kind, name)
                    workshop.say(f"counted on {kind}: {name}")
    return found


def _room(variant: Variant, members: int) -> str:
    return f"{variant.name}, {members} members"


def _statements(room: Room, server: Server, gateway: Gateway, variant: Variant) -> dict[str, int]:
    """The statements of a message, by what they are for."""
    # The first one fills caches.
    _send(room, server, gateway, variant)
    batches = []
    for _ in range(_MESSAGES):
        before = server.statements()
        _send(room, server, gateway, variant)
        batches.append(server.statements() - before)
    counts = functools.reduce(operator.and_, batches)
    sums = dict.fromkeys((EVENT, PUSHES, OURS), 0)
    for (context, transaction), number in counts.items():
        path = path_of(context, transaction)
        if path is not None:
            sums[path] += number
        if transaction.startswith(_OUR_PREFIX):
            sums[OURS] += number
    return sums


def _send(room: Room, server: Server, gateway: Gateway, variant: Variant) -> None:
    """Send a message, and wait until it is pushed, or dropped, and all else is done."""
    gateway.clear()
    event_id = server.sender.send(room.room_id, content())
    server.rest()
    if variant is not OFF:
        server.wait_for_pushers(room.members)
    pushed = sorted(push.pushkey for push in gateway.pushes() if push.event_id == event_id)
    is_silent = variant is OFF or (server.variant.with_module and variant.is_silent)
    assert pushed == ([] if is_silent else sorted(map(pushkey, room.members)))


def path_of(context: str, transaction: str) -> str | None:
    """Whether a statement belongs to an `EVENT` or to its `PUSHES`; None for neither."""
    return None if transaction in _OF_NEITHER else _PATHS.get(context)


def _calls(population: Population, server: Server, kind: str, name: str) -> list[Count]:
    found = []
    for members in (FEW, MANY):
        calls = server.ask(
            "count_calls",
            sender=population.sender.user_id,
            room_id=population.rooms[_room(ELSEWHERE, members)].room_id,
            content=content(),
        )
        found.append(Count(kind, members, name, PYTHON, calls["python"]))
        found.append(Count(kind, members, name, C, calls["c"]))
    return found


@attr.s(auto_attribs=True, frozen=True)
class Calls:
    """What a variant calls to evaluate one event.

    Attributes:
        once: whatever the number of members.
        per_member: for each of them on top of that.
    """

    once: float
    per_member: float


def calls_of(counts: Sequence[Count], kind: str, variant: str, quantity: str) -> Calls:
    """Split the calls of a variant into those that each member causes, and the others."""
    by_members = {
        count.members: count.value
        for count in counts
        if (count.where, count.variant, count.quantity) == (kind, variant, quantity)
    }
    per_member = (by_members[MANY] - by_members[FEW]) / (MANY - FEW)
    return Calls(by_members[FEW] - per_member * (FEW - 1), per_member)


def statements_of(
    counts: Sequence[Count], kind: str, variant: str, quantity: str, members: int = PUSHERS + 1
) -> int:
    """How many statements of that kind a message costs in a variant."""
    (value,) = (
        count.value
        for count in counts
        if (count.where, count.members, count.variant, count.quantity)
        == (kind, members, variant, quantity)
    )
    return value
