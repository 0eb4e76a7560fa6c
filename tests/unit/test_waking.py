# SPDX-License-Identifier: AGPL-3.0-or-later
"""No row is lost, repeated or out of order, whatever happens between the steps of waking up.

One user has a pusher with profile tags. Events are stored, Synapse asks whom to wake up, and the
pusher works, as coroutines that are resumed in any order: each waits where Synapse's would wait for
the database or for the gateway, and there it may fail. At the end an event comes that wakes it up.
"""

import contextlib
from collections.abc import Callable, Collection, Coroutine, Generator, Iterable, Sequence
from types import SimpleNamespace
from typing import Any

import attr
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from synapse_msc3881.cascade.outcomes import with_outcomes
from synapse_msc3881.cascade.profile_tags import Match
from synapse_msc3881.delivery.backlog import Backlog, DecidedRow
from synapse_msc3881.delivery.http_backlog import HttpBacklog
from synapse_msc3881.delivery.mail_backlog import MailBacklog
from synapse_msc3881.delivery.pusher_store import PusherStore
from synapse_msc3881.delivery.waking import Waking
from synapse_msc3881.failures import Failures
from synapse_msc3881.storage.push_actions import PushActionRow, UserRow
from synapse_msc3881.storage.pusher_tags import PusherKey

USER = "@bob:example.org"
TAGS = ("phone", "global")
PUSHED = with_outcomes([], {"phone": Match(["notify"])}).text
DROPPED = with_outcomes(["notify"], {"phone": Match([])}).text

#: As Synapse's pushers ask for.
LIMIT = 20


class FailedError(Exception):
    """What the database or the gateway raises where it is to fail."""


class Wait:
    """Where a coroutine waits to be resumed."""

    def __await__(self) -> Generator["Wait", None, None]:
        yield self


class World:
    """The table, the pool with one pusher, and the coroutines under way."""

    def __init__(self, make_backlog: type[Backlog], most_rows: int) -> None:
        self.table: dict[int, PushActionRow] = {}
        self.token = 0
        self.delivered: list[int] = []
        self.decided = 0
        self.is_due = True
        self.read: set[int] = set()
        self._asked_to = 0
        self._waiting: list[Coroutine[Any, Any, None]] = []
        self._time = 0.0
        self._most_rows = most_rows
        self._failures = Failures(lambda _fallback: None, self.now)
        self._make_backlog = make_backlog
        self.pushers: dict[str, dict[str, Any]] = {}
        hs: Any = SimpleNamespace(get_pusherpool=lambda: SimpleNamespace(pushers=self.pushers))
        scopes: Any = SimpleNamespace(users={USER})
        rows: Any = self
        positions: Any = SimpleNamespace(note=lambda *_: None)
        self.waking = Waking(hs, scopes, rows, positions, self._failures)

    def now(self) -> float:
        self._time += 0.2
        return self._time

    # The table, as `PushActionStore` reads it

    async def rows_of_all(self, after: int, upto: int, limit: int) -> list[UserRow] | None:
        del limit
        found = self.between(after, upto)
        await Wait()
        rows = [(USER, *attr.astuple(row)[:-1]) for row in found]
        return rows if len(rows) <= self._most_rows else None

    async def users_to_wake(self, low: int, high: int) -> list[str]:
        found = self.between(low - 1, high)
        await Wait()
        return [USER] if found else []

    async def which_have_any(self, pairs: Sequence[tuple[str, int]]) -> set[tuple[str, int]]:
        found = {pair for pair in pairs if self.between(pair[1], self.token)}
        await Wait()
        return found

    async def rows(
        self,
        user_id: str,
        after: int,
        upto: int,
        limit: int,
        *,
        newest_first: bool = False,
        with_received_ts: bool = False,
    ) -> list[PushActionRow]:
        del user_id, with_received_ts
        found = self.between(after, upto)
        await Wait()
        return list(reversed(found))[:limit] if newest_first else found[:limit]

    async def to_push(
        self, user_id: str, rows: Collection[PushActionRow], look_for: Collection[PushActionRow]
    ) -> set[int]:
        del user_id, look_for
        read = set(self.read)
        if rows:
            await Wait()
        return {row.stream_ordering for row in rows} - read

    def between(self, after: int, upto: int) -> list[PushActionRow]:
        return [self.table[n] for n in sorted(self.table) if after < n <= upto]

    # What happens

    def store(self, actions: str) -> None:
        """An event is stored."""
        self.token += 1
        self.table[self.token] = PushActionRow(
            f"${self.token}", "!room", "main", self.token, actions, False, actions == DROPPED, 0
        )

    def start_pusher(self) -> None:
        """The pusher starts, as at the start of the process, or when it is set again."""
        done_to = max([0, *self.delivered])
        backlog = self._make_backlog(
            PusherKey(USER, "app", "key"),
            TAGS,
            self,  # type: ignore[arg-type]
            self._failures,
            SimpleNamespace(decided=self._count),  # type: ignore[arg-type]
            self.now,
            self.token,
        )
        pusher = Pusher(self, done_to, self.token)
        pusher.store = PusherStore(None, pusher, backlog, lambda *_: None)  # type: ignore[arg-type]
        self.pushers[USER] = {"app:key": pusher}
        self._begin(pusher.start())

    def _count(self, _decision: object) -> None:
        self.decided += 1

    def ask(self) -> None:
        """Synapse asks whom to wake up."""
        low, self._asked_to = self._asked_to, self.token
        self._begin(self._ask(low, self.token))

    async def _ask(self, low: int, high: int) -> None:
        async def native(*_: int) -> Iterable[str]:
            raise AssertionError("never")

        for user_id in await self.waking.users_to_wake(native, low, high):
            for pusher in self.pushers.get(user_id, {}).values():
                pusher.on_new_notifications(high)

    def begin_work(self, pusher: "Pusher") -> None:
        self._begin(pusher.work())

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        """Begin something else."""
        self._begin(coroutine)

    def resume(self, which: int, fails: bool = False) -> None:
        """Resume one of the coroutines that wait; it may find that what it waited for failed."""
        if not self._waiting:
            return
        coroutine = self._waiting.pop(which % len(self._waiting))
        self._run(lambda: coroutine.throw(FailedError()) if fails else coroutine.send(None))(
            coroutine
        )

    def finish(self) -> None:
        """Let all come to an end; then an event comes that wakes the pusher up."""
        self.is_due = True
        for _ in range(2):
            self.store(PUSHED)
            self.ask()
            while self._waiting:
                self.resume(0)

    def expected(self) -> list[int]:
        return [n for n in sorted(self.table) if self.table[n].actions == PUSHED]

    def _begin(self, coroutine: Coroutine[Any, Any, None]) -> None:
        self._run(lambda: coroutine.send(None))(coroutine)

    def _run(self, step: Callable[[], Wait]) -> Callable[[Coroutine[Any, Any, None]], None]:
        def run(coroutine: Coroutine[Any, Any, None]) -> None:
            try:
                step()
            except (StopIteration, FailedError):
                return
            self._waiting.append(coroutine)

        return run


