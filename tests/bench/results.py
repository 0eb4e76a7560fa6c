# SPDX-License-Identifier: AGPL-3.0-or-later
"""What the benchmark finds: kept as JSON, with every round, and summed up from it."""

import json
import os
import platform
import random
import statistics
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import attr

from synapse_msc3881 import __version__

JsonDict = dict[str, Any]

_RESAMPLES = 2000


def _tuples(value: Any) -> Any:
    """The same from JSON as from code."""
    return tuple(map(_tuples, value)) if isinstance(value, (list, tuple)) else value


def _profiles(value: Mapping[str, Any]) -> Mapping[str, Sequence[Sequence[Any]]]:
    return {variant: _tuples(rows) for variant, rows in value.items()}


@attr.s(auto_attribs=True, frozen=True)
class Comparison:
    """One quantity of two servers, measured by turns in the same run.

    Attributes:
        where: what was measured, such as "sqlite, with mentions".
        members: of the room, or whatever else the size is.
        baseline: the name of the variant to compare with.
        variant: the name of the variant that is compared.
        quantity: such as "evaluation, ms".
        rounds: what the baseline and the variant took, for each round.
    """

    where: str
    members: int
    baseline: str
    variant: str
    quantity: str
    rounds: Sequence[Sequence[float]] = attr.ib(converter=_tuples)

    @property
    def baseline_median(self) -> float:
        return statistics.median(one for one, _ in self.rounds)

    @property
    def variant_median(self) -> float:
        return statistics.median(other for _, other in self.rounds)

    @property
    def ratio(self) -> float:
        """The median of the rounds' ratios: what disturbs a round disturbs both its halves."""
        return statistics.median(self._ratios())

    def interval(self) -> tuple[float, float]:
        """The ratio's 95 % confidence interval, by the bootstrap: always the same for the same."""
        ratios = self._ratios()
        chance = random.Random(len(ratios))
        medians = sorted(
            statistics.median(chance.choices(ratios, k=len(ratios))) for _ in range(_RESAMPLES)
        )
        return medians[int(0.025 * _RESAMPLES)], medians[int(0.975 * _RESAMPLES) - 1]

    def quantiles(self, part: float) -> tuple[float, float]:
        """What that part of the baseline's and of the variant's rounds stays below."""
        return _quantile([one for one, _ in self.rounds], part), _quantile(
            [other for _, other in self.rounds], part
        )

    def quantile_interval(self, part: float) -> tuple[float, float]:
        """The 95 % confidence interval of the ratio of the two `quantiles`."""
        ones, others = zip(*self.rounds, strict=True)
        chance = random.Random(len(ones))
        ratios = sorted(
            _quantile(chance.choices(others, k=len(others)), part)
            / _quantile(chance.choices(ones, k=len(ones)), part)
            for _ in range(_RESAMPLES)
        )
        return ratios[int(0.025 * _RESAMPLES)], ratios[int(0.975 * _RESAMPLES) - 1]

    def _ratios(self) -> list[float]:
        return [other / one for one, other in self.rounds]


def _quantile(values: Sequence[float], part: float) -> float:
    ordered = sorted(values)
    return ordered[min(int(part * len(ordered)), len(ordered) - 1)]


@attr.s(auto_attribs=True, frozen=True)
class Count:
    """A number that is the same each time."""

    where: str
    members: int
    variant: str
    quantity: str
    value: int


@attr.s(auto_attribs=True, frozen=True)
class Amount:
    """A quantity of one variant that is not compared with another's, in each round."""

    where: str
    members: int
    variant: str
    quantity: str
    rounds: Sequence[float] = attr.ib(converter=_tuples)

    @property
    def median(self) -> float:
        return statistics.median(self.rounds)


@attr.s(auto_attribs=True, frozen=True)
class Measurement:
    """All that one measurement found, and where and when it ran."""

    about: Mapping[str, Any]
    comparisons: Sequence[Comparison] = attr.ib(default=(), converter=_tuples)
    counts: Sequence[Count] = attr.ib(default=(), converter=_tuples)
    amounts: Sequence[Amount] = attr.ib(default=(), converter=_tuples)
    #: For "profile": by variant, what was on the processor for how large a part of the time.
    profiles: Mapping[str, Sequence[Sequence[Any]]] = attr.ib(factory=dict, converter=_profiles)


Results = dict[str, Measurement]


def about(size: str, seconds: float, load: float) -> JsonDict:
    """What to know of a run.

    Args:
        size: how large it was.
        seconds: how long it took.
        load: the processes that wanted to run as it began, its own not among them.
    """
    return {
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "size": size,
        "seconds": round(seconds),
        "load": load,
        "module": __version__,
        "synapse": version("matrix-synapse"),
        "python": platform.python_version(),
        "machine": f"{os.cpu_count()} cores of {_processor()}",
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def read(file: Path) -> Results:
    """Read results; there are none where there is no file."""
    if not file.exists():
        return {}
    return {name: _measurement(found) for name, found in json.loads(file.read_text()).items()}


def write(file: Path, results: Results) -> None:
    """Write results, a row in each line, so that a change of one shows as such."""
    parts = []
    for name, measurement in sorted(results.items()):
        found = attr.asdict(measurement, value_serializer=_rounded)
        members = ",\n".join(
            f"  {json.dumps(key)}: {_rows(value)}"
            for key, value in found.items()
            if value or key == "about"
        )
        parts.append(f"{json.dumps(name)}: {{\n{members}\n }}")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("{\n " + ",\n ".join(parts) + "\n}\n")


def _rows(value: Any) -> str:
    if not isinstance(value, (list, tuple)):
        return json.dumps(value)
    return "[\n" + ",\n".join(f"   {json.dumps(row)}" for row in value) + "\n  ]"


def _rounded(_instance: Any, _field: Any, value: Any) -> Any:
    """Four digits are more than a measurement has."""
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, (list, tuple)):
        return [_rounded(None, None, one) for one in value]
    return value


def _measurement(found: JsonDict) -> Measurement:
    return Measurement(
        about=found["about"],
        comparisons=[Comparison(**row) for row in found.get("comparisons", ())],
        counts=[Count(**row) for row in found.get("counts", ())],
        amounts=[Amount(**row) for row in found.get("amounts", ())],
        profiles=found.get("profiles", {}),
    )
