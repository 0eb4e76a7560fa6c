# SPDX-License-Identifier: AGPL-3.0-or-later
"""How users' device scopes are read and compiled: once for all who wait, in slices, up to date.

With Synapse's own compiler and deferreds; in the tables' place are stand-ins that count.
"""

import json
from collections.abc import Callable, Collection, Coroutine, Sequence
from typing import Any

import attr
import pytest
from synapse.logging import context as logging_context
from synapse.logging.context import SENTINEL_CONTEXT, current_context, set_current_context
from synapse.storage.databases.main.push_rule import _load_rules
from twisted.internet.defer import CancelledError, Deferred, ensureDeferred

from synapse_msc3881.cascade.rulesets import DeviceRule
from synapse_msc3881.evaluation.compilation import Compilation
from synapse_msc3881.evaluation.compile_debts import MAX_DEBT_SECONDS as MAX_COMPILE_DEBT
from synapse_msc3881.evaluation.compile_debts import REPAID_EACH_SECOND, CompileDebts
from synapse_msc3881.evaluation.compiling import Chunk, Compiler
from synapse_msc3881.evaluation.device_scopes import DeviceScopes
from synapse_msc3881.evaluation.held_scopes import Failed, HeldScopes
from synapse_msc3881.evaluation.matching import UserScopes
from synapse_msc3881.evaluation.slices import (
    MAX_WAIT_FOR_MUCH_SECONDS,
    MAX_WAIT_SECONDS,
    MUCH_SECONDS,
    SLICE_SECONDS,
    Slices,
)
from synapse_msc3881.failures import Failures, Fallback
from synapse_msc3881.metrics import Metrics
from synapse_msc3881.storage.device_rules import StoredRules
from synapse_msc3881.storage.pusher_tags import UserTags
from tests.harness.occasions import EXTENSIBLE_OFF, MESSAGE, ROOMS, Running, facts, runner

ALICE, BOB = "@alice:example.org", "@bob:example.org"


@attr.s(auto_attribs=True)
class Tables:
    """Stands in for both tables, and counts the reads."""

    tags: dict[str, list[tuple[str, ...]]] = attr.Factory(dict)
    rules: dict[str, list[DeviceRule]] = attr.Factory(dict)
    reads: list[frozenset[str]] = attr.Factory(list)
    while_reading: Callable[[], None] = lambda: None
    #: Reads wait for it.
    gate: "Deferred[None] | None" = None

    async def of_users(self, users: Collection[str]) -> dict[str, UserTags]:
        self.reads.append(frozenset(users))
        found = {user: UserTags(list(self.tags.get(user, []))) for user in users}
        self.while_reading()
        return found

    async def read(self, users: Collection[str]) -> dict[str, StoredRules]:
        found = {user: StoredRules(list(self.rules.get(user, []))) for user in users}
        if self.gate is not None:
            await self.gate
        return found


class CountingCompiler(Compiler):
    compiled = 0

    def compile(self, rules: Sequence[DeviceRule], report_bad: Any) -> Chunk:
        self.compiled += 1
        return super().compile(rules, report_bad)


