# SPDX-License-Identifier: AGPL-3.0-or-later
"""What must be the same as in a vanilla Synapse, exactly: SQL statements, and calls when idle."""

from collections.abc import Iterator, Sequence

import pytest

from tests.bench import sql, sync
from tests.bench.results import Count
from tests.bench.servers import Workshop
from tests.bench.variants import (
    ALL,
    ALL_MATCHING,
    ALL_MUTED,
    ALL_ROOMS,
    ALL_THREE_MATCHING,
    IDLE,
    ONE_PERCENT_MATCHING,
    OWN_MATCHING,
    VANILLA,
    Variant,
)

#: One of each kind: how many members use the module, and how many rules, is the same to each.
USING = (
    ONE_PERCENT_MATCHING,
    ALL,
    ALL_MATCHING,
    ALL_ROOMS,
    ALL_MUTED,
    ALL_THREE_MATCHING,
    OWN_MATCHING,
)
PUSHING = [variant for variant in (IDLE, sql.ELSEWHERE, *USING) if not variant.is_silent]

#: The calls that an event takes more, whatever the number of members: the wrappers of
#: `bulk_get_push_rules`, of the evaluator's constructor and of `add_push_actions_to_staging`.
ONCE = {
    IDLE: {sql.PYTHON: 6, sql.C: 3},
    # The intersection of the members with the users who use the module.
    sql.ELSEWHERE: {sql.PYTHON: 6, sql.C: 4},
}


#: What a sync calls of the module for a user who has nothing of it: with the push rules, and one
#: after that without news. A coroutine that waits is called again.
OF_SYNC = {
    sync.NO_NEWS: {"push_rules.py:sync_account_data": 1, "seams/devices.py:show_in_sync": 1},
    sync.FIRST: {
        "push_rules.py:push_rules_for_user": 2,
        "storage/device_rules.py:read": 2,
        "push_rules.py:_scopes": 1,
        "cascade/rulesets.py:format_for_client": 1,
        "cascade/rulesets.py:by_scope": 1,
        "push_rules.py:sync_account_data": 2,
        "seams/devices.py:show_in_sync": 1,
        "push_rules.py:for_device": 1,
    },
}


@pytest.fixture(scope="module")
def counts(deployment_kind: str) -> Iterator[Sequence[Count]]:
    with Workshop(print) as workshop:
        yield sql.count(workshop, deployment_kind, USING)


def test_an_event_takes_no_further_statement(counts: Sequence[Count], deployment_kind: str) -> None:
    vanilla = sql.statements_of(counts, deployment_kind, VANILLA.name, sql.EVENT)

    assert vanilla > 10
    assert {
        variant.name: sql.statements_of(counts, deployment_kind, variant.name, sql.EVENT)
        for variant in (IDLE, sql.ELSEWHERE, *USING)
    } == dict.fromkeys((variant.name for variant in (IDLE, sql.ELSEWHERE, *USING)), vanilla)


def test_a_push_of_a_pusher_with_tags_takes_a_statement_less(
    counts: Sequence[Count], deployment_kind: str
) -> None:
    vanilla = sql.statements_of(counts, deployment_kind, VANILLA.name, sql.PUSHES)

    assert vanilla > sql.PUSHERS
    # The row that woke the pusher up is not read again.
    assert {
        variant.name: sql.statements_of(counts, deployment_kind, variant.name, sql.PUSHES)
        for variant in PUSHING
    } == {variant.name: vanilla - len(variant.users([""] * sql.PUSHERS)) for variant in PUSHING}


def test_no_statement_is_ours_when_idle(counts: Sequence[Count], deployment_kind: str) -> None:
    assert sql.statements_of(counts, deployment_kind, IDLE.name, sql.OURS) == 0
    # Where somebody uses the module: whose pushers to wake up.
    assert sql.statements_of(counts, deployment_kind, sql.ELSEWHERE.name, sql.OURS) == 1
    # And for each pusher with tags: the receipts. None anywhere else.
    ours = 1 + sql.PUSHERS
    assert sql.statements_of(counts, deployment_kind, ALL.name, sql.OURS) == ours
    assert sql.statements_of(counts, deployment_kind, ALL_THREE_MATCHING.name, sql.OURS) == ours


@pytest.mark.parametrize("quantity", [sql.EVENT, sql.PUSHES])
@pytest.mark.parametrize("members", [sql.PUSHERS + 1, sql.MANY])
def test_an_event_that_nobody_pushes_takes_what_it_takes_with_pushers_off(
    counts: Sequence[Count], deployment_kind: str, members: int, quantity: str
) -> None:
    off = sql.statements_of(counts, deployment_kind, sql.OFF.name, quantity, members)
    muted = sql.statements_of(counts, deployment_kind, ALL_MUTED.name, quantity, members)

    assert off >= 1
    assert muted == off


@pytest.mark.parametrize("variant", [IDLE, sql.ELSEWHERE], ids=lambda variant: variant.name)
def test_a_member_who_does_not_use_the_module_takes_no_further_call(
    counts: Sequence[Count], deployment_kind: str, variant: Variant
) -> None:
    for quantity in (sql.PYTHON, sql.C):
        vanilla = sql.calls_of(counts, deployment_kind, VANILLA.name, quantity)
        with_module = sql.calls_of(counts, deployment_kind, variant.name, quantity)

        assert vanilla.per_member > 0
        assert with_module.per_member == vanilla.per_member, quantity
    more = {
        quantity: sql.calls_of(counts, deployment_kind, variant.name, quantity).once
        - sql.calls_of(counts, deployment_kind, VANILLA.name, quantity).once
        for quantity in (sql.PYTHON, sql.C)
    }
    assert more == ONCE[variant]


@pytest.mark.parametrize("variant", [IDLE, sql.ELSEWHERE], ids=lambda variant: variant.name)
def test_a_sync_takes_a_statement_where_it_holds_the_push_rules_and_none_elsewhere(
    counts: Sequence[Count], variant: Variant
) -> None:
    for kind, more in ((sync.NO_NEWS, 0), (sync.FIRST, 1)):
        vanilla, ours = (
            _of_sync(counts, name, sync.STATEMENTS.format(kind))[""]
            for name in (VANILLA.name, variant.name)
        )
        assert ours - vanilla == more, kind
        assert _of_sync(counts, variant.name, sync.CALLS.format(kind, "")) == OF_SYNC[kind]


def _of_sync(counts: Sequence[Count], variant: str, quantity: str) -> dict[str, int]:
    return {
        one.quantity.removeprefix(quantity): one.value
        for one in counts
        if one.variant == variant and one.quantity.startswith(quantity)
    }
