# SPDX-License-Identifier: AGPL-3.0-or-later
"""A process that dies while it sets or removes a pusher leaves one with its own tags, or none.

It is killed after each of the transactions that the request makes, one after the other.
"""

import http.client
import json
from collections.abc import Callable

import pytest

from demo.client import JsonDict, Session
from tests.conftest import FreshDeployment
from tests.harness.deployment import Deployment
from tests.harness.kill_switch import MODULE, PATH
from tests.server.helpers import APP, assert_ok, set_pusher

#: No request of these makes as many transactions.
ENOUGH = 30

GONE = ("gone", None)
OLD = ("old", '["old"]')
NEW = ("new", '["new"]')
PLAIN = ("plain", None)


def state(deployment: Deployment, user: Session) -> tuple[str, str | None]:
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


def killed_after(deployment: Deployment, number: int, request: Callable[[], object]) -> bool:
    """Make a request; whether the process died of it, after so many transactions."""
    session = deployment.register()
    session.call("PUT", f"{PATH}?after={number}", token=False)
    session.close()
    try:
        request()
        session.call("PUT", f"{PATH}?after=0", token=False)
    except (OSError, http.client.HTTPException):
        return True
    finally:
        session.close()
    return False


OLD_BODY: JsonDict = {"lang": "old", "profile_tags": ["old"]}
NEW_BODY: JsonDict = {"lang": "new", "profile_tags": ["new"]}


@pytest.mark.parametrize(
    ("before", "change", "states"),
    [
        (None, NEW_BODY, [GONE, NEW]),
        (OLD_BODY, NEW_BODY, [OLD, NEW]),
        (OLD_BODY, {"lang": "plain"}, [OLD, PLAIN]),
        (OLD_BODY, {"kind": None}, [OLD, GONE]),
    ],
    ids=["made", "changed", "without tags", "removed"],
)
def test_a_pusher_and_its_tags_survive_a_kill_together(
    fresh_deployment: FreshDeployment,
    before: JsonDict | None,
    change: JsonDict,
    states: list[tuple[str, str | None]],
) -> None:
    deployment = fresh_deployment(further_modules=[MODULE])
    alice = deployment.register()
    seen = []
    for number in range(1, ENOUGH):
        alice.delete_pusher("key", APP)
        if before is not None:
            assert_ok(set_pusher(alice, **before))
        killed = killed_after(deployment, number, lambda: set_pusher(alice, **change))
        seen.append(state(deployment, alice))
        assert seen[-1] in states, f"after {number} transactions: {seen[-1]}"
        if not killed:
            break
        deployment.kill()
        deployment.restart()
    assert seen[-1] == states[1], "the request that was not interrupted"
    assert len(seen) > 1
