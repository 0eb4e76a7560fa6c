# SPDX-License-Identifier: AGPL-3.0-or-later
"""Rules and events that are made to be dear, against the same rules in `global`.

Each case is a room of users with rules, and an event; all of it is evaluated in one go, as Synapse
does it, while everybody else waits. With FUZZ_SECONDS it is timed and compared with what Synapse
takes for the same rules in `global`. Without, what is compared is counted and so the same each
time: the work that is done for nothing, and how often rules are run once the clock counts.
"""

import json
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import attr
import pytest
from hypothesis import given, settings
from synapse.storage.databases.main.push_rule import _load_rules

from synapse_msc3881.cascade.outcomes import MARK
from synapse_msc3881.cascade.rulesets import KINDS
from synapse_msc3881.evaluation.conditions import needs_of
from synapse_msc3881.evaluation.evaluator import (
    Evaluation,
    EventEvaluation,
    StagedActions,
)
from synapse_msc3881.evaluation.matching import UserScopes
from synapse_msc3881.evaluation.prefilter import searchable
from synapse_msc3881.evaluation.spending import (
    FREE_NS,
    MAX_DEBT_OF_ALL_SECONDS,
    MAX_DEBT_SECONDS,
    Spending,
)
from synapse_msc3881.failures import Failures
from synapse_msc3881.metrics import Metrics
from tests.fuzz import budget
from tests.fuzz.budget import spend
from tests.fuzz.cost_cases import TAGS, WORST, Case, cases
from tests.harness.compiling import compile_user
from tests.harness.occasions import EXTENSIBLE_OFF
from tests.harness.rows import row_of

#: What takes Synapse longer in `global` is not timed.
MOST_TIMED_NS = 1_000_000_000


# --- Evaluating a case --------------------------------------------------------------------------


@attr.s(auto_attribs=True)
class Ticks:
    """CPU time that passes with each look at it."""

    step: float
    now: float = 0.0
    looks: int = 0

    def __call__(self) -> float:
        self.looks += 1
        self.now += self.step
        return self.now


class Counting:
    """Synapse's evaluator, and how often its `run` was called."""

    def __init__(self, native: Any) -> None:
        self._native = native
        self.runs = 0

    def run(self, *args: Any) -> Any:
        self.runs += 1
        return self._native.run(*args)


class Room:
    """The users of a case, and what has been spent for them."""

    def __init__(
        self, case: Case, clock: Callable[[], float], now: Callable[[], float] = time.monotonic
    ) -> None:
        self.case = case
        self.spending = Spending(clock, now)
        metrics = Metrics("fuzz.example.org")
        scopes: Any = None
        self._evaluation = Evaluation(
            scopes,
            EXTENSIBLE_OFF.compiler,
            self.spending,
            Failures(metrics.fell_back, lambda: 0.0),
            metrics,
        )
        rules = case.device_rules()
        compiled = compile_user(rules, [TAGS], EXTENSIBLE_OFF.compiler.compile)
        assert isinstance(compiled, UserScopes)
        self.users = {f"@user{n}:example.org": compiled for n in range(case.users)}
        self.native_rules = _load_rules([], {}, EXTENSIBLE_OFF.experimental)
        self.global_rules = [
            _load_rules(
                [
                    (f"global/override/{n}", KINDS["override"], case.conditions(n), '["notify"]')
                    for n in range(case.count)
                    if case.tag_of(n) == tag
                ],
                {},
                EXTENSIBLE_OFF.experimental,
            )
            for tag in TAGS[: case.scopes]
        ]
        self._occasion = case.occasion()
        self._rest = self._occasion.user()[1:]

    def native(self) -> Any:
        return self._occasion.evaluator(EXTENSIBLE_OFF)

    def evaluate(self, native: Any) -> dict[str, list[Any]]:
        """What would be stored of the event for each user."""
        event = EventEvaluation(self._evaluation.tools, self.users)
        evaluator = event.in_place_of(native, self._occasion.keys)
        return {
            user_id: _stored(evaluator.run(self.native_rules, user_id, *self._rest))
            for user_id in self.users
        }

    def evaluate_global(self, native: Any) -> None:
        """The same rules in `global`; those of each scope by themselves, up to a match."""
        for user_id in self.users:
            for rules in self.global_rules:
                native.run(rules, user_id, *self._rest)

    def evaluate_default(self, native: Any) -> None:
        """What Synapse does for users who have no rules at all."""
        for user_id in self.users:
            native.run(self.native_rules, user_id, *self._rest)


def _stored(actions: Any) -> list[Any]:
    return row_of(actions.stored if isinstance(actions, StagedActions) else actions)


# --- What must hold -----------------------------------------------------------------------------