class Process:
    """A process of a homeserver, whose reactor turns when it is told to."""

    def __init__(self) -> None:
        self.held = HeldScopes({ALICE, BOB})
        self.tables = Tables()
        self.cpu = 0.0
        self.now = 0.0
        #: The CPU time of a look at the clock: each step of compiling is one.
        self.step = SLICE_SECONDS / 8
        self.compiler = CountingCompiler(EXTENSIBLE_OFF.compiler.compile)
        self.failures: list[tuple[Fallback, str]] = []
        self._due: list[Callable[[], Coroutine[Any, Any, None]]] = []
        self.paused: list[Deferred[None]] = []
        self.debts = CompileDebts(lambda: self.now)
        self.slices = Slices(self.call_later, self.pause, self.clock, lambda: self.now)
        tables: Any = self.tables
        failures = Failures(Metrics("example.org").fell_back, lambda: 0.0)
        failures.report = lambda what, user, *_: self.failures.append((what, user))  # type: ignore[method-assign]
        self.scopes = DeviceScopes(
            self.held,
            tables,
            tables,
            self.compiler,
            EXTENSIBLE_OFF.compiler,
            self.slices,
            self.debts,
            failures,
            self.call_later,
        )

    @property
    def compiled(self) -> int:
        """How many chunks were compiled so far."""
        return self.compiler.compiled

    def clock(self) -> float:
        self.cpu += self.step
        return self.cpu

    def call_later(self, _: float, call: Any, *args: Any, desc: str) -> None:
        assert desc
        self._due.append(lambda: call(*args))

    async def pause(self, _: float) -> None:
        deferred: Deferred[None] = Deferred()
        self.paused.append(deferred)
        await deferred

    def turn(self) -> bool:
        """One turn of the reactor; tells whether there was anything to do."""
        due, self._due = self._due, []
        paused, self.paused = self.paused, []
        for call in due:
            ensureDeferred(call())
        for deferred in paused:
            deferred.callback(None)
        return bool(due or paused)

    def held_of(self, user: str) -> UserScopes:
        scopes = self.held.compiled[user]
        assert isinstance(scopes, UserScopes)
        return scopes

    def finish(self) -> None:
        while self.turn():
            assert current_context() is SENTINEL_CONTEXT

    def start(self, *users: str, rules: Any = None) -> "Event":
        """An event that concerns the users."""
        global_rules = dict.fromkeys(users, rules or GLOBAL)
        return Event(ensureDeferred(self.scopes.for_users(set(users), global_rules)))

    def find(self, *users: str, rules: Any = None) -> dict[str, Any]:
        event = self.start(*users, rules=rules)
        self.finish()
        return event.found


GLOBAL = _load_rules([], {}, EXTENSIBLE_OFF.experimental)


class Event:
    def __init__(self, deferred: "Deferred[Any]") -> None:
        self.deferred = deferred
        self.results: list[Any] = []
        deferred.addBoth(self.results.append)

    @property
    def is_done(self) -> bool:
        return bool(self.results)

    @property
    def found(self) -> dict[str, Any]:
        assert self.is_done
        return dict(self.results[0])


def a_rule(tag: str, number: int = 0, conditions: str = "[]", kind: str = "override") -> DeviceRule:
    return DeviceRule(tag, kind, f"r{number}", number, conditions, '["notify"]', True)


def on_word(number: int) -> DeviceRule:
    match = {"kind": "event_match", "key": "content.body", "pattern": f"word {number}"}
    return a_rule("phone", number, json.dumps([match]))


def words(number: int) -> list[DeviceRule]:
    return [on_word(n) for n in range(number)]


def in_room(room: str) -> DeviceRule:
    return DeviceRule("phone", "room", room, 0, "[]", "[]", True)


def rules_in(scopes: UserScopes) -> int:
    return sum(len(group.matches) for scope in scopes.scopes.values() for group in scope.groups)


@pytest.fixture
def process() -> Process:
    process = Process()
    process.tables.tags[ALICE] = [("phone", "global")]
    process.tables.rules[ALICE] = [a_rule("phone")]
    return process


# --- Once, and up to date -----------------------------------------------------------------------


def test_scopes_are_read_once(process: Process) -> None:
    first = process.find(ALICE)
    assert isinstance(first[ALICE], UserScopes)
    assert process.find(ALICE)[ALICE] is first[ALICE]
    assert process.tables.reads == [{ALICE}]


def test_a_user_without_tags_is_not_asked_for_again(process: Process) -> None:
    assert set(process.find(ALICE, BOB)) == {ALICE}
    assert process.held.users == {ALICE}