class Pusher:
    """As much of Synapse's pusher as matters."""

    user_id, app_id, pushkey = USER, "app", "key"
    store: PusherStore

    def __init__(self, world: World, last: int, newest: int) -> None:
        self._world = world
        self._is_at_work = False
        self.last_stream_ordering = last
        self.max_stream_ordering = newest

    async def start(self) -> None:
        async def native(*_: object) -> bool:
            raise AssertionError("never")

        if await self._world.waking.may_have_push(native, USER, self.last_stream_ordering):
            self._wake()

    def on_new_notifications(self, upto: int) -> None:
        self.max_stream_ordering = max(self.max_stream_ordering, upto)
        self._wake()

    def _wake(self) -> None:
        if not self._is_at_work:
            self._world.begin_work(self)

    async def work(self) -> None:
        self._is_at_work = True
        try:
            while True:
                began_at = self.max_stream_ordering
                with contextlib.suppress(FailedError):
                    await self._push()
                if self.max_stream_ordering == began_at:
                    break
        finally:
            self._is_at_work = False

    async def _push(self) -> None:
        backlog = self.store.backlog
        rows = await backlog.next(self.last_stream_ordering, self.max_stream_ordering, LIMIT)
        if isinstance(backlog, MailBacklog):
            await self._mail(rows)
            return
        for row in rows:
            await Wait()  # For the gateway.
            self._deliver(row)

    async def _mail(self, rows: list[DecidedRow]) -> None:
        if not rows:
            self.last_stream_ordering = self.max_stream_ordering
        elif self._world.is_due:
            await Wait()  # For the mail server.
            for row in rows:
                self._deliver(row)

    def _deliver(self, row: DecidedRow) -> None:
        self._world.delivered.append(row.ordering)
        self.last_stream_ordering = row.ordering


STEPS = st.lists(
    st.one_of(
        st.sampled_from(["push", "push", "drop", "drop", "ask", "ask", "due", "not due"]),
        st.tuples(st.sampled_from(["resume", "resume", "resume", "fail"]), st.integers(0, 5)),
    ),
    max_size=40,
)


def play(world: World, steps: Iterable[Any]) -> None:
    for step in steps:
        if step == "push":
            world.store(PUSHED)
        elif step == "drop":
            world.store(DROPPED)
        elif step == "ask":
            world.ask()
        elif step in ("due", "not due"):
            world.is_due = step == "due"
        else:
            what, which = step
            world.resume(which, fails=what == "fail")


