# SPDX-License-Identifier: AGPL-3.0-or-later
"""Two requests at random distances of 0 to 20 ms: it ends as one after the other could have.

For every pair of ways that write, remove or read a pusher, its tags or rules, or a device's own
settings. What one after the other gives is not worked out but seen: each pair is run in both orders
first, on users of its own.
"""

import random
import secrets
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import attr
import pytest

from tests.conftest import FreshDeployment
from tests.fuzz.budget import SECONDS
from tests.fuzz.stage import Setting, end_of, new_stage
from tests.fuzz.ways import OWN_PAIRS, PAIRS, WAYS, Answer, Pairs
from tests.harness.deployment import Deployment
from tests.harness.pool_access import MODULE

MOST_APART = 0.02

#: How many further pairs are tried in `make test`, on each deployment; and how often each.
PAIRS_TRIED = 4
PAIRS_OF_OWN_TRIED = 2
RACES_OF_A_PAIR = 4

#: In which tags, pushers or rules were lost once, or too many were left.
LOST = [
    ("set", "set by another account"),
    ("set", "logout"),
    ("set", "rejected pushkey"),
    ("set", "kind null"),
]
LOST_OF_OWN = [
    ("desktop writes to the scope", "logout"),
    ("switch off", "device deletion"),
    ("logout", "room upgrade"),
]


@attr.s(auto_attribs=True, frozen=True)
class Outcome:
    """What two requests were answered, and how it ended."""

    one: Any
    other: Any
    end: Any


class Races:
    """Runs pairs, and knows what one after the other gives."""

    def __init__(self, deployment: Deployment) -> None:
        self._deployment = deployment
        self._serial: dict[Setting, list[Outcome]] = {}
        self._pool = ThreadPoolExecutor(2)

    def close(self) -> None:
        self._pool.shutdown()

    def serial(self, setting: Setting) -> list[Outcome]:
        """The outcomes of a pair in both orders."""
        known = self._serial.get(setting)
        if known is None:
            known = [self._in_order(setting, first) for first in (0, 1)]
            self._serial[setting] = known
        return known

    def _in_order(self, setting: Setting, first: int) -> Outcome:
        stage = new_stage(self._deployment, setting)
        try:
            answers: dict[int, Answer] = {}
            for number in (first, 1 - first):
                answers[number] = WAYS[setting.pair[number]](stage)
                self._deployment.settle()
            return Outcome(answers[0], answers[1], end_of(stage, setting))
        finally:
            stage.close()

    def race(self, setting: Setting, after: Sequence[float]) -> Outcome:
        """Make both requests, each after so many seconds."""
        stage = new_stage(self._deployment, setting)

        def act(number: int) -> Answer:
            time.sleep(after[number])
            return WAYS[setting.pair[number]](stage)

        try:
            made = [self._pool.submit(act, number) for number in (0, 1)]
            one, other = (act.result(60) for act in made)
            return Outcome(one, other, end_of(stage, setting))
        finally:
            stage.close()


@pytest.fixture(scope="module", params=["sqlite", "cluster"])
def races(request: pytest.FixtureRequest, make_deployment: FreshDeployment) -> Iterator[Races]:
    """On one process, and on the cluster whatever else is asked for."""
    deployment = make_deployment(request.param, further_modules=[MODULE])
    # Synapse's own, where a user or a token goes while it is in use.
    deployment.allow_in_log(r"synapse\.(handlers|storage|replication|rest|http)")
    races = Races(deployment)
    yield races
    races.close()
    deployment.stop()
    deployment.assert_log_is_clean()


def assert_pair_ends_in_some_order(
    races: Races, tried: Counter[str], dice: random.Random, setting: Setting
) -> None:
    allowed = races.serial(setting)
    tried["pairs"] += 1
    for _ in range(RACES_OF_A_PAIR):
        # Half of them nearly at once: a request takes some milliseconds.
        after = [0.0, dice.uniform(0, dice.choice([MOST_APART, MOST_APART / 8]))]
        dice.shuffle(after)
        found = races.race(setting, after)
        tried["races"] += 1
        if found not in allowed:
            listed = "\n".join(f"  {outcome}" for outcome in allowed)
            pytest.fail(
                f"{setting}, after {after}\n  found {found}\none after the other gives:\n{listed}"
            )


def assert_pairs_end_in_some_order(
    races: Races, tried: Counter[str], pairs: Pairs, count: int, seed: int, concerns_own: bool
) -> None:
    dice = random.Random(seed)
    for pair in dice.choices(pairs.names, pairs.weights, k=count):
        setting = Setting(pair, there=dice.random() < 0.7, concerns_own=concerns_own)
        assert_pair_ends_in_some_order(races, tried, dice, setting)


def assert_races_end_in_some_order(
    races: Races, tried: Counter[str], pairs: Pairs, count: int, *, concerns_own: bool = False
) -> None:
    for pair in LOST_OF_OWN if concerns_own else LOST:
        setting = Setting(pair, there=True, concerns_own=concerns_own)
        assert_pair_ends_in_some_order(races, tried, random.Random(9), setting)
    if not SECONDS:
        assert_pairs_end_in_some_order(races, tried, pairs, count, 9, concerns_own)
        return
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        assert_pairs_end_in_some_order(
            races, tried, pairs, count, secrets.randbelow(1_000_000), concerns_own
        )


def test_two_requests_at_once_end_as_one_after_the_other(races: Races, tried: Counter[str]) -> None:
    assert_races_end_in_some_order(races, tried, PAIRS, PAIRS_TRIED)


def test_two_requests_about_own_settings_do_so_too(races: Races, tried: Counter[str]) -> None:
    assert_races_end_in_some_order(races, tried, OWN_PAIRS, PAIRS_OF_OWN_TRIED, concerns_own=True)
