# SPDX-License-Identifier: AGPL-3.0-or-later
"""The results as charts in SVG."""

import re
from typing import Any

import pygal
from pygal.style import LightColorizedStyle

from tests.bench import end_to_end, evaluation, memory
from tests.bench.results import Comparison, Measurement, Results
from tests.bench.variants import (
    ALL,
    ALL_MATCHING,
    ALL_ROOMS,
    ALL_THREE,
    CONTROL,
    IDLE,
    ONE_PERCENT,
    TEN_PERCENT,
    VANILLA,
)

_SHOWN = (CONTROL, IDLE, ONE_PERCENT, TEN_PERCENT, ALL, ALL_MATCHING, ALL_ROOMS, ALL_THREE)

# Which pygal drew it, and on which day.
_COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)


def draw(results: Results) -> dict[str, str]:
    """The charts of what was measured, by file name; always the same for the same results."""
    drawn = {
        "evaluation": _evaluation,
        "end_to_end": _end_to_end,
        "fire_path": _fire_path,
        "memory": _memory,
    }
    return {
        f"{name.replace('_', '-')}.svg": _svg(name, make(results[name]))
        for name, make in drawn.items()
        if name in results
    }


def _svg(name: str, chart: Any) -> str:
    # By default it is a random one.
    chart.uuid = name
    svg: str = chart.render(is_unicode=True, disable_xml_declaration=True)
    return _COMMENT.sub("", svg) + "\n"


def _options(title: str, **more: Any) -> dict[str, Any]:
    # Without a script, which forges would not run, and which would come from another site.
    return {
        "title": title,
        "js": [],
        "width": 860,
        "height": 420,
        "legend_at_bottom": True,
        "legend_at_bottom_columns": 2,
        "style": LightColorizedStyle(font_family="sans-serif", legend_font_size=12),
        **more,
    }


def _evaluation(found: Measurement) -> Any:
    rows = [
        one
        for one in found.comparisons
        if (one.where, one.baseline, one.quantity)
        == (evaluation.MENTIONS, VANILLA.name, evaluation.CPU)
    ]
    chart = pygal.Bar(
        **_options(
            "Evaluating an event, CPU time: vanilla = 1",
            x_title="local members of the room",
        )
    )
    sizes = sorted({one.members for one in rows})
    chart.x_labels = [f"{size:,}" for size in sizes]
    for variant in _SHOWN:
        by_size = {one.members: one for one in rows if one.variant == variant.name}
        chart.add(variant.name, [_bar(by_size.get(size)) for size in sizes])
    return chart


def _bar(found: Comparison | None) -> Any:
    if found is None:
        return None
    low, high = found.interval()
    return {"value": round(found.ratio, 3), "ci": {"low": round(low, 3), "high": round(high, 3)}}


def _end_to_end(found: Measurement) -> Any:
    rows = [one for one in found.comparisons if one.quantity == end_to_end.CPU]
    wheres = list(dict.fromkeys(one.where for one in rows))
    chart = pygal.Bar(
        **_options(f"A message to {rows[0].members} members, CPU time of the server: vanilla = 1")
    )
    chart.x_labels = wheres
    for variant in dict.fromkeys(one.variant for one in rows):
        by_where = {one.where: one for one in rows if one.variant == variant}
        chart.add(variant, [_bar(by_where.get(where)) for where in wheres])
    return chart


def _fire_path(found: Measurement) -> Any:
    chart = pygal.Bar(
        **_options("One more event for a pusher: after none dropped = 1", show_legend=False)
    )
    chart.x_labels = [one.variant for one in found.comparisons]
    chart.add("CPU time", [_bar(one) for one in found.comparisons])
    return chart


def _memory(found: Measurement) -> Any:
    chart = pygal.Bar(
        **_options("Memory of a process, MiB", x_title=f"users, each with {memory.FIVE}")
    )
    rows = [one for one in found.amounts if one.variant == memory.FIVE]
    users = sorted({one.members for one in rows})
    chart.x_labels = [f"{count:,}" for count in users]
    for quantity in (memory.HELD, memory.COMPILED):
        by_users = {one.members: one.median for one in rows if one.quantity == quantity}
        chart.add(
            quantity.removeprefix("bytes "),
            [round(by_users[count] / 2**20, 2) for count in users],
        )
    return chart
