# SPDX-License-Identifier: AGPL-3.0-or-later
"""Evaluating one event for one user whose rules cost time, with Synapse's own evaluator."""

from collections.abc import Sequence
from typing import Any

import attr
import pytest
from prometheus_client import REGISTRY
from synapse.storage.databases.main.push_rule import _load_rules

from synapse_msc3881.cascade.outcomes import MARK, fingerprint
from synapse_msc3881.cascade.profile_tags import Match
from synapse_msc3881.cascade.rulesets import DeviceRule
from synapse_msc3881.cascade.stored_outcomes import Outcomes
from synapse_msc3881.evaluation.evaluator import (
    Evaluation,
    EventEvaluation,
    StagedActions,
)
from synapse_msc3881.evaluation.spending import MAX_DEBT_SECONDS, Spending
from synapse_msc3881.failures import Failures
from synapse_msc3881.metrics import Metrics
from tests.harness.compiling import compile_user
from tests.harness.occasions import EXTENSIBLE_OFF, MESSAGE, ROOMS, USER, Occasion, rule
from tests.harness.rows import row_of

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
        # Nothing of a debt is paid while the machine does something else.
        self.spending = Spending(self.clock, lambda: 0.0)
        metrics = Metrics(self.name)
        failures = Failures(metrics.fell_back, lambda: 0.0)
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
        event = EventEvaluation(self.evaluation.tools, {USER: scopes})
        evaluator = event.in_place_of(occasion.evaluator(EXTENSIBLE_OFF), occasion.keys)
        actions = evaluator.run(native, *occasion.user())
        return row_of(actions.stored if isinstance(actions, StagedActions) else actions)

    def runs_for_each_of(
        self, users: int, rules: Sequence[DeviceRule], occasion: Occasion
    ) -> list[int]:
        """How often rules of each user are run for one event, if all have these."""
        scopes = compile_user(rules, [("phone",)], EXTENSIBLE_OFF.compiler.compile)
        assert scopes is not None
        native = _load_rules([], {}, EXTENSIBLE_OFF.experimental)
        names = [f"@user{n}:example.org" for n in range(users)]
        event = EventEvaluation(self.evaluation.tools, dict.fromkeys(names, scopes))
        evaluator = event.in_place_of(occasion.evaluator(EXTENSIBLE_OFF), occasion.keys)
        run_native = evaluator.run_native
        runs: list[int] = []

        def count(compiled: Any, *user: Any) -> Any:
            runs[-1] += compiled not in (native, self.evaluation.tools.always)
            return run_native(compiled, *user)

        evaluator.run_native = count
        for name in names:
            runs.append(0)
            evaluator.run(native, name, *occasion.user()[1:])
        return runs

    def fallbacks(self) -> float:
        labels = {"reason": "cost", "server_name": self.name}
        return REGISTRY.get_sample_value("synapse_msc3881_fallbacks_total", labels) or 0.0


def body(text: str) -> Occasion:
    return attr.evolve(MESSAGE, keys={**MESSAGE.keys, "content.body": text})


def rules_that_miss(number: int) -> list[DeviceRule]:
    return [rule("override", f"{n}", ["notify"], [NEAR_MISS]) for n in range(number)]


def in_phone(stored: list[Any]) -> Match | None:
    """The match in the phone's scope that would be stored."""
    return Outcomes.read(stored, "notify" in stored).match_in("phone")


def keywords(number: int) -> list[DeviceRule]:
    return [
        rule(
            "content",
            f"{n}",
            ["notify"],
            [{"kind": "event_match", "key": "content.body", "pattern": f"keyword{n}"}],
        )
        for n in range(number)
    ]


MUTED = rule("room", ROOMS[0], [])
BY_TYPE = {"kind": "event_match", "key": "type", "pattern": "m.room.message"}


def test_rules_with_patterns_that_take_too_long_do_not_match() -> None:
    server = Server(Clock(MAX_DEBT_SECONDS / 10), "too-long.example.org")
    last = rule("underride", "all", [], [EVERYTHING])
    stored = server.evaluate([*rules_that_miss(1000), last])
    assert MARK not in str(stored)
    assert "notify" in stored
    assert server.fallbacks() == 1
    # It was stopped in time, after about the ten steps that this clock allows.
    assert server.clock.looks < 20
    assert server.spending.is_over(USER)


def test_who_is_over_the_bound_keeps_all_rules_without_patterns() -> None:
    server = Server(Clock(MAX_DEBT_SECONDS), "over.example.org")
    everything = rule("override", "pattern", ["notify"], [EVERYTHING])
    for _ in range(3):
        stored = server.evaluate([*rules_that_miss(100), everything, MUTED])
        assert in_phone(stored) == Match([], fingerprint(f"room/{ROOMS[0]}"))
    assert server.spending.is_over(USER)
    by_type = rule("override", "compares", ["notify"], [BY_TYPE])
    stored = server.evaluate([everything, by_type, MUTED])
    assert in_phone(stored) == Match(["notify"], fingerprint("override/compares"))
    looks = server.clock.looks
    server.evaluate([*rules_that_miss(1000), MUTED])
    assert server.clock.looks == looks
    assert server.fallbacks() == 5


def test_costly_rules_are_evaluated_while_there_is_time() -> None:
    server = Server(Clock(MAX_DEBT_SECONDS / 1000))
    last_actions: list[Any] = ["notify", {"set_tweak": "sound", "value": "x"}]
    last = rule("underride", "all", last_actions, [EVERYTHING])
    stored = server.evaluate([*rules_that_miss(100), last])
    assert in_phone(stored) == Match(last_actions, fingerprint("underride/all"))
    assert server.spending.left(USER) < MAX_DEBT_SECONDS


