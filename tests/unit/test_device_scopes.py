# SPDX-License-Identifier: AGPL-3.0-or-later
"""What a process holds of its users' device scopes, and how it forgets."""

import asyncio
from collections.abc import Callable, Collection, Coroutine, Sequence
from typing import Any, TypeVar

import attr
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from synapse_msc3881.cascade.profile_tags import Actions
from synapse_msc3881.cascade.rulesets import DeviceRule
from synapse_msc3881.evaluation.device_scopes import DeviceScopes, Failed, HeldScopes
from synapse_msc3881.evaluation.matching import CompiledScope, UserScopes
from synapse_msc3881.evaluation.spending import Spending
from synapse_msc3881.metrics import Failures, Metrics

T = TypeVar("T")

ALICE, BOB = "@alice:example.org", "@bob:example.org"


# --- HeldScopes ---------------------------------------------------------------------------------

USERS = st.sampled_from([f"@{name}:example.org" for name in "abcdef"])


class HeldScopesModel(RuleBasedStateMachine):
    """HeldScopes against a list of what was kept, oldest first."""

    LIMIT = 3

    def __init__(self) -> None:
        super().__init__()
        self.held = HeldScopes(set(), max_compiled=self.LIMIT)
        self.users: set[str] = set()
        self.kept: list[str] = []
        self.invalidations = 0

    @rule(user=USERS)
    def invalidate(self, user: str) -> None:
        self.held.invalidate((user,))
        self.users.add(user)
        self.kept = [kept for kept in self.kept if kept != user]
        self.invalidations += 1

    @rule()
    def invalidate_all(self) -> None:
        self.held.invalidate_all()
        self.kept = []
        self.invalidations += 1

    @rule(user=USERS)
    def keep(self, user: str) -> None:
        # It may push an older one out, but never itself.
        self.held.keep(user, None)
        assert user in self.held.compiled
        self.kept = [kept for kept in [*self.kept, user] if kept in self.held.compiled]

    @invariant()
    def agrees(self) -> None:
        assert self.held.users == self.users
        assert set(self.held.compiled) == set(self.kept)
        assert len(self.held.compiled) <= self.LIMIT
        assert self.held.invalidations == self.invalidations


TestHeldScopesModel = HeldScopesModel.TestCase


def test_the_oldest_scopes_go_first() -> None:
    held = HeldScopes(set(), max_compiled=2)
    for user in ("a", "b", "c"):
        held.keep(user, None)
    assert list(held.compiled) == ["b", "c"]


def scopes_of(number: int) -> UserScopes:
    """Compiled scopes with so many rules."""
    actions: dict[object, Actions] = {f"!{n}": ["notify"] for n in range(number)}
    scope = CompiledScope(groups=(), rooms=actions, senders={})
    return UserScopes({"phone": scope}, are_many=False, needs_global_match=False)


def test_the_memory_of_all_is_bounded_too() -> None:
    held = HeldScopes(set(), max_compiled=100, max_bytes=10 * scopes_of(1).size)
    for user, rules in (("a", 4), ("b", 4), ("c", 2), ("d", 1)):
        held.keep(user, scopes_of(rules))
    assert list(held.compiled) == ["b", "c", "d"]
    # One that is written again counts once, and one that is too large by itself is kept alone.
    held.keep("b", scopes_of(7))
    assert list(held.compiled) == ["c", "d", "b"]
    held.keep("e", scopes_of(11))
    assert list(held.compiled) == ["e"]
    held.invalidate(("e",))
    held.keep("f", scopes_of(10))
    held.invalidate_all()
    for user in ("g", "h"):
        held.keep(user, scopes_of(5))
    assert list(held.compiled) == ["g", "h"]


# --- DeviceScopes -------------------------------------------------------------------------------