def test_a_user_whose_scopes_cannot_match_is_asked_for_once(process: Process) -> None:
    process.tables.tags[BOB] = [("nothing", "global")]
    for _ in range(2):
        assert process.find(BOB) == {}
    assert process.held.users == {ALICE, BOB}
    assert len(process.tables.reads) == 1


def test_a_change_is_seen_with_the_next_event(process: Process) -> None:
    process.find(ALICE)
    process.tables.rules[ALICE].append(a_rule("tablet"))
    process.tables.tags[ALICE].append(("tablet",))
    process.held.invalidate((ALICE,))
    assert set(process.find(ALICE)[ALICE].scopes) == {"phone", "tablet"}


def test_all_events_wait_for_one_load(process: Process) -> None:
    process.tables.rules[ALICE] = words(200)
    events = [process.start(ALICE) for _ in range(5)]
    process.turn()
    process.turn()
    events += [process.start(ALICE, BOB) for _ in range(5)]
    assert not any(event.is_done for event in events)
    process.finish()
    assert {id(event.found[ALICE]) for event in events} == {id(process.held.compiled[ALICE])}
    assert process.tables.reads == [{ALICE}, {BOB}]
    assert process.compiled == len(process.held_of(ALICE).scopes["phone"].chunks)


def test_what_became_stale_while_it_was_read_is_not_for_later_events(process: Process) -> None:
    process.tables.while_reading = lambda: process.held.invalidate((ALICE,))
    assert isinstance(process.find(ALICE)[ALICE], UserScopes)
    assert process.held.compiled == {}
    # Nor is a user taken out who got tags meanwhile.
    process.tables.while_reading = lambda: process.held.invalidate((BOB,))
    process.find(BOB)
    assert BOB in process.held.users


def test_an_event_after_a_change_waits_for_a_load_that_began_after_it(process: Process) -> None:
    process.tables.gate = Deferred()
    before = process.start(ALICE)
    process.turn()
    process.tables.rules[ALICE] = [a_rule("phone"), in_room("!new")]
    process.held.invalidate((ALICE,))
    after = [process.start(ALICE) for _ in range(3)]
    process.turn()
    # One at a time.
    assert len(process.tables.reads) == 1
    process.tables.gate.callback(None)
    process.finish()
    assert not before.found[ALICE].scopes["phone"].rooms
    assert {id(event.found[ALICE]) for event in after} == {id(process.held.compiled[ALICE])}
    assert process.held_of(ALICE).scopes["phone"].rooms
    assert len(process.tables.reads) == 2


def test_what_a_stranger_writes_throws_nobody_elses_load_away(process: Process) -> None:
    process.tables.while_reading = lambda: process.held.invalidate((BOB,))
    process.find(ALICE)
    assert ALICE in process.held.compiled


def test_nobody_waits_for_ever_though_somebody_keeps_writing(process: Process) -> None:
    process.tables.rules[ALICE] = words(100)
    event, turns_of_a_load = process.start(ALICE), 0
    while not event.is_done:
        process.turn()
        turns_of_a_load += 1
    waiting: dict[int, Event] = {}
    for turn in range(50):
        process.held.invalidate((ALICE,))
        waiting[turn] = process.start(ALICE)
        process.turn()
        for started, event in list(waiting.items()):
            if event.is_done:
                assert rules_in(waiting.pop(started).found[ALICE]) == 100
            else:
                assert turn - started < 2 * turns_of_a_load
    process.finish()
    assert all(event.is_done for event in waiting.values())
    # It was one after the other, and not one for each event.
    assert len(process.tables.reads) < 30


def test_a_user_who_is_gone_while_loading_is_not_held(process: Process) -> None:
    process.tables.gate = Deferred()
    event = process.start(ALICE)
    process.turn()
    del process.tables.tags[ALICE], process.tables.rules[ALICE]
    process.held.invalidate((ALICE,))
    process.tables.gate.callback(None)
    process.finish()
    assert event.found[ALICE]
    process.tables.gate = None
    assert process.find(ALICE) == {}
    assert process.held.users == {BOB}
    assert not process.held.compiled


