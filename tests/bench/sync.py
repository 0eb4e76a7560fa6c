# SPDX-License-Identifier: AGPL-3.0-or-later
"""What a `/sync` takes of a user none of whose devices has settings of its own.

Other users of the server have one each, with the module. The user is in no room, so that nothing
hides what the push rules take. Each request is an initial sync, which holds them, and has a filter
of its own: Synapse answers a repeated one from its cache.
"""

import itertools
import json
import time
from collections.abc import Iterator

from demo.client import Session, path
from tests.bench.population import RoomPlan
from tests.bench.results import Comparison
from tests.bench.servers import Server, Workshop
from tests.bench.sizes import Size
from tests.bench.variants import CONTROL, OWN_PLAIN, VANILLA

TIME, CPU = "time", "CPU time"
WHERE = "sqlite"

_MEMBERS = 10
_REQUESTS = 100
_WARM_UP = 20

_numbers = itertools.count()


def measure(workshop: Workshop, size: Size) -> Iterator[Comparison]:
    """Compare vanilla with itself, and with the module."""
    population = workshop.populate(WHERE, [RoomPlan("room", _MEMBERS)])
    for variant in (OWN_PLAIN,) if size.some else (CONTROL, OWN_PLAIN):
        with (
            workshop.serve(population, VANILLA) as one,
            workshop.serve(population, variant) as other,
        ):
            readers = [(server, server.deployment.register()) for server in (one, other)]
            for server, reader in readers:
                _syncs(server, reader, _WARM_UP)
            rounds = []
            for number in range(size.control_rounds):
                order = readers if number % 2 else readers[::-1]
                taken = {
                    server.variant.name: _syncs(server, reader, _REQUESTS)
                    for server, reader in order
                }
                rounds.append((taken[one.variant.name], taken[other.variant.name]))
        for quantity in (TIME, CPU):
            found = Comparison(
                where=WHERE,
                members=_MEMBERS,
                baseline=VANILLA.name,
                variant=variant.name,
                quantity=quantity,
                rounds=[(first[quantity], second[quantity]) for first, second in rounds],
            )
            workshop.say(f"sync, {quantity}: {variant.name}: {found.ratio:.3f} of vanilla")
            yield found


def _syncs(server: Server, reader: Session, count: int) -> dict[str, float]:
    """Sync so often; returns what one took, in milliseconds."""
    began, cpu = time.perf_counter(), server.cpu()
    for _ in range(count):
        only_here = {"account_data": {"not_types": [f"x{next(_numbers)}"]}}
        answer = reader.call(
            "GET", path("sync", query={"timeout": 0, "filter": json.dumps(only_here)})
        )
        types = [event["type"] for event in answer["account_data"]["events"]]
        assert "m.push_rules" in types
    return {
        TIME: (time.perf_counter() - began) * 1000 / count,
        CPU: (server.cpu() - cpu) * 1000 / count,
    }
