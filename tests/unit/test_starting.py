# SPDX-License-Identifier: AGPL-3.0-or-later
"""The first look of pushers that start: who comes meanwhile is asked for together."""

from collections.abc import Coroutine, Sequence
from types import SimpleNamespace
from typing import Any

from twisted.internet.defer import Deferred

from synapse_msc3881.delivery.starting import FirstLook, PusherStart
from synapse_msc3881.storage.pusher_tags import PusherKey

Pair = tuple[str, int]


class PushActions:
    """Keeps the questions, to be answered when the test says so."""

    def __init__(self) -> None:
        self.asked: list[list[Pair]] = []
        self.answers: list[Deferred[set[Pair]]] = []

    async def which_have_any(self, pairs: Sequence[Pair]) -> set[Pair]:
        self.asked.append(list(pairs))
        self.answers.append(Deferred())
        return await self.answers[-1]


class Looks:
    """Several pushers that take their first look."""

    def __init__(self) -> None:
        self.push_actions = PushActions()
        self._first_look = FirstLook(self.push_actions)  # type: ignore[arg-type]
        self.found: dict[Pair, bool] = {}

    def begin(self, *pairs: Pair) -> None:
        for pair in pairs:
            Deferred.fromCoroutine(self._look(pair))

    def _look(self, pair: Pair) -> Coroutine[Any, Any, None]:
        async def look() -> None:
            self.found[pair] = await self._first_look.may_have_push(*pair)

        return look()


A, B, C, D = ("@a:x", 1), ("@b:x", 2), ("@c:x", 3), ("@a:x", 4)


def test_those_who_come_while_a_question_is_under_way_go_into_the_next() -> None:
    looks = Looks()
    looks.begin(A, B, C)
    assert looks.push_actions.asked == [[A]]
    looks.push_actions.answers[0].callback({A})
    assert looks.found == {A: True}
    assert looks.push_actions.asked == [[A], [B, C]]
    looks.begin(D)
    looks.push_actions.answers[1].callback({C})
    looks.push_actions.answers[2].callback(set())
    assert looks.push_actions.asked == [[A], [B, C], [D]]
    assert looks.found == {A: True, B: False, C: True, D: False}


def test_after_a_failure_each_looks_for_itself() -> None:
    looks = Looks()
    looks.begin(A, B, C)
    for answer in range(2):
        looks.push_actions.answers[answer].errback(ValueError("the database went away"))
    assert looks.found == {A: True, B: True, C: True}
    looks.begin(D)
    looks.push_actions.answers[2].callback(set())
    assert looks.found[D] is False


def test_a_start_that_failed_keeps_nothing_of_what_happens_later() -> None:
    """Synapse does not try again, and whoever sets a pusher would be remembered for ever."""
    start = PusherStart()
    config: Any = SimpleNamespace(user_name="@a:x", app_id="app", pushkey="key")
    start.begin()
    start.fail()
    start.overtake(PusherKey.of(config))
    assert list(start.unchanged([config])) == [config]
