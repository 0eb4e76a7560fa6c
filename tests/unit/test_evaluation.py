# SPDX-License-Identifier: AGPL-3.0-or-later
"""Evaluating one event for one user whose rules cost time, with Synapse's own evaluator."""

from collections.abc import Sequence
from typing import Any

import attr
import pytest
from prometheus_client import REGISTRY
from synapse.storage.databases.main.push_rule import _load_rules

from synapse_msc3881.cascade.outcomes import FAILED, MARK
from synapse_msc3881.cascade.rulesets import DeviceRule
from synapse_msc3881.evaluation.compiling import compile_user
from synapse_msc3881.evaluation.evaluator import (
    Evaluation,
    EventScopes,
    ScopedEvaluator,
    StagedActions,
)
from synapse_msc3881.evaluation.spending import MAX_DEBT_SECONDS, Spending
from synapse_msc3881.metrics import Failures, Metrics
from tests.unit.test_matching import EXTENSIBLE_OFF, MESSAGE, ROOMS, USER, Occasion, rule

# Passes the test before the evaluator for the body "hello", and does not match.
NEAR_MISS = {"kind": "event_match", "key": "content.body", "pattern": "lo*h?e"}
EVERYTHING = {"kind": "event_match", "key": "type", "pattern": "m.*"}


@attr.s(auto_attribs=True)
class Clock:
    """CPU time that passes with each look at it."""

    step: float
    now: float = 0.0
    looks: int = 0

    def __call__(self) -> float:
        self.looks += 1
        self.now += self.step
        return self.now


@attr.s(auto_attribs=True)
class Server:
    clock: Clock
    name: str = "example.org"

    def __attrs_post_init__(self) -> None:
        self.spending = Spending(self.clock)
        metrics = Metrics(self.name)
        failures = Failures(metrics, lambda: 0.0)
        scopes: Any = None
        self.evaluation = Evaluation(
            scopes, EXTENSIBLE_OFF.compiler, self.spending, failures, metrics
        )

    def evaluate(
        self,
        rules: Sequence[DeviceRule],
        tags: Sequence[str] = ("phone",),
        occasion: Occasion = MESSAGE,
    ) -> list[Any]:
        """The actions that would be stored."""
        scopes = compile_user(rules, [tags], EXTENSIBLE_OFF.compiler.compile)
        assert scopes is not None
        native = _load_rules([], {}, EXTENSIBLE_OFF.experimental)
        event_scopes = EventScopes({USER: scopes}, self.evaluation)
        evaluator = ScopedEvaluator(occasion.evaluator(EXTENSIBLE_OFF), occasion.keys, event_scopes)
        actions = evaluator.run(native, *occasion.user())
        return list(actions.stored if isinstance(actions, StagedActions) else actions)

    def fallbacks(self) -> float:
        labels = {"seam": "cost", "server_name": self.name}
        return REGISTRY.get_sample_value("synapse_msc3881_fallbacks_total", labels) or 0.0


def rules_that_miss(number: int) -> list[DeviceRule]:
    return [rule("override", f"{n}", ["notify"], [NEAR_MISS]) for n in range(number)]


def test_a_user_whose_rules_take_too_long_goes_by_global() -> None:
    server = Server(Clock(MAX_DEBT_SECONDS / 10), "too-long.example.org")
    stored = server.evaluate([*rules_that_miss(1000), rule("underride", "all", [])])
    assert stored == [FAILED, "notify", *stored[2:]]
    assert server.fallbacks() == 1
    # It was stopped in time, after about the ten steps that this clock allows.
    assert server.clock.looks < 20
    assert server.spending.left(USER) == pytest.approx(-MAX_DEBT_SECONDS / 10, abs=0.02)


def test_costly_rules_are_evaluated_while_there_is_time() -> None:
    server = Server(Clock(MAX_DEBT_SECONDS / 1000))
    last_actions = ["notify", {"set_tweak": "sound", "value": "x"}]
    last = rule("underride", "all", last_actions, [EVERYTHING])
    (element, *_) = server.evaluate([*rules_that_miss(100), last])
    assert element == {MARK: {"phone": {"underride/all": last_actions}}}


def test_rules_that_are_not_run_cost_nothing() -> None:
    server = Server(Clock(1.0))
    elsewhere = {"kind": "event_match", "key": "room_id", "pattern": "!elsewhere*"}
    rules = [rule("override", f"{n}", ["notify"], [elsewhere]) for n in range(5)]
    assert MARK not in str(server.evaluate(rules))
    assert server.clock.looks == 0


def test_nobody_looks_at_the_clock_for_rules_that_only_compare() -> None:
    server = Server(Clock(1.0))
    message = {"kind": "event_match", "key": "type", "pattern": "m.room.message"}
    rules = [rule("override", "all", ["notify"], [message])]
    assert MARK in server.evaluate(rules)[0]
    assert server.clock.looks == 0

    # There, it may take its time.
    long = attr.evolve(MESSAGE, keys={**MESSAGE.keys, "content.long": "x" * 10_000})
    assert MARK in server.evaluate(rules, occasion=long)[0]
    assert server.clock.looks > 0


def test_looking_at_many_rules_costs_too() -> None:
    server = Server(Clock(1.0))
    elsewhere = {"kind": "event_match", "key": "room_id", "pattern": "!elsewhere"}
    rules = [rule("override", f"{n}", ["notify"], [elsewhere]) for n in range(1000)]
    assert MARK not in str(server.evaluate(rules))
    assert server.spending.left(USER) < 0


def test_many_rules_are_stopped_though_none_is_costly() -> None:
    server = Server(Clock(MAX_DEBT_SECONDS / 10))
    # They have the key, and another value.
    other = {"kind": "event_property_is", "key": "type", "value": "other"}
    assert FAILED in server.evaluate([rule("override", f"{n}", [], [other]) for n in range(2000)])


def test_the_second_look_at_global_costs_too() -> None:
    rules, tags = [rule("room", ROOMS[0], ["notify"])], ["global", "phone"]
    server = Server(Clock(MAX_DEBT_SECONDS / 10))
    assert MARK in server.evaluate(rules, tags)[0]
    assert server.clock.looks == 0  # `global` notifies, so nobody needs to know.

    notice = attr.evolve(MESSAGE, keys={**MESSAGE.keys, "content.msgtype": "m.notice"})
    outcomes = {"phone": {f"room/{ROOMS[0]}": ["notify"]}, "global": []}
    assert server.evaluate(rules, tags, notice) == [{MARK: outcomes}]
    assert server.spending.left(USER) < MAX_DEBT_SECONDS