# --- Who waits ----------------------------------------------------------------------------------


def test_cancelling_who_waits_leaves_the_load_to_the_others(process: Process) -> None:
    process.tables.rules[ALICE] = words(200)
    first, second = process.start(ALICE), process.start(ALICE)
    process.turn()
    first.deferred.cancel()
    assert first.results[0].check(CancelledError)
    process.finish()
    assert isinstance(second.found[ALICE], UserScopes)
    assert len(process.tables.reads) == 1


def test_who_waits_goes_on_in_the_logging_context_of_before(process: Process) -> None:
    seen = []

    async def wait(name: str) -> None:
        with new_context(name) as context:
            await process.scopes.for_users({ALICE}, {ALICE: GLOBAL})
            seen.append((name, current_context() is context))

    for name in ("first", "second"):
        ensureDeferred(wait(name))
        # As whoever starts something in the background has to see to.
        set_current_context(SENTINEL_CONTEXT)
    process.finish()
    assert seen == [("first", True), ("second", True)]


def new_context(name: str) -> Any:
    context: Any = logging_context.LoggingContext  # type: ignore[attr-defined]
    try:
        return context(name=name, server_name="example.org")
    except TypeError:  # In an older Synapse, one process has one homeserver.
        return context(name)


def test_a_database_that_fails_is_asked_again_at_the_next_event(process: Process) -> None:
    def fail() -> None:
        raise OSError("the database is away")

    process.tables.while_reading = fail
    events = [process.start(ALICE) for _ in range(3)]
    process.finish()
    assert all(isinstance(event.found[ALICE], Failed) for event in events)
    assert process.failures == [(Fallback.LOAD, ALICE)]
    assert process.held.compiled == {}
    process.tables.while_reading = lambda: None
    assert isinstance(process.find(ALICE)[ALICE], UserScopes)


def test_what_was_muted_stays_muted_while_the_database_fails(process: Process) -> None:
    def fail() -> None:
        raise OSError("the database is away")

    process.tables.rules[ALICE] = [in_room("!muted")]
    before = process.find(ALICE)[ALICE]
    process.tables.rules[ALICE].append(in_room("!muted too"))
    process.held.invalidate((ALICE,))
    process.tables.while_reading = fail
    for _ in range(2):
        assert process.find(ALICE)[ALICE] is before
    # It is no more than a way to get by: each event tries again.
    assert process.failures == [(Fallback.LOAD, ALICE)] * 2
    assert process.held.compiled == {}
    process.tables.while_reading = lambda: None
    rooms = process.find(ALICE)[ALICE].scopes["phone"].rooms
    assert set(rooms) == {"!muted", "!muted too"}


def test_an_event_after_a_change_is_not_hurt_by_the_load_before_it(process: Process) -> None:
    process.tables.gate = Deferred()
    before = process.start(ALICE)
    process.turn()
    process.held.invalidate((ALICE,))
    after = process.start(ALICE)
    gate, process.tables.gate = process.tables.gate, None
    gate.errback(OSError("the database was away"))
    process.finish()
    assert isinstance(before.found[ALICE], Failed)
    assert isinstance(after.found[ALICE], UserScopes)


def test_a_row_that_does_not_parse_is_left_out(process: Process) -> None:
    process.tables.rules[ALICE] = [a_rule("phone", 1, "broken"), a_rule("phone", 2)]
    assert rules_in(process.find(ALICE)[ALICE]) == 1
    assert process.failures == [(Fallback.COMPILE_RULE, ALICE)]


# --- Slices -------------------------------------------------------------------------------------


def test_the_reactor_turns_while_rules_are_compiled(process: Process) -> None:
    process.tables.rules[ALICE] = words(9990)
    event = process.start(ALICE)
    turns = longest = 0
    while not event.is_done:
        compiled = process.compiled
        process.turn()
        turns += 1
        longest = max(longest, process.compiled - compiled)
    assert rules_in(event.found[ALICE]) == 9990
    # By this clock, a slice has time for so many steps.
    assert longest <= 8
    assert turns > process.compiled / 8


