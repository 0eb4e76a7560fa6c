# SPDX-License-Identifier: AGPL-3.0-or-later
"""The soak itself, for seconds: it passes where all is well, and says what is planted."""

import sys
from collections.abc import Iterator
from typing import Any

import pytest

from tests.conftest import FreshDeployment
from tests.harness.deployment import Deployment
from tests.soak import __main__ as program
from tests.soak import saboteur
from tests.soak.judging import Growth, Verdict, growing, judge
from tests.soak.soak import EXPECTED_TRACEBACKS, Account, Plan, Soak

MB = 1 << 20
LOUD = {"sound": "siren"}


@pytest.fixture(scope="module")
def server(make_deployment: FreshDeployment) -> Iterator[Deployment]:
    """A process that can be sabotaged."""
    deployment = make_deployment("sqlite", further_modules=[saboteur.MODULE])
    for pattern in EXPECTED_TRACEBACKS:
        deployment.allow_in_log(pattern)
    yield deployment
    deployment.stop()
    deployment.assert_log_is_clean()


def soak(server: Deployment, does: str, **differs: Any) -> Account:
    server.register().call("PUT", f"{saboteur.PATH}?do={does}")
    # In so short a time a process that has just started, and learns of new users, grows.
    usual = {"rate": 40, "seed": 1, "allowed_mb": 20, "restarting": 0.0}
    return Soak(server, Plan(seconds=3, **{**usual, **differs})).run()


def test_it_passes_where_all_is_well(server: Deployment) -> None:
    account = soak(server, "", restarting=0.4)
    said = "\n".join(account.lines())
    assert account.faults() == [], said
    assert "Nothing lost, nothing wrong, no growth that goes on." in said
    assert sum(account.restarts.values()) > 0
    assert {"events", "rules", "pushers and tags", "events of the even load"} <= set(account.done)


def test_it_fails_where_a_push_is_lost(server: Deployment) -> None:
    account = soak(server, "lose", patience=4)
    assert any("pushes lost" in fault for fault in account.faults()), "\n".join(account.lines())


def test_it_fails_where_a_process_grows(server: Deployment) -> None:
    account = soak(server, "grow")
    assert account.faults() == ["growing on: main"], "\n".join(account.lines())


# The judge alone


def test_what_came_is_what_was_due() -> None:
    due = [("$a", LOUD), ("$b", {})]
    assert judge(due, due) == Verdict(due=2)
    assert not judge(due, due).is_bad


@pytest.mark.parametrize(
    ("came", "verdict"),
    [
        ([("$b", {})], Verdict(due=2, lost=1)),
        ([("$a", {}), ("$b", {})], Verdict(due=2, wrong=1)),
        ([("$a", LOUD), ("$b", {}), ("$c", {})], Verdict(due=2, wrong=1)),
        ([("$b", {}), ("$a", LOUD)], Verdict(due=2, disordered=1)),
    ],
    ids=["lost", "other tweaks", "not due", "another order"],
)
def test_what_is_amiss_is_seen(came: list[tuple[str, dict[str, str]]], verdict: Verdict) -> None:
    found = judge([("$a", LOUD), ("$b", {})], came)
    assert found == verdict
    assert found.is_bad


@pytest.mark.parametrize("came", [[("$b", {})], [("$a", LOUD), ("$b", {}), ("$c", {})]])
def test_what_may_go_either_way_is_neither_lost_nor_wrong(
    came: list[tuple[str, dict[str, str]]],
) -> None:
    due = [("$a", LOUD), ("$b", {})]
    assert judge(due, came, instead={"$a": None, "$c": {}}) == Verdict(due=2)
    assert judge(due, came, instead={"$a": {}, "$c": LOUD}).is_bad


def test_what_is_repeated_is_no_more_than_that() -> None:
    due = [("$a", LOUD), ("$b", {})]
    again = [("$before", LOUD), ("$a", LOUD), ("$a", LOUD), ("$b", {})]
    assert judge(due, again, before=["$before"]) == Verdict(due=2, repeated=2)
    assert judge(due, again).wrong == 1


def test_verdicts_add_up() -> None:
    one = Verdict(due=1, lost=2, wrong=3, disordered=4, repeated=5)
    assert one + one == Verdict(due=2, lost=4, wrong=6, disordered=8, repeated=10)


def test_growth_counts_once_a_process_has_warmed_up() -> None:
    warming = Growth.of([n * MB for n in (50, 70, 90, 100, 101, 100, 102, 101, 102)])
    leaking = Growth.of([n * MB for n in (50, 70, 90, 100, 103, 106, 109, 112, 115)])
    assert (warming.by, leaking.by) == (2 * MB, 9 * MB)
    assert growing({"main": warming, "pusher1": leaking}, allowed_mb=5) == ["pusher1"]


def test_more_repeated_pushes_than_restarts_explain_are_a_fault() -> None:
    plan = Plan(seconds=1)
    account = Account(plan, even=Verdict(due=9, repeated=3), repeatable=3)
    assert account.faults() == []
    account.repeatable = 2
    assert account.faults() == ["3 pushes repeated, where 2 may be"]


@pytest.mark.parametrize("lost", [0, 1])
def test_the_exit_code_says_whether_something_is_amiss(
    lost: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    account = Account(Plan(seconds=1), even=Verdict(due=3, lost=lost))
    monkeypatch.setattr(sys, "argv", ["soak", "--seconds", "1"])
    monkeypatch.setattr(program, "_run", lambda *_: account)
    assert program.main() == lost
    assert ("FAULT: 1 pushes lost" in capsys.readouterr().out) == bool(lost)
