# SPDX-License-Identifier: AGPL-3.0-or-later
"""What users with device rules take of a process's memory.

In a real Synapse process, with the module's own objects: the set of users whom it holds, and the
compiled scopes that it keeps of some. Each row is a process of its own, since what one frees
another would use.
"""

from synapse_msc3881.evaluation.held_scopes import MAX_COMPILED
from tests.bench.population import RoomPlan
from tests.bench.results import Amount
from tests.bench.servers import Workshop
from tests.bench.sizes import Size
from tests.bench.variants import IDLE

HELD, COMPILED, KEPT = "bytes held", "bytes compiled", "users compiled"

FIVE, SAME = "5 rules with a word of their own", "the same 5 rules with a word"
ROOMS = "500 muted rooms"

# These take so much memory that fewer users show it.
_USERS_WITH_ROOMS = 1_000


def measure(workshop: Workshop, size: Size) -> list[Amount]:
    """Hold and compile users, in a new process for each number of them."""
    population = workshop.populate("sqlite", [RoomPlan("small", 2)])
    cases = [(users, FIVE, "override", 5) for users in size.users]
    cases.append((min(MAX_COMPILED, max(size.users)), SAME, "override", 5))
    cases.append((min(_USERS_WITH_ROOMS, max(size.users)), ROOMS, "room", 500))
    amounts = []
    for users, name, kind, rules in cases:
        with workshop.serve(population, IDLE) as server:
            found = server.ask(
                "memory",
                users=users,
                rules=rules,
                kind=kind,
                own=name == FIVE,
                kept=MAX_COMPILED,
            )
        for quantity, key in ((HELD, "held"), (COMPILED, "compiled"), (KEPT, "kept")):
            amounts.append(Amount("sqlite", users, name, quantity, [found[key]]))
        workshop.say(
            f"memory, {users:,} users, {name}: {found['held'] / users:.0f} bytes held for each,"
            f" {found['compiled'] / found['kept']:.0f} compiled for each of {found['kept']:,}"
        )
    return amounts