def test_many_users_at_once_share_the_slices(process: Process) -> None:
    users = [f"@{n}:example.org" for n in range(100)]
    for user in users:
        process.tables.tags[user] = [("phone",)]
        process.tables.rules[user] = words(500)
    events = [process.start(*users) for _ in range(3)]
    compiled = longest = 0
    while not events[0].is_done:
        process.turn()
        longest = max(longest, process.compiled - compiled)
        compiled = process.compiled
    assert longest <= 8
    process.finish()
    assert all(rules_in(scopes) == 500 for event in events for scopes in event.found.values())
    # They have the same rules, and share what was made of them.
    assert process.compiled < 50


def test_a_user_with_few_rules_does_not_wait_for_one_with_many(process: Process) -> None:
    process.tables.rules[ALICE] = words(9990)
    process.tables.tags[BOB] = [("phone",)]
    process.tables.rules[BOB] = [a_rule("phone")]
    slow = process.start(ALICE)
    for _ in range(5):
        process.turn()
    quick = process.start(BOB)
    for _ in range(5):
        process.turn()
    assert quick.is_done
    assert not slow.is_done
    process.finish()


def test_an_event_does_not_wait_for_ever_and_has_what_costs_nothing(process: Process) -> None:
    is_thing = json.dumps([{"kind": "event_match", "key": "type", "pattern": "thing"}])
    last = a_rule("phone", 0, is_thing, "underride")
    process.tables.rules[ALICE] = [*words(9990), in_room("!muted"), last]
    event = process.start(ALICE)
    for _ in range(10):
        process.turn()
    while not process.compiled:
        process.turn()
    assert not event.is_done
    process.now += MAX_WAIT_SECONDS
    process.turn()
    scope = event.found[ALICE].scopes["phone"]
    assert scope.rooms == {"!muted": []}
    assert scope.groups[-1].matches[0].rule == "underride/r0"
    assert rules_in(event.found[ALICE]) < 9990
    # Nor does the next one, and the work goes on.
    again = process.start(ALICE)
    assert again.is_done
    process.finish()
    assert rules_in(process.find(ALICE)[ALICE]) == 9991
    assert len(process.tables.reads) == 1


def test_an_event_after_a_change_waits_no_longer_for_the_load_before_it(process: Process) -> None:
    process.tables.rules[ALICE] = words(9990)
    before = process.start(ALICE)
    while not process.compiled:
        process.turn()
    process.tables.rules[ALICE] = [in_room("!new")]
    process.held.invalidate((ALICE,))
    after = process.start(ALICE)
    process.turn()
    assert [event.is_done for event in (before, after)] == [False, False]
    process.now += MAX_WAIT_SECONDS
    process.turn()
    events = (before, after, process.start(ALICE))
    assert [event.is_done for event in events] == [True, True, True]
    # What was written holds as soon as it is known.
    process.finish()
    assert process.find(ALICE)[ALICE].scopes["phone"].rooms == {"!new": []}


def test_muted_rooms_stay_muted_however_many_are_compiled_at_once(process: Process) -> None:
    """As after a restart, in a room of thousands."""
    users = [f"@{n}:example.org" for n in range(300)]
    for number, user in enumerate(users):
        process.tables.tags[user] = [("phone", "global")]
        process.tables.rules[user] = [in_room("!muted"), a_rule("phone", number)]
    event = process.start(*users)
    while not event.is_done:
        process.now += MAX_WAIT_SECONDS / 4
        process.turn()
    assert process.compiled < len(users)
    assert process.failures == []
    for user in users:
        assert event.found[user].scopes["phone"].rooms == {"!muted": []}
    process.finish()
    assert all(rules_in(scopes) == 1 for scopes in process.find(*users).values())


