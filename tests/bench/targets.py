# SPDX-License-Identifier: AGPL-3.0-or-later
"""What is to be reached, and what was."""

from collections.abc import Iterator, Sequence

import attr

from tests.bench import end_to_end, evaluation, memory, muted, sql, start, sync
from tests.bench.results import Comparison, Count, Results
from tests.bench.tables import by_case, find, largest, ratio, table, with_interval
from tests.bench.variants import (
    ALL,
    ALL_FIVE_ROOMS,
    ALL_MATCHING,
    ALL_MUTED,
    ALL_OWN,
    ALL_ROOMS,
    IDLE,
    OWN_MATCHING,
    OWN_PLAIN,
    OWN_RULES,
    VANILLA,
)


@attr.s(auto_attribs=True, frozen=True)
class Target:
    """A target of the project.

    Attributes:
        what: what is to be reached.
        limit: the most that it may be.
        found: what it is, in words.
        value: what it is; None where it was not measured.
    """

    what: str
    limit: str
    found: str
    value: float | None
    most: float

    @property
    def met(self) -> str:
        if self.value is None:
            return "not measured"
        return "yes" if self.value <= self.most else "**no**"


def targets(results: Results) -> Iterator[Target]:
    """All targets, with what was found."""
    yield from _evaluation_targets(results)
    yield from _end_to_end_targets(results)
    yield from _muted_targets(results)
    yield from _count_targets(results)
    yield from _other_targets(results)


def _at_most(what: str, most: float, found: Comparison | None) -> Target:
    limit = f"{most:.2f}"
    if found is None:
        return Target(what, limit, "", None, most)
    return Target(what, limit, ratio(found), found.ratio, most)


def _evaluation_targets(results: Results) -> Iterator[Target]:
    rows = results["evaluation"].comparisons if "evaluation" in results else ()
    for quantity in (evaluation.WALL, evaluation.CPU):
        common = {"where": evaluation.MENTIONS, "quantity": quantity}
        vanilla = {**common, "baseline": VANILLA.name}
        yield _at_most(
            f"evaluation, {quantity}: {IDLE.name}",
            1.01,
            largest(rows, variant=IDLE.name, **vanilla),
        )
        for variant in (ALL, ALL_OWN):
            found = largest(rows, variant=variant.name, **vanilla)
            yield _at_most(f"evaluation, {quantity}: {variant.name}", 1.3, found)
        for variant in (OWN_PLAIN, OWN_RULES, OWN_MATCHING):
            found = largest(rows, variant=variant.name, **vanilla)
            yield _at_most(f"evaluation, {quantity}: {variant.name}", 1.6, found)
        yield _at_most(
            f"evaluation, {quantity}: 500 muted rooms to 5",
            1.1,
            largest(rows, variant=ALL_ROOMS.name, baseline=ALL_FIVE_ROOMS.name, **common),
        )


def _end_to_end_targets(results: Results) -> Iterator[Target]:
    rows = results["end_to_end"].comparisons if "end_to_end" in results else ()
    for variant, most in ((IDLE, 1.01), (ALL, 1.05), (ALL_MATCHING, 1.10)):
        for one in rows:
            if (one.variant, one.quantity) == (variant.name, end_to_end.CPU):
                yield _at_most(f"message, CPU time, {one.where}: {variant.name}", most, one)
    for variant, most in ((IDLE, 1.03), (ALL, 1.10), (ALL_MATCHING, 1.10)):
        for one in rows:
            if (one.variant, one.quantity) != (variant.name, end_to_end.LATENCY):
                continue
            for name, part in (("p50", 0.5), ("p99", 0.99)):
                baseline, value = one.quantiles(part)
                yield Target(
                    f"latency {name}, {one.where}: {variant.name}",
                    f"{most:.2f}",
                    with_interval(value / baseline, one.quantile_interval(part)),
                    value / baseline,
                    most,
                )


def _count_targets(results: Results) -> Iterator[Target]:
    counts: Sequence[Count] = results["sql"].counts if "sql" in results else ()
    if not counts:
        return
    more = [
        one.value - sql.statements_of(counts, one.where, VANILLA.name, sql.EVENT)
        for one in counts
        if (one.quantity, one.members) == (sql.EVENT, sql.PUSHERS + 1)
    ]
    yield Target(
        "SQL statements more for an event, in each variant", "0", str(max(more)), max(more), 0
    )
    yield from _muted_counts(counts)
    kind = counts[0].where
    calls = [
        sql.calls_of(counts, kind, variant.name, sql.PYTHON).per_member
        for variant in (VANILLA, IDLE)
    ]
    more_calls = calls[1] - calls[0]
    yield Target("Python calls more for a member, idle", "0", f"{more_calls:g}", more_calls, 0)


def _muted_targets(results: Results) -> Iterator[Target]:
    rows = results["muted"].comparisons if "muted" in results else ()
    for one in rows:
        if (one.baseline, one.variant) == (muted.OFF, muted.FIRST.name):
            yield _at_most(
                f"message, CPU time, {one.where}: every phone mutes this room of {one.members:,},"
                " to pushers off",
                1.15,
                one,
            )


def _muted_counts(counts: Sequence[Count]) -> Iterator[Target]:
    for kind in dict.fromkeys(one.where for one in counts if one.variant == sql.OFF.name):
        more = [
            sum(
                factor * sql.statements_of(counts, kind, variant.name, quantity, members)
                for factor, variant in ((1, ALL_MUTED), (-1, sql.OFF))
                for quantity in (sql.EVENT, sql.PUSHES)
            )
            for members in (sql.PUSHERS + 1, sql.MANY)
        ]
        yield Target(
            f"SQL statements more where every phone mutes the room than with pushers off, {kind}",
            "0",
            str(max(more)),
            max(more),
            0,
        )
        less = sql.statements_of(counts, kind, VANILLA.name, sql.PUSHES) - sql.statements_of(
            counts, kind, ALL.name, sql.PUSHES
        )
        yield Target(
            f"SQL statements more for the push of a pusher with tags, {kind}",
            "-1",
            f"{-less / sql.PUSHERS:g}",
            -less / sql.PUSHERS,
            -1,
        )


def _other_targets(results: Results) -> Iterator[Target]:
    if "fire_path" in results:
        found = results["fire_path"]
        most = max(found.comparisons, key=lambda one: one.members)
        # Not to grow: the interval holds 1, or the ratio is below.
        low, _ = most.interval()
        yield Target(
            f"fire path: one more event after {most.variant}", "no growth", ratio(most), low, 1.0
        )
    if "start" in results:
        for quantity in (start.PUSHERS_TIME, start.PUSHERS_CPU):
            yield _at_most(
                f"start, {quantity}: {start.HALF.name}",
                1.05,
                find(results["start"].comparisons, quantity=quantity, variant=start.HALF.name),
            )
    synced = results["sync"].comparisons if "sync" in results else ()
    for kind in sync.KINDS:
        yield _at_most(
            f"/sync, CPU time, {kind}: where others have own settings",
            1.02,
            find(synced, where=f"{sync.WHERE}, {kind}", variant=OWN_PLAIN.name),
        )
    if "memory" in results:
        cases = by_case(results["memory"].amounts)
        held = max(case[memory.HELD] / users for (users, _), case in cases.items())
        yield Target("memory: bytes held for a user", "200", f"{held:.0f}", held, 200)


def render(results: Results) -> str:
    """The table of all targets."""
    rows = [[one.what, one.limit, one.found, one.met] for one in targets(results)]
    return table(["", "at most", "measured", "met"], rows)
