# SPDX-License-Identifier: AGPL-3.0-or-later
"""What a user's device rules may cost: so much for each event on average, whatever they are."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from synapse_msc3881.evaluation.spending import MAX_DEBT_SECONDS, SECONDS_PER_EVENT, Spending

ALICE, BOB = "@alice:example.org", "@bob:example.org"
LITTLE = 1e-9
COSTS = st.lists(
    st.floats(0, 3 * SECONDS_PER_EVENT) | st.floats(0, 3 * MAX_DEBT_SECONDS), max_size=300
)


@given(COSTS)
def test_a_user_takes_no_more_than_is_allowed_for_on_average(costs: list[float]) -> None:
    spending = Spending()
    spent = largest = 0.0
    for number, cost in enumerate(costs, 1):
        if ALICE not in spending.start_event({ALICE}):
            spending.charge(ALICE, cost)
            spent += cost
            largest = max(largest, cost)
        # The last rules of an event cannot be stopped half way, but are paid for all the same.
        allowed = number * SECONDS_PER_EVENT + MAX_DEBT_SECONDS + largest
        assert spent <= allowed + LITTLE


@given(st.lists(st.floats(0, SECONDS_PER_EVENT), max_size=100), st.floats(0, MAX_DEBT_SECONDS))
def test_a_user_who_takes_little_is_never_refused(costs: list[float], at_once: float) -> None:
    spending = Spending()
    spending.charge(ALICE, at_once)
    for cost in costs:
        assert spending.start_event({ALICE}) == set()
        spending.charge(ALICE, cost)


def test_who_is_refused_may_spend_again_after_as_many_events_as_were_taken() -> None:
    spending = Spending()
    spending.charge(ALICE, MAX_DEBT_SECONDS + 10 * SECONDS_PER_EVENT)
    refused = 0
    while spending.start_event({ALICE}):
        refused += 1
    assert refused in (9, 10)  # As the sums of floats come out.
    assert 0 < spending.left(ALICE) <= 2 * SECONDS_PER_EVENT


def test_events_that_do_not_concern_a_user_make_up_for_nothing() -> None:
    spending = Spending()
    spending.charge(ALICE, 2 * MAX_DEBT_SECONDS)
    for _ in range(1000):
        assert spending.start_event({BOB}) == set()
    assert spending.start_event({ALICE, BOB}) == {ALICE}


def test_users_pay_for_themselves_only() -> None:
    spending = Spending()
    spending.charge(ALICE, 1.0)
    assert spending.left(ALICE) < 0
    assert spending.left(BOB) == pytest.approx(MAX_DEBT_SECONDS)


def test_who_owes_nothing_is_not_remembered() -> None:
    spending = Spending()
    spending.charge(ALICE, SECONDS_PER_EVENT / 2)
    assert spending.start_event([ALICE, BOB]) == set()
    assert spending.left(ALICE) == MAX_DEBT_SECONDS
    assert not spending._owed