def test_who_has_many_rules_makes_no_event_wait_for_long(process: Process) -> None:
    process.tables.rules[ALICE] = words(9990)
    process.step = SLICE_SECONDS * 2
    event = process.start(ALICE)
    while not event.is_done and process.cpu < 4 * MUCH_SECONDS:
        process.turn()
    assert not event.is_done
    process.now += MAX_WAIT_FOR_MUCH_SECONDS
    process.turn()
    assert rules_in(event.found[ALICE]) < 9990
    process.finish()


def test_an_event_that_waits_no_longer_has_what_was_compiled_before(process: Process) -> None:
    process.tables.rules[ALICE] = words(2000)
    process.find(ALICE)
    unchanged = process.tables.rules[ALICE]
    others = [a_rule("another", n, on_word(-n).conditions) for n in range(9000)]
    process.tables.rules[ALICE] = [*others, *unchanged]
    process.tables.tags[ALICE].append(("another",))
    process.held.invalidate((ALICE,))
    compiled = process.compiled
    event = process.start(ALICE)
    while not event.is_done and process.compiled == compiled:
        process.turn()
    process.now += MAX_WAIT_SECONDS
    process.turn()
    scopes = event.found[ALICE].scopes
    assert sum(len(group.matches) for group in scopes["phone"].groups) == 2000
    assert sum(len(group.matches) for group in scopes["another"].groups) < 9000
    process.finish()


def test_silent_rules_are_compiled_before_others_of_their_sort(process: Process) -> None:
    mutes = [
        attr.evolve(on_word(20_000 + n), actions="[]", kind="underride", priority=n)
        for n in range(30)
    ]
    process.tables.rules[ALICE] = [*words(9000), *mutes]
    event = process.start(ALICE)
    while not event.is_done and process.compiled < 3:
        process.turn()
    process.now += MAX_WAIT_SECONDS
    process.turn()
    groups = event.found[ALICE].scopes["phone"].groups
    actions = [match.actions for group in groups for match in group.matches]
    assert actions.count([]) == 30
    assert len(actions) < 9000
    process.finish()


def test_a_silent_rule_that_compares_holds_before_many_others_are_looked_at(
    process: Process,
) -> None:
    """To find out which of thousands of rules were compiled before takes a while, too."""
    condition = {"kind": "event_match", "key": "type", "pattern": "org.example.thing"}
    mute = a_rule("phone", 0, json.dumps([condition]), kind="underride")
    process.tables.rules[ALICE] = [*words(9000), attr.evolve(mute, actions="[]")]
    process.step = SLICE_SECONDS * 2
    event = process.start(ALICE)
    while not event.is_done and process.cpu < 4 * MUCH_SECONDS:
        process.turn()
    process.now += MAX_WAIT_FOR_MUCH_SECONDS
    process.turn()
    groups = event.found[ALICE].scopes["phone"].groups
    assert [match.actions for group in groups for match in group.matches] == [[]]
    process.finish()


def test_a_bug_at_the_end_of_a_load_leaves_nobody_waiting(
    process: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: Compilation) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(Compilation, "so_far", fail)
    events = [process.start(ALICE) for _ in range(3)]
    process.finish()
    assert all(isinstance(event.found[ALICE], Failed) for event in events)
    assert process.failures == [(Fallback.COMPILE, ALICE)]


def test_what_was_muted_stays_muted_where_compiling_has_a_bug(
    process: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: Compilation) -> None:
        raise RuntimeError("a bug")

    process.tables.rules[ALICE] = [in_room("!muted")]
    before = process.find(ALICE)[ALICE]
    process.tables.rules[ALICE].append(in_room("!new"))
    process.held.invalidate((ALICE,))
    with monkeypatch.context() as patch:
        patch.setattr(Compilation, "so_far", fail)
        # It is not tried at each event.
        for _ in range(2):
            assert process.find(ALICE)[ALICE] is before
    assert process.failures == [(Fallback.COMPILE, ALICE)]
    process.held.invalidate((ALICE,))
    assert set(process.find(ALICE)[ALICE].scopes["phone"].rooms) == {"!muted", "!new"}


