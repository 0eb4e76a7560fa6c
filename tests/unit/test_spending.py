# SPDX-License-Identifier: AGPL-3.0-or-later
"""What users' device rules may take of the server's time, and how they make up for it."""

import attr
import pytest

from synapse_msc3881.evaluation import spending as bounds
from synapse_msc3881.evaluation.spending import (
    MAX_DEBT_OF_ALL_SECONDS,
    MAX_DEBT_SECONDS,
    REPAID_EACH_SECOND,
    REPAID_FOR_ALL_EACH_SECOND,
    Spending,
)

ALICE, BOB = "@alice:example.org", "@bob:example.org"


@attr.s(auto_attribs=True)
class Time:
    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def spending(time: Time) -> Spending:
    return Spending(now=time)


def test_a_little_debt_is_allowed(spending: Spending) -> None:
    assert spending.left(ALICE) == pytest.approx(MAX_DEBT_SECONDS)
    spending.charge(ALICE, MAX_DEBT_SECONDS / 2)
    assert spending.left(ALICE) == pytest.approx(MAX_DEBT_SECONDS / 2)
    assert not spending.is_over(ALICE)


def test_who_is_over_the_bound_is_so_until_all_is_paid(spending: Spending, time: Time) -> None:
    spending.charge(ALICE, 2 * MAX_DEBT_SECONDS)
    needed = 2 * MAX_DEBT_SECONDS / REPAID_EACH_SECOND
    assert spending.is_over(ALICE)
    time.now += needed - 0.1
    assert spending.is_over(ALICE)
    time.now += 0.2
    assert not spending.is_over(ALICE)
    assert spending.left(ALICE) == pytest.approx(MAX_DEBT_SECONDS)


def test_debts_are_paid_by_time_and_no_credit_is_given(spending: Spending, time: Time) -> None:
    spending.charge(ALICE, MAX_DEBT_SECONDS / 2)
    time.now += MAX_DEBT_SECONDS / 4 / REPAID_EACH_SECOND
    assert spending.left(ALICE) == pytest.approx(MAX_DEBT_SECONDS * 3 / 4)
    time.now += 1_000_000
    assert spending.left(ALICE) == pytest.approx(MAX_DEBT_SECONDS)
    spending.charge(ALICE, MAX_DEBT_SECONDS)
    assert spending.is_over(ALICE)


def test_users_are_over_the_bound_for_themselves_only(spending: Spending) -> None:
    spending.charge(ALICE, MAX_DEBT_SECONDS)
    assert spending.left(ALICE) <= 0
    assert spending.left(BOB) == pytest.approx(MAX_DEBT_SECONDS)
    assert not spending.is_over(BOB)


def test_many_users_together_get_little_more_than_one(spending: Spending, time: Time) -> None:
    spent = 0.0
    for number in range(1000):
        user = f"@{number}:example.org"
        if (left := spending.left(user)) > 0:
            spending.charge(user, left)
            spent += left
    assert spent == pytest.approx(MAX_DEBT_OF_ALL_SECONDS)
    # That makes nobody else be over the bound.
    assert spending.left(BOB) <= 0
    assert not spending.is_over(BOB)
    time.now += MAX_DEBT_SECONDS / REPAID_FOR_ALL_EACH_SECOND
    assert spending.left(BOB) == pytest.approx(MAX_DEBT_SECONDS)


def test_who_owes_nothing_is_forgotten(
    spending: Spending, time: Time, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bounds, "_MAX_REMEMBERED", 10)
    spending = Spending(now=time)
    spending.charge(ALICE, 100 * MAX_DEBT_SECONDS)
    for number in range(1000):
        spending.charge(f"@{number}:example.org", MAX_DEBT_SECONDS)
        time.now += MAX_DEBT_SECONDS / REPAID_EACH_SECOND
        assert len(spending._owed) + len(spending._over) <= 30
    time.now += 1000 * MAX_DEBT_SECONDS / REPAID_EACH_SECOND
    assert not spending.is_over(ALICE)