@pytest.mark.parametrize(
    "text",
    [
        "lorem ipsum " * 5000,
        "keyword7, " * 6000,
        " ".join(f"xkeyword{n}x keyword{n}\u00e9" for n in range(2000)),
        "\u00e9t\u00e9 keyword9 " * 3500,
    ],
    ids=["without the words", "with one", "with near misses", "beyond ASCII"],
)
def test_ordinary_rules_cost_nothing_whatever_others_send(text: str) -> None:
    """Nobody looks at the clock, so that nothing is owed, however slow the machine is."""
    server = Server(Clock(1000.0))
    rules = [*keywords(100), MUTED]
    for _ in range(100):
        server.evaluate(rules, occasion=body(text))
    assert server.clock.looks == 0
    assert server.fallbacks() == 0


def test_an_event_has_its_share_though_others_took_all_there_is() -> None:
    server = Server(Clock(1000.0), "share.example.org")
    while server.spending.left("@other:example.org") > 0:
        server.spending.charge("@other:example.org", 1.0)
    for _ in range(10):
        stored = server.evaluate([*keywords(10), MUTED], occasion=body("keyword7"))
        assert in_phone(stored) == Match(["notify"], fingerprint("content/7"))
    assert server.fallbacks() == 0
    server.evaluate(rules_that_miss(1000))
    assert server.fallbacks() == 1
    assert not server.spending.is_over(USER)


def test_many_users_of_one_event_have_a_smaller_share_each() -> None:
    server = Server(Clock(1000.0), "many.example.org")
    while server.spending.left("@other:example.org") > 0:
        server.spending.charge("@other:example.org", 1.0)
    wild = {**MESSAGE.keys, "type": "m.z.message"}
    never = {"kind": "room_member_count", "is": "77"}
    rules = [
        rule("override", f"{n}", [], [{**EVERYTHING, "pattern": "m*z*"}, never]) for n in range(99)
    ]
    runs = server.runs_for_each_of(100, rules, attr.evolve(MESSAGE, keys=wild))
    assert runs[0] > 5
    assert sum(runs) < 25 * runs[0] + 100 * 3
    assert runs[-1] == 2


def test_rules_that_are_not_run_cost_nothing() -> None:
    server = Server(Clock(1.0))
    elsewhere = {"kind": "event_match", "key": "room_id", "pattern": "!elsewhere*"}
    rules = [rule("override", f"{n}", ["notify"], [elsewhere]) for n in range(5)]
    assert MARK not in str(server.evaluate(rules))
    assert server.clock.looks == 0


def test_nobody_looks_at_the_clock_for_rules_that_only_compare() -> None:
    server = Server(Clock(1000.0))
    rules = [rule("override", "all", ["notify"], [BY_TYPE])]
    long = attr.evolve(MESSAGE, keys={**MESSAGE.keys, "content.long": "x" * 60_000})
    for occasion in (MESSAGE, long):
        assert MARK in server.evaluate(rules, occasion=occasion)[0]
    other = {"kind": "event_property_is", "key": "type", "value": "other"}
    many = [rule("override", f"{n}", [], [other]) for n in range(10_000)]
    assert MARK in server.evaluate([*many, rule("underride", "all", [], [BY_TYPE])])[0]
    assert server.clock.looks == 0


def test_comparing_long_texts_costs() -> None:
    server = Server(Clock(MAX_DEBT_SECONDS), "long.example.org")
    long = attr.evolve(MESSAGE, keys={**MESSAGE.keys, "content.x": ["x"] * 60_000})
    in_list = {"kind": "event_property_contains", "key": "content.x", "value": "x"}
    never = {"kind": "room_member_count", "is": "77"}
    rules = [rule("override", f"{n}", [], [in_list] * 10 + [never]) for n in range(1000)]
    stored = server.evaluate([*rules, MUTED], occasion=long)
    assert in_phone(stored) == Match([], fingerprint(f"room/{ROOMS[0]}"))
    assert server.spending.is_over(USER)


def test_looking_at_many_rules_costs_too() -> None:
    server = Server(Clock(1.0))
    elsewhere = {"kind": "event_match", "key": "room_id", "pattern": "!else*where"}
    compared = {**elsewhere, "pattern": "!elsewhere"}
    # Neighbours of another kind are a group each.
    rules = [
        rule("override", f"{n}", ["notify"], [compared if n % 2 else elsewhere])
        for n in range(10_000)
    ]
    assert MARK not in str(server.evaluate(rules))
    assert server.spending.is_over(USER)


def test_the_second_look_at_global_is_made_only_where_global_is_silent() -> None:
    rules, tags = [rule("room", ROOMS[0], ["notify"])], ["global", "phone"]
    server = Server(Clock(MAX_DEBT_SECONDS / 10))
    assert MARK in server.evaluate(rules, tags)[0]
    # `global` notifies, so nobody needs to know.

    notice = attr.evolve(MESSAGE, keys={**MESSAGE.keys, "content.msgtype": "m.notice"})
    # What is not known yet of `global` counts as matching.
    read = Outcomes.read(server.evaluate([rule("override", "r", ["notify"])], tags, notice), False)
    assert read.match_in("global") == Match([])
    assert read.match_in("phone") == Match(["notify"], fingerprint("override/r"))
