# SPDX-License-Identifier: AGPL-3.0-or-later
"""The tables of the report, each made of one measurement."""

from collections.abc import Callable, Mapping

from tests.bench import end_to_end, evaluation, memory, page, scale, sql, start, targets
from tests.bench.results import Measurement, Results
from tests.bench.tables import by_case, find, ratio, table, with_interval
from tests.bench.variants import CONTROL, IDLE, USED, VANILLA

NOT_MEASURED = "Not measured yet."


def _needs(name: str) -> Callable[[Callable[[Measurement], str]], Callable[[Results], str]]:
    """Have a table made of one measurement, and say so where that is missing."""

    def decorate(make: Callable[[Measurement], str]) -> Callable[[Results], str]:
        def render(results: Results) -> str:
            return make(results[name]) if name in results else f"{NOT_MEASURED}\n"

        return render

    return decorate


def _about(results: Results) -> str:
    rows = [
        [
            f"`{name}`",
            str(one.about["date"]),
            str(one.about["size"]),
            str(one.about["synapse"]),
            str(one.about["python"]),
            str(one.about["machine"]),
            f"{one.about['load']:.1f}",
            f"{one.about['seconds']} s",
        ]
        for name, one in sorted(results.items())
    ]
    head = ["measured", "on", "run", "Synapse", "Python", "machine", "load before", "took"]
    marks = {
        "not in full": any(one.about["size"] != "full" for one in results.values()),
        "on a machine that did other things as well": any(
            one.about["load"] > 1 for one in results.values()
        ),
    }
    reasons = " and ".join(reason for reason, holds in marks.items() if holds)
    warning = f"\n**Some of this was measured {reasons}: see the intervals before the ratios.**\n"
    return table(head, rows) + (warning if reasons else "")


def _evaluation(quantity: str) -> Callable[[Results], str]:
    @_needs("evaluation")
    def render(found: Measurement) -> str:
        rows = [one for one in found.comparisons if one.where == evaluation.MENTIONS]
        sizes = sorted({one.members for one in rows})
        idle = {
            size: find(rows, members=size, baseline=VANILLA.name, quantity=quantity)
            for size in sizes
        }
        rows_of_table = [
            [
                "vanilla, ms for an event",
                *(f"{one.baseline_median:.2f}" if one else "" for one in idle.values()),
            ]
        ]
        for variant in (CONTROL, IDLE, *USED):
            cells = [
                ratio(
                    find(
                        rows,
                        members=size,
                        baseline=VANILLA.name,
                        variant=variant.name,
                        quantity=quantity,
                    )
                )
                for size in sizes
            ]
            rows_of_table.append([variant.name, *cells])
        return table([f"{quantity}, by members", *(f"{size:,}" for size in sizes)], rows_of_table)

    return render


@_needs("evaluation")
def _other_baselines(found: Measurement) -> str:
    rows = [
        one
        for one in found.comparisons
        if one.quantity == evaluation.CPU
        and (one.baseline != VANILLA.name or one.where == evaluation.LEGACY)
    ]
    return table(
        ["messages", "compared", "with", "members", "ms", "CPU time"],
        [
            [
                one.where,
                one.variant,
                one.baseline,
                f"{one.members:,}",
                f"{one.variant_median:.2f}",
                ratio(one),
            ]
            for one in rows
        ],
    )


@_needs("sql")
def _statements(found: Measurement) -> str:
    kinds = sorted({one.where for one in found.counts}, reverse=True)
    variants = list(dict.fromkeys(one.variant for one in found.counts))
    quantities = (sql.EVENT, sql.PUSHES, sql.OURS)
    return table(
        [
            "",
            *(
                f"{kind}: {quantity.partition(', ')[2]}"
                for kind in kinds
                for quantity in quantities
            ),
        ],
        [
            [
                variant,
                *(
                    str(sql.statements_of(found.counts, kind, variant, quantity))
                    for kind in kinds
                    for quantity in quantities
                ),
            ]
            for variant in variants
        ],
    )


@_needs("sql")
def _calls(found: Measurement) -> str:
    kind = found.counts[0].where
    rows = []
    for variant in (VANILLA, IDLE, sql.ELSEWHERE):
        calls = [
            sql.calls_of(found.counts, kind, variant.name, quantity)
            for quantity in (sql.PYTHON, sql.C)
        ]
        rows.append(
            [
                variant.name,
                *(f"{each:g}" for one in calls for each in (one.once, one.per_member)),
            ]
        )
    return table(
        ["", "Python calls, once", "for each member", "C calls, once", "for each member"], rows
    )


@_needs("end_to_end")
def _cpu(found: Measurement) -> str:
    rows = [one for one in found.comparisons if one.quantity == end_to_end.CPU]
    wheres = list(dict.fromkeys(one.where for one in rows))
    variants = list(dict.fromkeys(one.variant for one in rows))
    medians = []
    for where in wheres:
        first = find(rows, where=where)
        medians.append(f"{first.baseline_median:.0f}" if first else "")
    return table(
        [f"{rows[0].members} members", *wheres],
        [
            ["vanilla, CPU ms for a message", *medians],
            *(
                [variant, *(ratio(find(rows, where=where, variant=variant)) for where in wheres)]
                for variant in variants
            ),
        ],
    )


