# SPDX-License-Identifier: AGPL-3.0-or-later
"""How much a process holds of its users' device scopes, and what it forgets first."""

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from synapse_msc3881.cascade.profile_tags import Actions
from synapse_msc3881.evaluation.held_scopes import HeldScopes
from synapse_msc3881.evaluation.matching import CompiledScope, SilentGlobal, UserScopes

USERS = st.sampled_from([f"@{name}:example.org" for name in "abcdef"])


def scopes_of(number: int, needs_global_match: bool = False) -> UserScopes:
    """Compiled scopes with so many rules."""
    actions: dict[object, Actions] = {f"!{n}": ["notify"] for n in range(number)}
    scope = CompiledScope(groups=(), rooms=actions, senders={})
    return UserScopes({"phone": scope}, are_many=False, needs_global_match=needs_global_match)


ONE = scopes_of(1).size
#: So many rules take as much memory again.
PER_RULE = scopes_of(2).size - ONE


def scopes_of_size(size: int) -> UserScopes:
    return scopes_of(1 + (size - ONE) // PER_RULE)


class HeldScopesModel(RuleBasedStateMachine):
    """What is held is bounded, up to date, and all that was kept where there is room."""

    LIMIT = 4
    MAX_BYTES = 100 * ONE

    def __init__(self) -> None:
        super().__init__()
        self.held = HeldScopes(set(), max_compiled=self.LIMIT, max_bytes=self.MAX_BYTES)
        self.users: set[str] = set()
        self.kept: dict[str, UserScopes | None] = {}

    @rule(user=USERS)
    def invalidate(self, user: str) -> None:
        self.held.invalidate((user,))
        self.users.add(user)
        self.kept.pop(user, None)

    @rule()
    def invalidate_all(self) -> None:
        self.held.invalidate_all()
        self.kept = {}

    @rule(user=USERS)
    def drop(self, user: str) -> None:
        self.held.drop(user)
        self.kept.pop(user, None)

    @rule(users=st.lists(USERS))
    def use(self, users: list[str]) -> None:
        self.held.use(users)

    @rule(user=USERS, parts=st.none() | st.integers(1, 40))
    def keep(self, user: str, parts: int | None) -> None:
        scopes = None if parts is None else scopes_of_size(parts * ONE)
        self.held.keep(user, scopes)
        self.kept[user] = scopes
        assert self.held.compiled[user] is scopes

    @rule(user=USERS, parts=st.integers(1, 40))
    def keep_stale(self, user: str, parts: int) -> None:
        self.held.keep_stale(user, scopes_of_size(parts * ONE))
        self.kept.pop(user, None)

    @invariant()
    def agrees(self) -> None:
        assert self.held.users == self.users
        compiled = self.held.compiled
        assert compiled.items() <= self.kept.items()
        sizes = [scopes.size for scopes in compiled.values() if isinstance(scopes, UserScopes)]
        stale = [scopes.size for scopes in self.held._stale.values()]
        assert not self.held._stale.keys() & compiled
        assert len(compiled) + len(stale) <= self.LIMIT
        assert sum(sizes) + sum(stale) == self.held._bytes <= self.MAX_BYTES
        large = [size for size in (*sizes, *stale) if size > self.MAX_BYTES / 50]
        assert sum(large) == sum(self.held._large.values()) <= self.held.max_bytes_of_user


TestHeldScopesModel = HeldScopesModel.TestCase


def test_what_is_used_stays() -> None:
    held = HeldScopes(set(), max_compiled=3)
    for user in ("a", "b", "c"):
        held.keep(user, None)
    held.use(["a", "c"])
    held.keep("d", None)
    held.keep("e", None)
    # "b" was not used, and "a" and "c" were passed over once; "d" has not had its turn.
    assert set(held.compiled) <= {"a", "c", "d", "e"}
    assert "e" in held.compiled
    assert "b" not in held.compiled
    for number in range(10):
        held.use(["e"])
        held.keep(f"{number}", None)
    assert "e" in held.compiled


def test_users_with_much_do_not_flush_those_with_little() -> None:
    held = HeldScopes(set(), max_bytes=1000 * ONE)
    ordinary = [f"@{number}:example.org" for number in range(500)]
    for user in ordinary:
        held.keep(user, scopes_of(1))
    for number in range(20):
        held.keep(f"large-{number}", scopes_of_size(200 * ONE))
    assert set(ordinary) < set(held.compiled)
    # Each of them had a place, too: the largest made room.
    assert "large-19" in held.compiled
    held.keep("not so large", scopes_of_size(50 * ONE))
    for number in range(20, 25):
        held.keep(f"large-{number}", scopes_of_size(200 * ONE))
    assert "not so large" in held.compiled


def test_what_is_stale_goes_first() -> None:
    held = HeldScopes(set(), max_compiled=2)
    held.keep("a", scopes_of(1))
    held.keep("b", scopes_of(1))
    held.invalidate(("b",))
    held.keep("c", scopes_of(1))
    assert set(held.compiled) == {"a", "c"}


def test_what_is_known_of_global_counts_and_outlives_a_change() -> None:
    held = HeldScopes(set(), max_bytes=100_000_000)
    scopes = scopes_of(1, needs_global_match=True)
    held.keep("a", scopes)
    before = held._bytes
    scopes.silent_global = SilentGlobal(None, None, (), True)
    held.keep("a", scopes)
    assert held._bytes == before + scopes.silent_global.size
    held.invalidate(("a",))
    stale = held.stale("a")
    assert stale is not None
    assert stale.silent_global is scopes.silent_global
    assert not held.needing_global & held.compiled.keys()