@pytest.mark.parametrize("most_rows", [100, 1], ids=["offered", "too many to offer"])
@given(before=STEPS, steps=STEPS)
@settings(max_examples=400, deadline=None)
def test_an_http_pusher_pushes_each_row_once_in_order(
    most_rows: int, before: list[Any], steps: list[Any]
) -> None:
    world = World(HttpBacklog, most_rows)
    play(world, before)
    world.start_pusher()
    play(world, steps)
    world.finish()
    assert world.delivered == world.expected()
    assert world.decided == len(world.table)


@given(before=STEPS, steps=STEPS)
@settings(max_examples=400, deadline=None)
def test_an_email_pusher_mails_each_row_once(before: list[Any], steps: list[Any]) -> None:
    world = World(MailBacklog, 100)
    play(world, before)
    world.start_pusher()
    play(world, steps)
    world.finish()
    # Each mail has the newest; older ones are then taken to be told.
    if len(world.expected()) <= LIMIT:
        assert world.delivered == world.expected()
        assert world.decided == len(world.table)
    else:
        assert world.delivered[-1] == world.expected()[-1]
        assert len(set(world.delivered)) == len(world.delivered)


def test_a_dropped_row_neither_reads_nor_wakes_up() -> None:
    world = World(HttpBacklog, 100)
    world.start_pusher()
    world.resume(0)
    for _ in range(3):
        world.store(DROPPED)
        world.ask()
        world.resume(0)  # The question alone: nothing else waits for the database.
        assert not world._waiting
    (pusher,) = world.pushers[USER].values()
    assert pusher.store.backlog.walked_to == 3
    assert pusher.store.backlog.dropped == 3


def test_while_the_gateway_fails_few_rows_are_kept() -> None:
    world = World(HttpBacklog, 100)
    for _ in range(150):
        world.store(PUSHED)
    world.start_pusher()
    (pusher,) = world.pushers[USER].values()

    def kept() -> int:
        return len(pusher.store.backlog._waiting)

    # The question whether there is anything, the rows, and which are unread. Then the gateway.
    for _ in range(3):
        world.resume(0)
    assert kept() == LIMIT
    assert not world.delivered
    for _ in range(150):
        world.store(PUSHED)
        world.ask()
        world.resume(1)
    assert kept() == LIMIT


def test_few_rows_of_a_burst_are_kept() -> None:
    world = World(HttpBacklog, 1000)
    world.start_pusher()
    world.resume(0)
    for _ in range(150):
        world.store(PUSHED)
    world.ask()
    world.resume(0)  # The question: the rows are there to be taken.
    (pusher,) = world.pushers[USER].values()
    assert pusher.store.backlog._waiting == []
    world.resume(0)  # It reads them itself.
    assert len(pusher.store.backlog._waiting) == LIMIT


def test_a_pusher_that_cannot_take_what_it_is_offered_reads_it_itself(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nor does it keep the pushers of others asleep, since the question is answered."""

    def fail(*_: object) -> bool:
        raise RuntimeError

    world = World(HttpBacklog, 100)
    world.start_pusher()
    world.resume(0)
    monkeypatch.setattr(Backlog, "offer", fail)
    world.finish()
    assert world.delivered == world.expected() == [1, 2]


@pytest.mark.parametrize("fails", [False, True])
def test_what_is_offered_while_rows_are_read_is_read_after_them(fails: bool) -> None:
    """Up to where the pusher has walked is known only then, and it may turn out to be nowhere."""
    world = World(HttpBacklog, 100)
    world.start_pusher()
    world.resume(0)
    (pusher,) = world.pushers[USER].values()
    backlog = pusher.store.backlog
    world.store(PUSHED)
    world.run(backlog.next(0, 1, LIMIT))  # Nobody offered the row.
    world.store(DROPPED)
    (dropped,) = world.between(1, 2)
    assert backlog.offer([dropped], 0, 2, 0)
    world.resume(0, fails=fails)
    if not fails:
        assert backlog.walked_to == 1
    assert backlog.offer([], 0, 3, 0), "it has to read both"
    world.finish()
    assert world.delivered == world.expected()


def test_an_email_pusher_takes_nothing_to_be_done_that_came_at_the_last_moment() -> None:
    """It finds nothing to mail, and takes all to be done that it was woken up for meanwhile."""
    world = World(MailBacklog, 100)
    world.start_pusher()
    world.resume(0)
    world.is_due = False
    world.store(PUSHED)
    world.ask()
    world.resume(0)  # The question.
    world.resume(0)  # The row.
    world.read.add(1)
    world.resume(0)  # Which are unread: asked before it was read. It is not due.
    (pusher,) = world.pushers[USER].values()
    assert len(pusher.store.backlog._waiting) == 1
    world.begin_work(pusher)  # As its timer does: it asks again which are unread.
    world.store(PUSHED)
    world.ask()
    world.resume(1)  # The question, before the other is answered: there is none to mail.
    world.resume(0)
    world.finish()
    assert world.delivered == world.expected()[1:]