@_needs("end_to_end")
def _latency(found: Measurement) -> str:
    rows = []
    for one in found.comparisons:
        if one.quantity != end_to_end.LATENCY:
            continue
        cells = [one.where, one.variant]
        for part in (0.5, 0.99):
            baseline, variant = one.quantiles(part)
            cells += [
                f"{baseline:.1f}",
                f"{variant:.1f}",
                with_interval(variant / baseline, one.quantile_interval(part)),
            ]
        rows.append(cells)
    columns = [
        f"{name} {what}" for name in ("p50", "p99") for what in ("vanilla, ms", "ms", "ratio")
    ]
    return table(["database", "variant", *columns], rows)


@_needs("muted")
def _muted(found: Measurement) -> str:
    return table(
        ["database", "members", "each phone", "compared with", "ms", "ms, muted", "CPU time"],
        [
            [
                one.where,
                f"{one.members:,}",
                one.variant,
                one.baseline,
                f"{one.baseline_median:.1f}",
                f"{one.variant_median:.1f}",
                ratio(one),
            ]
            for one in found.comparisons
        ],
    )


@_needs("fire_path")
def _fire_path(found: Measurement) -> str:
    statements = {one.members: one.value for one in found.counts}
    baseline = found.comparisons[0].baseline_median
    return table(
        ["dropped before", "CPU ms for one more event", "ratio", "SQL statements"],
        [
            ["0", f"{baseline:.2f}", "1", str(statements[0])],
            *(
                [
                    f"{one.members:,}",
                    f"{one.variant_median:.2f}",
                    ratio(one),
                    str(statements[one.members]),
                ]
                for one in found.comparisons
            ),
        ],
    )


@_needs("start")
def _start(found: Measurement) -> str:
    counts = {(one.variant, one.quantity): one.value for one in found.counts}
    quantities = (start.PUSHERS_TIME, start.PUSHERS_CPU, start.WHOLE_CPU)
    variants = list(dict.fromkeys(one.variant for one in found.comparisons))
    by_variant = {
        variant: [
            find(found.comparisons, quantity=quantity, variant=variant) for quantity in quantities
        ]
        for variant in variants
    }
    medians = [f"{one.baseline_median:.2f} s" for one in by_variant[variants[0]] if one]
    rows = [
        [VANILLA.name, *medians],
        *([variant, *(ratio(one) for one in ones)] for variant, ones in by_variant.items()),
    ]
    for row in rows:
        row += [f"{counts[row[0], quantity]:,}" for quantity in (start.STATEMENTS, start.AT_START)]
    members = f"{found.comparisons[0].members:,} pushers"
    return table([members, *quantities, start.STATEMENTS, start.AT_START], rows)


@_needs("memory")
def _memory(found: Measurement) -> str:
    rows = []
    for (users, name), by_quantity in by_case(found.amounts).items():
        kept = by_quantity[memory.KEPT]
        rows.append(
            [
                f"{users:,}",
                name,
                f"{by_quantity[memory.HELD] / users:.0f}",
                f"{kept:,.0f}",
                f"{by_quantity[memory.COMPILED] / kept:,.0f}",
                f"{(by_quantity[memory.HELD] + by_quantity[memory.COMPILED]) / 2**20:,.1f} MiB",
            ]
        )
    head = ["users", "each with", "bytes held", "compiled", "bytes compiled", "all together"]
    return table(head, rows)


@_needs("page")
def _page(found: Measurement) -> str:
    counts = {(one.variant, one.quantity): f"{one.value:,}" for one in found.counts}
    quantities = (page.REQUESTS, page.BYTES, page.ROWS)
    rows = [
        [one.variant, ratio(one), *(counts.get((one.variant, what), "") for what in quantities)]
        for one in found.comparisons
    ]
    first = found.comparisons[0]
    bare = [page.SYNC, f"{first.baseline_median:.2f} s", "1", "", ""]
    return table([f"{first.members:,} rooms", page.TIME, *quantities], [bare, *rows])


@_needs("profile")
def _profile(found: Measurement) -> str:
    names = list(dict.fromkeys(str(name) for rows in found.profiles.values() for name, _ in rows))
    parts = {
        variant: {str(name): float(part) for name, part in rows}
        for variant, rows in found.profiles.items()
    }
    most = sorted(names, key=lambda name: -max(of.get(name, 0) for of in parts.values()))
    return table(
        ["function, without what it calls", *parts],
        [
            [
                f"`{name}`",
                *(f"{of[name]:.1%}" if of.get(name, 0) >= 0.005 else "" for of in parts.values()),
            ]
            for name in most
            if max(of.get(name, 0) for of in parts.values()) >= 0.03
        ],
    )


TABLES: Mapping[str, Callable[[Results], str]] = {
    "about": _about,
    "targets": targets.render,
    "evaluation-time": _evaluation(evaluation.WALL),
    "evaluation-cpu": _evaluation(evaluation.CPU),
    "evaluation-other": _other_baselines,
    "statements": _statements,
    "calls": _calls,
    "cpu": _cpu,
    "latency": _latency,
    "muted": _muted,
    "fire-path": _fire_path,
    "start": _start,
    "memory": _memory,
    "page": _page,
    "profile": _profile,
    "scale": scale.render,
}
