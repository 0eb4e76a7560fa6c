# SPDX-License-Identifier: AGPL-3.0-or-later
"""What came against what was due, and whether a process goes on growing. Pure."""

from collections.abc import Collection, Mapping, Sequence
from statistics import median

import attr

from demo.client import JsonDict

#: What a pusher got, or was to get: the event and the tweaks.
Pushed = tuple[str, JsonDict]

_MB = 1 << 20


@attr.s(auto_attribs=True, frozen=True, kw_only=True)
class Verdict:
    """What is to be said of the pushes of one or more pushers; they add up.

    Attributes:
        due: how many there should be.
        lost: how many of them never came.
        wrong: how many came that were not due, or with other tweaks.
        disordered: for how many pushers they came in another order.
        repeated: how many had come before.
    """

    due: int = 0
    lost: int = 0
    wrong: int = 0
    disordered: int = 0
    repeated: int = 0

    def __add__(self, other: "Verdict") -> "Verdict":
        mine, others = attr.astuple(self), attr.astuple(other)
        names = [field.name for field in attr.fields(Verdict)]
        return Verdict(**dict(zip(names, map(sum, zip(mine, others, strict=True)), strict=True)))

    @property
    def is_bad(self) -> bool:
        """Whether something is amiss, whatever was restarted."""
        return bool(self.lost or self.wrong or self.disordered)

    def __str__(self) -> str:
        return ", ".join(f"{count} {name}" for name, count in attr.asdict(self).items())


def judge(
    due: Sequence[Pushed],
    came: Sequence[Pushed],
    before: Collection[str] = (),
    instead: Mapping[str, JsonDict | None] | None = None,
) -> Verdict:
    """Compare what one pusher got with what it was to get.

    Args:
        due: what it was to get, in this order.
        came: what its gateway accepted.
        before: events that it got before, and may get once more where a process was restarted.
        instead: what it may have got for some events just as well; None for nothing.
    """
    tweaks, others = dict(due), instead or {}
    first: dict[str, JsonDict] = {}
    repeated = wrong = 0
    for event_id, got in came:
        if event_id in first or (event_id in before and event_id not in tweaks):
            repeated += 1
            continue
        first[event_id] = got
        wrong += got not in (tweaks.get(event_id), others.get(event_id))
    may_be_missing = {event_id for event_id, other in others.items() if other is None}
    in_order = [event_id for event_id in first if event_id in tweaks]
    return Verdict(
        due=len(due),
        lost=len(tweaks.keys() - first.keys() - may_be_missing),
        wrong=wrong,
        disordered=int(in_order != [event_id for event_id, _ in due if event_id in first]),
        repeated=repeated,
    )


@attr.s(auto_attribs=True, frozen=True)
class Growth:
    """How the memory of one process went, in bytes: in the middle and at the end."""

    middle: float
    end: float

    @classmethod
    def of(cls, samples: Sequence[int]) -> "Growth":
        """From samples at even distances; what comes in the first third is warming up."""
        third = max(1, len(samples) // 3)
        return cls(median(samples[third : 2 * third] or samples), median(samples[-third:]))

    @property
    def by(self) -> float:
        return self.end - self.middle

    def goes_on(self, allowed_mb: float) -> bool:
        """Whether it grew by more than that after it had warmed up."""
        return self.by > allowed_mb * _MB

    def __str__(self) -> str:
        return f"{self.middle / _MB:>8.1f} {self.end / _MB:>8.1f} {self.by / _MB:>+8.1f}"


def growing(watched: Mapping[str, Growth], allowed_mb: float) -> list[str]:
    """The processes that go on growing."""
    return [name for name, growth in watched.items() if growth.goes_on(allowed_mb)]
