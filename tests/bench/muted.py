# SPDX-License-Identifier: AGPL-3.0-or-later
"""What a message costs the whole server where every phone mutes its room.

The pushers are on, and nothing is pushed. Compared with a vanilla Synapse whose members' pushers
are off in the same room, which pushes nothing either; and with one that pushes to all of them,
which is what the mute saves. CPU time is that of the server's process, as in `end_to_end`.
"""

from collections.abc import Iterator, Sequence

import attr

from demo.gateway import Gateway
from tests.bench.course import Course
from tests.bench.population import RoomPlan
from tests.bench.results import Comparison
from tests.bench.servers import Workshop
from tests.bench.sizes import Size
from tests.bench.variants import VANILLA, Use, Variant

CPU = "CPU time"
OFF, TO_ALL = "vanilla, pushers off", "vanilla, pushes to all"

# The members of the largest rooms take one message as long as many in a small one.
_MEMBERS_IN_A_TURN = 6_000


def muted(scopes: int = 1, rules_each: int = 5) -> Variant:
    """A room that the last scope of each member's pusher mutes, and as many others as it says."""
    use = Use(scopes=scopes, kind="room", rules_each=rules_each, matches="yes")
    tags = "1 tag" if scopes == 1 else f"{scopes} tags"
    return Variant(f"{tags}, {rules_each} muted rooms each", share=1.0, use=use)


#: What is compared with a vanilla Synapse that pushes to all.
FIRST = muted()
#: In a room of the size that whole messages are measured in.
GROWTH = (muted(scopes=3), muted(scopes=10), muted(rules_each=500))


@attr.s(auto_attribs=True, frozen=True)
class _Case:
    members: int
    variant: Variant

    @property
    def name(self) -> str:
        return f"{self.variant.name}, {self.members} members"


def measure(workshop: Workshop, size: Size) -> Iterator[Comparison]:
    """Compare on each database; all sizes on the first one only."""
    for kind in size.kinds:
        cases = [_Case(size.room, FIRST)]
        if kind == size.kinds[0]:
            cases += [_Case(members, FIRST) for members in size.muted]
            cases += [_Case(size.room, variant) for variant in (() if size.some else GROWTH)]
        yield from _compare(workshop, kind, cases, size)


def _compare(
    workshop: Workshop, kind: str, cases: Sequence[_Case], size: Size
) -> Iterator[Comparison]:
    plans = [RoomPlan(case.name, case.members + 1) for case in cases]
    plans.append(RoomPlan(TO_ALL, size.room + 1))
    population = workshop.populate(kind, plans)
    with (
        Gateway() as gateway,
        workshop.serve(
            population, VANILLA, gateway=gateway.url, off=[case.name for case in cases]
        ) as vanilla,
        workshop.serve(
            population,
            FIRST,
            per_room={case.name: case.variant for case in cases},
            gateway=gateway.url,
        ) as other,
    ):
        course = Course(gateway)
        for case in cases:
            room = population.rooms[case.name]
            messages = max(size.messages, min(20, _MEMBERS_IN_A_TURN // case.members))
            # Those that the target is about; the others show how it grows.
            number = size.control_rounds if case is cases[0] else size.rounds
            rounds = course.take_turns(vanilla, other, room, messages, number)
            found = Comparison(kind, case.members, OFF, case.variant.name, CPU, rounds)
            workshop.say(f"{case.name}: CPU {found.ratio:.3f} of vanilla with pushers off")
            yield found
        room = population.rooms[cases[0].name]
        to_all = population.rooms[TO_ALL]
        rounds = []
        for number in range(-1, size.rounds):
            taken = (
                course.cpu(vanilla, to_all, size.messages, pushes=size.room),
                course.cpu(other, room, size.messages),
            )
            rounds += [taken] if number >= 0 else []
        found = Comparison(kind, size.room, TO_ALL, FIRST.name, CPU, rounds)
        workshop.say(f"{kind}: CPU {found.ratio:.3f} of vanilla that pushes to all")
        yield found
