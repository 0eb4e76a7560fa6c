# SPDX-License-Identifier: AGPL-3.0-or-later
"""What a `/sync` takes of a user none of whose devices has settings of its own.

Other users of the server have one each, with the module. A first sync holds the push rules; one
after it, without news, does not. In no room, nothing hides what the push rules take. Each sync has
a filter of its own: Synapse answers a repeated one from its cache.

It is the CPU time of the servers' processes that is compared. They take turns after each request,
and a round is some of these: by itself, a request may take half as long again as the next. Two
equal servers differ by some hundredths for as long as they run, so there are several pairs.
"""

import functools
import itertools
import json
import operator
import statistics
from collections import Counter
from collections.abc import Iterator

from demo.client import Session, path
from tests.bench.population import RoomPlan
from tests.bench.results import Comparison, Count
from tests.bench.servers import Server, Workshop
from tests.bench.sizes import Size
from tests.bench.variants import CONTROL, OWN_PLAIN, VANILLA

CPU = "CPU time"
WHERE = "sqlite"
FIRST, FIRST_IN_ROOMS, NO_NEWS = "first sync, no room", "first sync, 5 rooms", "sync without news"
KINDS = (FIRST, FIRST_IN_ROOMS, NO_NEWS)

#: SQL statements, and calls of the module's functions in the main thread, as "file:name".
STATEMENTS, CALLS = "statements, {}", "calls of ours, {}: {}"

_MEMBERS = 10
_ROOMS = 5
_REQUESTS = 8
_WARM_UP = 40
_COUNTED_TIMES = 3

_numbers = itertools.count()


class Reader:
    """Two users of a server who sync: one in no room, and one in some."""

    def __init__(self, server: Server, rooms: int = 0) -> None:
        self.server = server
        self._alone: Session = server.deployment.register()
        self._joined: Session = server.deployment.register()
        for _ in range(rooms):
            self._joined.create_room()
        self._since = ""
        self._since = self._sync(FIRST)

    def take(self, kind: str) -> float:
        """Sync once; returns what it took, in milliseconds of CPU time."""
        before = self.server.cpu()
        self._sync(kind)
        return (self.server.cpu() - before) * 1000

    def counts(self, kind: str) -> list[tuple[str, int]]:
        """The statements of a sync, and the calls of each of the module's functions."""
        self._sync(kind)
        statements, calls = [], []
        for _ in range(_COUNTED_TIMES):
            before = self.server.statements()
            self.server.ask("watch_calls")
            self._sync(kind)
            calls.append(Counter(dict(self.server.ask("calls_of_ours")["calls"])))
            statements.append(self.server.statements() - before)
        # What else the server does meanwhile is chance.
        least = functools.reduce(operator.and_, statements)
        number = sum(one for (context, _), one in least.items() if context == "GET")
        ours = functools.reduce(operator.and_, calls)
        return [
            (STATEMENTS.format(kind), number),
            *((CALLS.format(kind, name), one) for name, one in sorted(ours.items())),
        ]

    def _sync(self, kind: str) -> str:
        only_here = {"account_data": {"not_types": [f"x{next(_numbers)}"]}}
        query = {"timeout": 0, "filter": json.dumps(only_here)}
        if kind == NO_NEWS:
            query["since"] = self._since
        user = self._joined if kind == FIRST_IN_ROOMS else self._alone
        answer = user.call("GET", path("sync", query=query))
        types = [event["type"] for event in answer.get("account_data", {}).get("events", ())]
        assert ("m.push_rules" in types) == (kind != NO_NEWS)
        next_batch: str = answer["next_batch"]
        return next_batch


def count(server: Server, kind: str, name: str) -> list[Count]:
    """Count what each kind of sync takes; `sql.count` calls it for each of its servers."""
    reader = Reader(server)
    return [
        Count(kind, 1, name, quantity, number)
        for sync in (FIRST, NO_NEWS)
        for quantity, number in reader.counts(sync)
    ]


def measure(workshop: Workshop, size: Size) -> Iterator[Comparison]:
    """Compare vanilla with itself, and with the module."""
    population = workshop.populate(WHERE, [RoomPlan("room", _MEMBERS)])
    for variant in (OWN_PLAIN,) if size.some else (CONTROL, OWN_PLAIN):
        rounds: dict[str, list[tuple[float, float]]] = {kind: [] for kind in KINDS}
        for _ in range(size.starts):
            with (
                workshop.serve(population, VANILLA) as one,
                workshop.serve(population, variant) as other,
            ):
                readers = Reader(one, _ROOMS), Reader(other, _ROOMS)
                for kind in KINDS:
                    rounds[kind] += _take_turns(*readers, kind, size.syncs)
        for kind in KINDS:
            found = Comparison(
                where=f"{WHERE}, {kind}",
                members=_MEMBERS,
                baseline=VANILLA.name,
                variant=variant.name,
                quantity=CPU,
                rounds=rounds[kind],
            )
            workshop.say(f"{found.where}: {variant.name}: {found.ratio:.3f} of vanilla")
            yield found


def _take_turns(one: Reader, other: Reader, kind: str, rounds: int) -> list[tuple[float, float]]:
    for _ in range(_WARM_UP):
        one.take(kind)
        other.take(kind)
    taken = []
    for _ in range(rounds):
        round_of: dict[Reader, list[float]] = {one: [], other: []}
        for number in range(_REQUESTS):
            for reader in (one, other) if number % 2 else (other, one):
                round_of[reader].append(reader.take(kind))
        taken.append((statistics.fmean(round_of[one]), statistics.fmean(round_of[other])))
    return taken