# --- What it may cost ---------------------------------------------------------------------------


def test_compiling_is_no_part_of_what_evaluating_may_cost(process: Process) -> None:
    process.step = 1.0
    process.tables.rules[ALICE] = words(3000)
    for _ in range(8):
        process.held.invalidate((ALICE,))
        assert rules_in(process.find(ALICE)[ALICE]) > 0
    assert process.failures == []


@pytest.mark.parametrize("change", ["add", "remove", "change"])
def test_after_a_change_little_is_compiled(process: Process, change: str) -> None:
    rules = process.tables.rules[ALICE] = words(3000)
    process.find(ALICE)
    compiled = process.compiled
    if change == "add":
        rules.append(on_word(3000))
    elif change == "remove":
        del rules[1500]
    else:
        rules[1500] = attr.evolve(rules[1500], actions="[]")
    process.held.invalidate((ALICE,))
    assert rules_in(process.find(ALICE)[ALICE]) == len(rules)
    assert process.compiled - compiled <= 4


@pytest.mark.parametrize("conditions", [7, 13, 20])
def test_after_a_change_little_is_compiled_of_large_rules(
    process: Process, conditions: int
) -> None:
    large = [
        attr.evolve(rule, conditions=json.dumps(json.loads(rule.conditions) * conditions))
        for rule in words(1000)
    ]
    process.tables.rules[ALICE] = large[:-1]
    process.find(ALICE)
    compiled = process.compiled
    process.tables.rules[ALICE] = large
    process.held.invalidate((ALICE,))
    assert rules_in(process.find(ALICE)[ALICE]) == 1000
    assert process.compiled - compiled <= 10


def test_who_has_much_compiled_has_what_is_new_first_and_the_rest_later(process: Process) -> None:
    process.find(ALICE)
    process.debts.charge(ALICE, MAX_COMPILE_DEBT + 0.01)
    process.tables.rules[ALICE] = [*words(1000), in_room("!muted")]
    process.held.invalidate((ALICE,))
    scopes = process.find(ALICE)[ALICE]
    assert 0 < rules_in(scopes) <= 32
    assert scopes.scopes["phone"].rooms
    # What was written last.
    assert scopes.scopes["phone"].groups[0].matches[0].rule == "override/r999"
    assert process.failures == [(Fallback.COST, ALICE)]
    # It is not tried at each event, but when it is paid for.
    assert process.find(ALICE)[ALICE] is scopes
    process.now += 1.0 + process.cpu / REPAID_EACH_SECOND
    assert rules_in(process.find(ALICE)[ALICE]) == 1000


def test_a_debt_is_forgotten_when_it_is_paid() -> None:
    now = 0.0
    debts = CompileDebts(lambda: now)
    debts.charge(ALICE, MAX_COMPILE_DEBT + 0.5)
    assert debts.is_over(ALICE)
    assert not debts.is_over(BOB)
    now += 0.5 / REPAID_EACH_SECOND + 1
    assert not debts.is_over(ALICE)
    now += MAX_COMPILE_DEBT / REPAID_EACH_SECOND
    for number in range(1500):
        debts.charge(f"{number}", 0.001)
    assert ALICE not in debts._owed


def test_one_user_takes_no_more_than_a_share_of_the_memory(process: Process) -> None:
    process.held.max_bytes_of_user = 100_000
    process.tables.rules[ALICE] = [*words(1000), in_room("!muted")]
    scopes = process.find(ALICE)[ALICE]
    assert scopes.size < 110_000
    assert 0 < rules_in(scopes) < 1000
    assert scopes.scopes["phone"].rooms
    assert process.failures == [(Fallback.COST, ALICE)]
    assert process.find(ALICE)[ALICE] is scopes