def assert_work_is_bounded(case: Case) -> None:
    """That what is done is bounded, by counts that are the same each time."""
    # For each look at a rule our test takes less than Synapse would.
    text = searchable(case.occasion().keys)
    for number in range(min(case.count, len(case.rules))):
        needs = needs_of(json.loads(case.conditions(number)))
        if needs.pattern_ns:
            assert needs.look_ns(text) <= needs.run_ns(text) + 1000
        else:
            assert not needs.pieces
    # Once the share of the event is used up, time counts, and no user gets beyond the bound.
    step = MAX_DEBT_SECONDS / 10
    clock = Ticks(step)
    # Nothing of a debt is paid meanwhile, however long the machine takes.
    room = Room(case, clock, lambda: 0.0)
    native = Counting(room.native())
    first = room.evaluate(native)
    assert clock.looks <= MAX_DEBT_OF_ALL_SECONDS / step + 3 * case.users
    groups = sum(len(scope.groups) for scope in next(iter(room.users.values())).scopes.values())
    comparing = sum(
        len(scope.comparing) for scope in next(iter(room.users.values())).scopes.values()
    )
    most_for_nothing = FREE_NS // 400_000
    # For each user `global`, and rules that compare once for the event; then patterns.
    allowed = 1 + case.users * (1 + most_for_nothing) + clock.looks + comparing * case.users
    assert native.runs <= allowed, (native.runs, allowed, groups)
    # Whatever became of patterns, each scope has an outcome: that of the muted room, or a match.
    for stored in first.values():
        assert len(_matched(stored)) == min(case.scopes, case.count)
    # Who is over the bound pays for nothing more.
    if any(room.spending.is_over(user_id) for user_id in room.users):
        looks = clock.looks
        over = {user_id for user_id in room.users if room.spending.is_over(user_id)}
        room.users = {user_id: room.users[user_id] for user_id in over}
        room.evaluate(Counting(room.native()))
        assert clock.looks == looks


def _matched(stored: list[Any]) -> Any:
    (element,) = (each for each in stored if isinstance(each, dict) and MARK in each)
    return element[MARK]


#: In comparison with the same rules in `global`; and what a share may take at worst, for each user,
#: and what all together may take beyond their shares, with the last rule of each.
MOST_OF_GLOBAL = 2.0
MOST_OF_SHARE = 0.008
LAST_RULE = 0.015


def assert_nobody_waits_longer(case: Case, tried: Counter[str]) -> None:
    """That nobody waits longer than for the same rules in `global`, by CPU time."""
    ours, in_global = (min(taken) for taken in zip(*(_times(case) for _ in range(3)), strict=True))
    least = 0.002 + 0.0005 * case.users
    bound = 0.005 + case.users * MOST_OF_SHARE + MAX_DEBT_OF_ALL_SECONDS + LAST_RULE
    print(f"ours {ours * 1000:.2f} ms, global {in_global * 1000:.2f} ms")
    if ours > least:
        tried[f"{int(ours / in_global * 10) * 10} % of global"] += 1
    tried["most ms"] = max(tried["most ms"], int(ours * 1000))
    assert ours <= max(MOST_OF_GLOBAL * in_global, least), (ours, in_global)
    assert ours <= bound, (ours, bound)


def work_in_global(case: Case) -> int:
    """How long Synapse takes in `global`, at most, in nanoseconds, about."""
    text = searchable(case.occasion().keys)
    of_rules = sum(
        needs_of(json.loads(case.conditions(number))).run_ns(text) for number in range(case.count)
    )
    return of_rules * case.users


def _times(case: Case) -> tuple[float, float]:
    room = Room(case, time.thread_time)
    ours = _time(room.evaluate, room.native()) - _time(room.evaluate_default, room.native())
    return ours, _time(room.evaluate_global, room.native())


def _time(function: Callable[[Any], object], native: Any) -> float:
    started = time.thread_time()
    function(native)
    return time.thread_time() - started


# --- The tests ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", WORST)
def test_the_worst_cases_found(name: str, tried: Counter[str]) -> None:
    case = WORST[name]
    assert_work_is_bounded(case)
    tried["cases"] += 1
    if budget.SECONDS:
        assert_nobody_waits_longer(case, tried)


def test_dear_rules_and_events(tried: Counter[str]) -> None:
    def run(settings_of_run: settings) -> None:
        @given(cases())
        @settings_of_run
        def is_bounded(case: Case) -> None:
            assert_work_is_bounded(case)
            tried["cases"] += 1
            if budget.SECONDS and work_in_global(case) < MOST_TIMED_NS:
                assert_nobody_waits_longer(case, tried)

        is_bounded()

    spend(run, examples=25, round_of=100)
