# SPDX-License-Identifier: AGPL-3.0-or-later
"""A process that dies while it sets or removes a pusher leaves one with its own tags, or none.

It is killed after each of the transactions that the requests make, one after the other. Several
requests are at that point at once, since each kill costs a start.
"""

import http.client
import json
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor

import attr

from demo.client import JsonDict, Response, Session
from tests.conftest import FreshDeployment
from tests.harness.deployment import Deployment
from tests.harness.kill_switch import MODULE, PATH
from tests.harness.waiting import wait_until
from tests.server.helpers import APP, assert_ok, set_pusher

#: No request of these makes as many transactions.
ENOUGH = 30

State = tuple[str, str | None]

GONE: State = ("gone", None)
OLD: State = ("old", '["old"]')
NEW: State = ("new", '["new"]')
PLAIN: State = ("plain", None)

OLD_BODY: JsonDict = {"lang": "old", "profile_tags": ["old"]}
NEW_BODY: JsonDict = {"lang": "new", "profile_tags": ["new"]}


@attr.s(auto_attribs=True, frozen=True)
class Change:
    """What is set before, the request, and what may be stored then: first as if it had not been."""

    before: JsonDict | None
    request: JsonDict
    states: tuple[State, State]


CHANGES: Mapping[str, Change] = {
    "made": Change(None, NEW_BODY, (GONE, NEW)),
    "changed": Change(OLD_BODY, NEW_BODY, (OLD, NEW)),
    "without tags": Change(OLD_BODY, {"lang": "plain"}, (OLD, PLAIN)),
    "removed": Change(OLD_BODY, {"kind": None}, (OLD, GONE)),
}


def state(deployment: Deployment, user: Session) -> State:
    """Which request's pusher is stored, and which tags; its language tells which it is."""
    languages = deployment.sql("SELECT lang FROM pushers WHERE user_name = ?", [user.user_id])
    tags = deployment.sql(
        "SELECT profile_tags FROM synapse_msc3881_pusher_tags WHERE user_id = ?", [user.user_id]
    )
    assert max(len(languages), len(tags)) <= 1
    return (
        languages[0][0] if languages else "gone",
        json.dumps(json.loads(tags[0][0])) if tags else None,
    )


def stop_after(deployment: Deployment, number: int) -> None:
    """Have each request stop after so many transactions from now on; 0 for never."""
    session = deployment.register()
    session.call("PUT", f"{PATH}?after={number}", token=False)
    session.close()


def are_answered(
    deployment: Deployment, users: Mapping[str, Session], requests: Mapping[str, "Future[Response]"]
) -> list[str]:
    """Wait until each request is answered or has stopped; which are answered, by their names."""
    session = deployment.register()

    def at_their_end() -> bool:
        stopped = session.request("GET", PATH, token=False).json
        return all(request.done() or users[n].user_id in stopped for n, request in requests.items())

    wait_until(at_their_end, "the end of each request")
    session.close()
    return [name for name, request in requests.items() if request.done()]


def test_a_pusher_and_its_tags_survive_a_kill_together(fresh_deployment: FreshDeployment) -> None:
    deployment = fresh_deployment(further_modules=[MODULE])
    users = {name: deployment.register() for name in CHANGES}
    stopped = dict.fromkeys(CHANGES, 0)
    going = list(CHANGES)
    for number in range(1, ENOUGH):
        stop_after(deployment, 0)
        for name in going:
            users[name].delete_pusher(name, APP)
            before = CHANGES[name].before
            if before is not None:
                assert_ok(set_pusher(users[name], name, **before))
        stop_after(deployment, number)
        sessions = {name: deployment.direct(users[name]) for name in going}
        with ThreadPoolExecutor(len(going)) as pool:
            requests = {
                name: pool.submit(set_pusher, sessions[name], name, **CHANGES[name].request)
                for name in going
            }
            answered = are_answered(deployment, users, requests)
            if len(answered) < len(going):
                deployment.kill()
        for name in going:
            sessions[name].close()
            stored, states = state(deployment, users[name]), CHANGES[name].states
            assert stored in states, f"{name}, after {number} transactions: {stored}"
            if name in answered:
                assert_ok(requests[name].result())
                assert stored == states[1], f"{name}: the request that was not interrupted"
            else:
                assert isinstance(requests[name].exception(), OSError | http.client.HTTPException)
                stopped[name] += 1
        going = [name for name in going if name not in answered]
        if not going:
            break
        deployment.restart()
    assert going == []
    assert all(stopped.values()), f"none was killed on the way: {stopped}"