# --- `global` -----------------------------------------------------------------------------------


def muting(number: int) -> Any:
    rows = []
    for n in range(number):
        match = {
            "kind": "event_match",
            "key": "room_id",
            "pattern": ROOMS[0] if n == 7 else f"!{n}",
        }
        rows.append((f"global/override/{n}", 5, json.dumps([match]), '["dont_notify"]'))
    return _load_rules(rows, {}, EXTENSIBLE_OFF.experimental)


def knows_of_global(scopes: UserScopes, rules: Any) -> bool:
    run, event = Running(runner(MESSAGE, EXTENSIBLE_OFF)), facts(MESSAGE, EXTENSIBLE_OFF)
    silent = scopes.silent_global
    assert silent is not None
    assert silent.of is rules
    assert silent.is_complete
    return scopes.matches_global(rules, run, event)


def test_what_tells_of_global_is_there_before_the_evaluation(process: Process) -> None:
    process.tables.tags[ALICE] = [("global", "phone")]
    rules = muting(1000)
    events = [process.start(ALICE, rules=rules) for _ in range(5)]
    compiled = longest = 0
    while not events[0].is_done:
        process.turn()
        longest = max(longest, process.compiled - compiled)
        compiled = process.compiled
    process.finish()
    assert longest <= 8
    assert knows_of_global(events[4].found[ALICE], rules)
    assert process.compiled == compiled < 60
    # It stays, also when device rules change, and counts in the cache.
    process.tables.rules[ALICE].append(a_rule("phone", 1))
    process.held.invalidate((ALICE,))
    scopes = process.find(ALICE, rules=rules)[ALICE]
    assert knows_of_global(scopes, rules)
    assert process.compiled <= compiled + 1
    assert process.held._bytes == scopes.size > 100_000


def test_what_tells_of_global_is_made_anew_for_other_rules(process: Process) -> None:
    process.tables.tags[ALICE] = [("global", "phone")]
    rules = [muting(100), muting(5)]
    events = [process.start(ALICE, rules=each) for each in rules]
    process.finish()
    assert all(event.is_done for event in events)
    assert knows_of_global(process.find(ALICE, rules=rules[0])[ALICE], rules[0])
    # None of them is about this room, and no server-default rule matches silently.
    assert not knows_of_global(process.find(ALICE, rules=rules[1])[ALICE], rules[1])


def test_what_tells_of_global_is_made_for_all_at_once(process: Process) -> None:
    users = [f"@{n}:example.org" for n in range(5)]
    for user in users:
        process.tables.tags[user] = [("global", "phone")]
        process.tables.rules[user] = [a_rule("phone")]
    process.find(*users)
    event = process.start(*users, rules=muting(1000))
    process.turn()
    process.now += MAX_WAIT_SECONDS
    process.turn()
    assert set(event.found) == set(users)
    process.finish()


def test_for_somebody_over_the_bound_a_silent_global_counts_as_a_match(process: Process) -> None:
    process.tables.tags[ALICE] = [("global", "phone")]
    process.find(ALICE)
    process.debts.charge(ALICE, MAX_COMPILE_DEBT + 1.0)
    compiled, rules = process.compiled, muting(1000)
    scopes = process.find(ALICE, rules=rules)[ALICE]
    run, event = Running(runner(MESSAGE, EXTENSIBLE_OFF)), facts(MESSAGE, EXTENSIBLE_OFF)
    assert scopes.matches_global(rules, run, event)
    assert process.compiled == compiled
    assert process.failures == [(Fallback.COST, ALICE)]
    process.now += 1.0 / REPAID_EACH_SECOND + process.cpu / REPAID_EACH_SECOND
    assert knows_of_global(process.find(ALICE, rules=rules)[ALICE], rules)


def test_nobody_else_has_global_compiled(process: Process) -> None:
    rules = muting(1000)
    assert process.find(ALICE, rules=rules)[ALICE].silent_global is None
    assert process.compiled == 1
