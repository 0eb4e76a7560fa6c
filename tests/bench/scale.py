# SPDX-License-Identifier: AGPL-3.0-or-later
"""What a large server would pay, worked out from what was measured on a small one."""

from collections.abc import Sequence

from synapse_msc3881.evaluation.held_scopes import MAX_COMPILED
from tests.bench import evaluation, memory
from tests.bench.results import Amount, Comparison, Results
from tests.bench.tables import by_case, largest, table
from tests.bench.variants import ALL_OWN, ALL_OWN_MATCHING, VANILLA

LOCAL_USERS, SHARE, WORKERS = 1_000_000, 0.05, 20
ROOM = 1_000

# What each of them has.
_RULES, _PUSHERS = 5, 1

_USERS = round(LOCAL_USERS * SHARE)


def render(results: Results) -> str:
    """The table for a server of `LOCAL_USERS`, of whom a `SHARE` has device rules."""
    rows = [
        ["users with device rules", f"{_USERS:,}"],
        [
            f"rows in the module's tables, for {_RULES} rules and a pusher each",
            f"{_USERS * (_RULES + _PUSHERS):,}",
        ],
    ]
    if "memory" in results:
        rows += _memory(results["memory"].amounts)
    if "evaluation" in results:
        for variant in (ALL_OWN, ALL_OWN_MATCHING):
            rows += _cpu(results["evaluation"].comparisons, variant.name)
    return table([f"{LOCAL_USERS:,} local users, {WORKERS} workers", ""], rows)


def _memory(amounts: Sequence[Amount]) -> list[list[str]]:
    cases = by_case(amounts)
    most = max(users for users, name in cases if name == memory.FIVE)
    found = cases[most, memory.FIVE]
    held = _USERS * found[memory.HELD] / most
    kept = min(_USERS, MAX_COMPILED)
    compiled = kept * found[memory.COMPILED] / found[memory.KEPT]
    return [
        ["held in each process", f"{held / 2**20:.1f} MiB"],
        [
            f"compiled in each process that evaluates, at most {kept:,} users",
            f"{compiled / 2**20:.0f} MiB",
        ],
        ["in all workers, if all evaluate", f"{WORKERS * (held + compiled) / 2**30:.1f} GiB"],
    ]


def _cpu(comparisons: Sequence[Comparison], variant: str) -> list[list[str]]:
    found = largest(
        comparisons,
        where=evaluation.MENTIONS,
        quantity=evaluation.CPU,
        baseline=VANILLA.name,
        variant=variant,
    )
    if found is None:
        return []
    vanilla = found.baseline_median / found.members * 1000
    more = vanilla * (found.ratio - 1)
    name = variant.partition(": ")[2]
    return [
        [f"CPU for a member who uses it: {name}", f"{vanilla:.1f} + {more:.1f} µs"],
        [
            f"CPU for an event to {ROOM:,} local members, {SHARE:.0%} of whom use it: {name}",
            f"{vanilla * ROOM / 1000:.1f} + {more * ROOM * SHARE / 1000:.2f} ms",
        ],
    ]
