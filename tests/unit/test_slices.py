# SPDX-License-Identifier: AGPL-3.0-or-later
"""Work in slices: how long one takes, whose turn it is, and what becomes of errors."""

from collections.abc import Callable, Generator, Iterator
from typing import Any

import attr
import pytest

from synapse_msc3881.evaluation.slices import (
    FREE_OF_ALL_SECONDS,
    MAX_WAIT_FOR_MUCH_SECONDS,
    MAX_WAIT_SECONDS,
    MUCH_SECONDS,
    SHARE_OF_ALL,
    SLICE_SECONDS,
    Slices,
)

STEP = SLICE_SECONDS / 4


@attr.s(auto_attribs=True)
class Worker:
    """`Slices` on a clock of its own, by which each step takes `STEP`."""

    cpu: float = 0.0
    now: float = 0.0
    said: list[str] = attr.Factory(list)
    paused: float = 0.0
    coroutines: list[Any] = attr.Factory(list)

    def __attrs_post_init__(self) -> None:
        async def pause(seconds: float) -> None:
            self.paused += seconds
            await Paused()

        self.slices = Slices(self._call_later, pause, lambda: self.cpu, lambda: self.now)

    def _call_later(self, _: float, go_on: Callable[[], Any], **__: Any) -> None:
        self.coroutines.append(go_on())

    def do(
        self, name: str, steps: int, error: BaseException | None = None, *, urgent: bool = False
    ) -> None:
        def take() -> Iterator[None]:
            for _ in range(steps):
                self.cpu += STEP
                yield
            if error:
                raise error

        def done(spent: float, raised: BaseException | None) -> None:
            assert spent == pytest.approx(steps * STEP)
            assert raised is error
            self.said.append(f"{name} done")

        late = None if urgent else lambda: self.said.append(f"{name} late")
        self.slices.do(take(), done, late)

    def turn(self) -> None:
        """One turn of the reactor."""
        for coroutine in list(self.coroutines):
            try:
                coroutine.send(None)
            except StopIteration:
                self.coroutines.remove(coroutine)


class Paused:
    def __await__(self) -> Generator[None, None, None]:
        yield


def test_a_slice_is_short_however_much_there_is_to_do() -> None:
    worker = Worker()
    for number in range(5):
        worker.do(f"{number}", 100)
    for turn in range(1, 11):
        before = worker.cpu
        worker.turn()
        assert worker.cpu - before <= SLICE_SECONDS + STEP
        assert worker.slices.slices == turn


def test_who_needs_little_is_done_first() -> None:
    worker = Worker()
    worker.do("long", 100)
    worker.turn()
    for name in ("a", "b"):
        worker.do(name, 2)
    worker.turn()
    worker.turn()
    assert worker.said == ["a done", "b done"]
    for _ in range(30):
        worker.turn()
    assert worker.said == ["a done", "b done", "long done"]
    assert not worker.coroutines


def test_who_waits_is_told_after_a_time_and_the_work_goes_on() -> None:
    worker = Worker()
    worker.do("long", 20)
    worker.turn()
    worker.do("short", 1)
    worker.turn()
    assert worker.said == ["short done"]
    worker.now = MAX_WAIT_SECONDS
    worker.turn()
    assert worker.said == ["short done", "long late"]
    for _ in range(10):
        worker.turn()
    assert worker.said == ["short done", "long late", "long done"]


def test_who_waits_for_much_is_told_sooner() -> None:
    worker = Worker()
    worker.do("much", int(4 * MUCH_SECONDS / STEP))
    worker.do("little", int(MUCH_SECONDS / 2 / STEP))
    while worker.cpu < 1.8 * MUCH_SECONDS:
        worker.turn()
    assert worker.said == ["little done"]
    worker.now = MAX_WAIT_FOR_MUCH_SECONDS
    worker.do("little again", int(MUCH_SECONDS / 2 / STEP))
    worker.turn()
    assert worker.said[1:] == ["much late"]
    worker.now = MAX_WAIT_SECONDS
    while worker.coroutines:
        worker.turn()
    assert worker.said[2:] == ["little again done", "much done"]


def test_what_is_urgent_goes_first_and_is_never_late() -> None:
    worker = Worker()
    worker.do("little", 1)
    worker.do("urgent", 100, urgent=True)
    worker.do("urgent too", 1, urgent=True)
    worker.turn()
    worker.turn()
    assert worker.said == ["urgent too done"]
    worker.now = 10 * MAX_WAIT_SECONDS
    worker.turn()
    assert worker.said == ["urgent too done", "little late"]
    while worker.coroutines:
        worker.turn()
    assert worker.said[2:] == ["urgent done", "little done"]


def test_what_all_take_together_is_bounded_however_many_they_are() -> None:
    worker = Worker()
    steps_of_each = int(1.0 / STEP)
    for number in range(int(3 * FREE_OF_ALL_SECONDS)):
        worker.do(f"{number}", steps_of_each)
    while worker.cpu < 0.9 * FREE_OF_ALL_SECONDS:
        worker.turn()
    assert worker.paused == 0, "as much as there is to do after a start"
    while worker.coroutines:
        worker.turn()
        worker.now = worker.cpu + worker.paused
    beyond = worker.cpu - FREE_OF_ALL_SECONDS
    assert worker.cpu / (worker.now + beyond) < 0.5
    assert beyond / worker.now < 1.2 * SHARE_OF_ALL
    # It is paid for in time, and nobody pays for it who comes later.
    worker.now += FREE_OF_ALL_SECONDS / SHARE_OF_ALL
    paused = worker.paused
    worker.do("later", steps_of_each)
    while worker.coroutines:
        worker.turn()
    assert worker.paused == paused


def test_what_is_urgent_waits_for_no_pause() -> None:
    worker = Worker()
    for number in range(int(2 * FREE_OF_ALL_SECONDS)):
        worker.do(f"{number}", int(1.0 / STEP))
    while not worker.paused:
        worker.turn()
    paused = worker.paused
    worker.do("urgent", 100, urgent=True)
    while not worker.said:
        worker.turn()
    assert worker.said == ["urgent done"]
    assert worker.paused == pytest.approx(paused, abs=2 * SLICE_SECONDS / SHARE_OF_ALL)


def test_an_error_ends_its_own_work_only() -> None:
    class PanicError(BaseException):
        """As Rust raises them."""

    worker = Worker()
    worker.do("a", 1, PanicError())
    worker.do("b", 3)

    def fail(*_: object) -> None:
        raise ValueError("a bug")

    worker.slices.do(iter([None]), fail, fail)
    for _ in range(5):
        worker.turn()
    assert worker.said == ["a done", "b done"]
    worker.do("c", 1)
    worker.turn()
    assert worker.said[-1] == "c done"
