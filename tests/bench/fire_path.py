# SPDX-License-Identifier: AGPL-3.0-or-later
"""What one more event costs a pusher that has dropped many since it last pushed.

A pusher whose first scope silences a room looks at each row of that room, and drops it. Users
with different numbers of such rows wait on one server, and messages go to each of them by turns.
The rows are written into Synapse's table before the start, as the module would have written them.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from demo.gateway import Gateway
from synapse_msc3881.cascade.outcomes import with_outcomes
from synapse_msc3881.cascade.profile_tags import Match
from tests.bench import sql
from tests.bench.population import Population, Room, RoomPlan
from tests.bench.results import Comparison, Count, Measurement
from tests.bench.servers import Server, Workshop
from tests.bench.sizes import Size
from tests.bench.variants import Use, Variant, content
from tests.harness.deployment import Deployment

CPU, STATEMENTS = "CPU time", "statements"

MUTED = Variant("room muted on the phone", share=1.0, use=Use(kind="room", matches="yes"))

#: What the pushers with a backlog are compared with.
NONE_DROPPED = "0 dropped"

_MESSAGES = 4
# In the room whose events come last, nobody is pushed to.
_LAST = "last"


def name_of(dropped: int) -> str:
    """The name of the variant."""
    return f"{dropped:,} dropped"


def measure(workshop: Workshop, size: Size) -> Measurement:
    """Compare pushers with backlogs to one without."""
    dropped = (0, *size.dropped)
    plans = [*(RoomPlan(name_of(count), 2) for count in dropped), RoomPlan(_LAST, 2)]
    population = workshop.populate("sqlite", plans)
    with (
        Gateway() as gateway,
        workshop.serve(
            population,
            MUTED,
            gateway=gateway.url,
            count_statements=True,
            prepare=lambda deployment: _add_rows(deployment, population, dropped),
        ) as server,
    ):
        course = _Course(population, server)
        # They begin as the server starts.
        server.wait_for_pushers(
            [population.rooms[name_of(count)].members[0] for count in size.dropped]
        )
        server.rest()
        rounds: list[dict[int, float]] = []
        for number in range(-1, size.rounds):
            order = dropped if number % 2 else dropped[::-1]
            taken = {count: course.cpu(name_of(count)) for count in order}
            if number >= 0:
                rounds.append(taken)
        counts = [
            Count("sqlite", count, name_of(count), STATEMENTS, course.statements(name_of(count)))
            for count in dropped
        ]
        assert gateway.pushes() == []
    comparisons = [
        Comparison(
            where="sqlite",
            members=count,
            baseline=NONE_DROPPED,
            variant=name_of(count),
            quantity=CPU,
            rounds=[(taken[0], taken[count]) for taken in rounds],
        )
        for count in size.dropped
    ]
    for found in comparisons:
        workshop.say(f"fire path, {found.variant}: CPU {found.ratio:.3f} of {NONE_DROPPED}")
    return Measurement(about={}, comparisons=comparisons, counts=counts)


def _add_rows(deployment: Deployment, population: Population, dropped: Sequence[int]) -> None:
    """Add the rows that the pushers are to drop, after the event up to which they have pushed."""
    upto, newest = population.upto, population.upto + max(dropped)
    # Synapse counts on from its newest event, and has nothing to do with those before.
    for statement, parameters in (
        ("UPDATE events SET stream_ordering = ? WHERE stream_ordering = ?", [newest, upto]),
        ("UPDATE stream_positions SET stream_id = ? WHERE stream_name = 'events'", [newest]),
        ("UPDATE federation_stream_position SET stream_id = ? WHERE type = 'events'", [newest]),
        ("UPDATE event_push_summary_stream_ordering SET stream_ordering = ?", [newest]),
    ):
        deployment.sql(statement, parameters)
    for count in dropped:
        room = population.rooms[name_of(count)]
        deployment.insert("event_push_actions", _COLUMNS, _rows(room, upto, count))


_COLUMNS = (
    "room_id",
    "event_id",
    "user_id",
    "actions",
    "topological_ordering",
    "stream_ordering",
    "notif",
    "highlight",
    "unread",
    "thread_id",
)


def _rows(room: Room, after: int, count: int) -> Iterator[Sequence[Any]]:
    (user,) = room.members
    muted = Match([], f"room/{room.room_id}")
    actions = with_outcomes(["notify"], {MUTED.use.tags[0]: muted}).text
    for n in range(count):
        yield room.room_id, f"$dropped-{n}", user, actions, n, after + 1 + n, 1, 0, 0, "main"


class _Course:
    def __init__(self, population: Population, server: Server) -> None:
        self._population = population
        self._server = server

    def cpu(self, room: str) -> float:
        """The CPU milliseconds that a message to a room takes, the pusher included."""
        before = self._server.cpu()
        self._send(room, _MESSAGES)
        return (self._server.cpu() - before) / _MESSAGES * 1000

    def statements(self, room: str) -> int:
        """How many SQL statements pushing takes for a message to a room."""
        counts = None
        for _ in range(3):
            before = self._server.statements()
            self._send(room, 1)
            came = self._server.statements() - before
            counts = came if counts is None else counts & came
        assert counts is not None
        return sum(number for key, number in counts.items() if sql.path_of(*key) == sql.PUSHES)

    def _send(self, room: str, messages: int) -> None:
        for _ in range(messages):
            self._server.sender.send(self._population.rooms[room].room_id, content())
            # Each on its own: the pusher would take several at once.
            self._server.rest()
            self._server.wait_for_pushers(self._population.rooms[room].members)
