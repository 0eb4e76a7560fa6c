# SPDX-License-Identifier: AGPL-3.0-or-later
"""What the tables of the report share."""

from collections.abc import Sequence
from typing import Any

from tests.bench.results import Amount, Comparison


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown, its first column to the left."""
    lines = [head, ["---", *("---:" for _ in head[1:])], *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def ratio(found: Comparison | None) -> str:
    """A ratio with its interval."""
    if found is None:
        return ""
    return with_interval(found.ratio, found.interval())


def with_interval(value: float, interval: tuple[float, float]) -> str:
    """A ratio and between what it is, surely enough."""
    low, high = interval
    return f"{value:.3f} ({low:.2f} to {high:.2f})"


def find(found: Sequence[Comparison], **wanted: Any) -> Comparison | None:
    """The first one whose attributes are so."""
    return next(
        (one for one in found if all(getattr(one, name) == is_ for name, is_ in wanted.items())),
        None,
    )


def largest(found: Sequence[Comparison], **wanted: Any) -> Comparison | None:
    """Of those at most 1,000 members, which the targets are about, the one with most."""
    rows = [
        one
        for one in found
        if one.members <= 1_000 and all(getattr(one, name) == is_ for name, is_ in wanted.items())
    ]
    return max(rows, key=lambda one: one.members, default=None)


def by_case(amounts: Sequence[Amount]) -> dict[tuple[int, str], dict[str, float]]:
    """The medians by users and variant, and by quantity."""
    cases: dict[tuple[int, str], dict[str, float]] = {}
    for one in amounts:
        cases.setdefault((one.members, one.variant), {})[one.quantity] = one.median
    return cases