@attr.s(auto_attribs=True)
class Tables:
    """Stands in for both tables, and counts the reads."""

    tags: dict[str, list[tuple[str, ...]]] = attr.Factory(dict)
    rules: dict[str, list[DeviceRule]] = attr.Factory(dict)
    reads: int = 0
    while_reading: Callable[[], None] = lambda: None

    async def lists_for_users(self, users: Collection[str]) -> dict[str, list[tuple[str, ...]]]:
        self.reads += 1
        found = {user: list(self.tags.get(user, [])) for user in users}
        self.while_reading()
        return found

    async def for_users(self, users: Collection[str]) -> dict[str, list[DeviceRule]]:
        return {user: list(self.rules.get(user, [])) for user in users}


def compile_rules(rules: Sequence[Any]) -> Any:
    if any(conditions == "broken" for _, _, conditions, _ in rules):
        raise ValueError("a rule does not parse")
    return list(rules)


@attr.s(auto_attribs=True)
class Process:
    held: HeldScopes
    tables: Tables
    spending: Spending = attr.Factory(Spending)

    def find(self, *users: str) -> dict[str, Any]:
        tables: Any = self.tables
        failures = Failures(Metrics("example.org"), lambda: 0.0)
        scopes = DeviceScopes(self.held, tables, tables, compile_rules, self.spending, failures)
        return dict(run(scopes.for_users(users)))


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(coroutine)


def a_rule(tag: str, conditions: str = "[]") -> DeviceRule:
    return DeviceRule(tag, "override", "r", 0, conditions, '["notify"]', True)


@pytest.fixture
def process() -> Process:
    tables = Tables(tags={ALICE: [("phone", "global")]}, rules={ALICE: [a_rule("phone")]})
    return Process(HeldScopes({ALICE, BOB}), tables)


def test_scopes_are_read_once(process: Process) -> None:
    first = process.find(ALICE)
    assert isinstance(first[ALICE], UserScopes)
    assert process.find(ALICE)[ALICE] is first[ALICE]
    assert process.tables.reads == 1


def test_a_user_without_tags_is_not_asked_for_again(process: Process) -> None:
    assert set(process.find(ALICE, BOB)) == {ALICE}
    assert process.held.users == {ALICE}


def test_a_user_whose_scopes_cannot_match_is_asked_for_once(process: Process) -> None:
    process.tables.tags[BOB] = [("nothing", "global")]
    for _ in range(2):
        assert process.find(BOB) == {}
    assert process.held.users == {ALICE, BOB}
    assert process.tables.reads == 1


def test_a_change_is_seen_with_the_next_event(process: Process) -> None:
    process.find(ALICE)
    process.tables.rules[ALICE].append(a_rule("tablet"))
    process.tables.tags[ALICE].append(("tablet",))
    process.held.invalidate((ALICE,))
    assert set(process.find(ALICE)[ALICE].scopes) == {"phone", "tablet"}


def test_what_became_stale_while_it_was_read_is_not_kept(process: Process) -> None:
    process.tables.while_reading = lambda: process.held.invalidate((ALICE,))
    assert isinstance(process.find(ALICE)[ALICE], UserScopes)
    assert process.held.compiled == {}
    # Nor is a user taken out who got tags meanwhile.
    process.tables.while_reading = lambda: process.held.invalidate((BOB,))
    process.find(BOB)
    assert BOB in process.held.users


def test_a_user_whose_rules_do_not_parse_fails_alone(process: Process) -> None:
    process.tables.tags[BOB] = [("phone",)]
    process.tables.rules[BOB] = [a_rule("phone", "broken")]
    found = process.find(ALICE, BOB)
    assert isinstance(found[ALICE], UserScopes)
    assert isinstance(found[BOB], Failed)


def test_a_database_that_fails_is_asked_again_at_the_next_event(process: Process) -> None:
    def fail() -> None:
        raise OSError("the database is away")

    process.tables.while_reading = fail
    assert isinstance(process.find(ALICE)[ALICE], Failed)
    assert process.held.compiled == {}
    process.tables.while_reading = lambda: None
    assert isinstance(process.find(ALICE)[ALICE], UserScopes)
