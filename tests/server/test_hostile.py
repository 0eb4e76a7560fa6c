# SPDX-License-Identifier: AGPL-3.0-or-later
"""Users who mean harm: limits under concurrency, other users' things, and what the log tells."""

import importlib.util
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from demo.client import Response, Session, path, rules_path
from demo.gateway import Gateway
from tests.conftest import FreshDeployment
from tests.harness.deployment import Deployment
from tests.harness.waiting import wait_until
from tests.server.cascade_helpers import (
    APP,
    BELL,
    NOTIFY,
    SILENT,
    SIREN,
    THING,
    Device,
    Scene,
    device,
    fence_off,
    make_scene,
    new_pushkey,
    on_all,
    on_body,
    on_type,
    rules_in_database,
    tags_in_database,
)

PARALLEL = 100
THREADS = 25

Request = Callable[[Session, int], Response]


def all_at_once(deployment: Deployment, user: Session, request: Request) -> list[Response]:
    """Make `PARALLEL` requests of one user, as many at a time as there are threads."""
    deployment.settle()
    local = threading.local()
    sessions: list[Session] = []

    def one(number: int) -> Response:
        if not hasattr(local, "session"):
            local.session = deployment.direct(user)
            sessions.append(local.session)
        return request(local.session, number)

    with ThreadPoolExecutor(THREADS) as pool:
        answers = list(pool.map(one, range(PARALLEL)))
    for session in sessions:
        session.close()
    deployment.settle()
    return answers


def statuses(answers: Sequence[Response]) -> Counter[int]:
    return Counter(answer.status for answer in answers)


# --- Limits -------------------------------------------------------------------------------------


def test_parallel_requests_do_not_exceed_the_scopes_of_a_user(
    deployment: Deployment, alice: Session
) -> None:
    answers = all_at_once(
        deployment,
        alice,
        lambda session, n: session.request(
            "PUT", rules_path(f"scope-{n}", "room", "!a"), on_all(SIREN)
        ),
    )
    assert statuses(answers) == {200: 20, 400: PARALLEL - 20}
    assert len(alice.get_rules()["device"]) == 20
    assert rules_in_database(deployment, alice) == 20


def test_parallel_requests_do_not_exceed_the_rules_of_a_user(
    fresh_deployment: FreshDeployment,
) -> None:
    if not has_limits_on_push_rules():
        pytest.skip("this Synapse has no config for limits on push rules")
    deployment = fresh_deployment(extra={"push_rules": {"limits": {"rule_count": 7}}})
    alice = deployment.register()
    answers = all_at_once(
        deployment,
        alice,
        lambda session, n: session.request(
            "PUT", rules_path(f"scope-{n % 3}", "room", f"!{n}"), on_all(SIREN)
        ),
    )
    assert statuses(answers) == {200: 7, 400: PARALLEL - 7}
    assert rules_in_database(deployment, alice) == 7


def has_limits_on_push_rules() -> bool:
    return importlib.util.find_spec("synapse.config.push_rules") is not None


def test_parallel_writes_of_one_rule_leave_one(deployment: Deployment, alice: Session) -> None:
    def write_or_delete(session: Session, n: int) -> Response:
        where = rules_path("phone", "override", "r")
        if n % 3 == 2:
            return session.request("DELETE", where)
        return session.request("PUT", where, on_body(f"{n}", SIREN))

    answers = all_at_once(deployment, alice, write_or_delete)
    assert set(statuses(answers)) <= {200, 404}
    assert rules_in_database(deployment, alice) <= 1
    alice.put_rule("phone", "override", "r", on_all(SILENT))
    assert [rule["actions"] for rule in alice.get_rules("phone")["override"]] == [SILENT]


def test_parallel_updates_of_one_pusher_leave_one_of_them_whole(
    deployment: Deployment, alice: Session, gateway: Gateway
) -> None:
    """The tags and the state of a pusher that many sessions set at once belong together."""
    pushkey = new_pushkey()

    def update(session: Session, n: int) -> Response:
        body = {
            "pushkey": pushkey,
            "app_id": APP,
            "kind": "http",
            "app_display_name": f"{n}",
            "device_display_name": "A device",
            "lang": "en",
            "data": {"url": gateway.url},
            "profile_tags": [f"tag-{n}"],
            "enabled": n % 2 == 0,
        }
        return session.request("POST", path("pushers", "set"), body)

    answers = all_at_once(deployment, alice, update)
    assert statuses(answers) == {200: PARALLEL}
    (stored,) = alice.get_pushers()
    n = int(stored["app_display_name"])
    assert (stored["profile_tags"], stored["enabled"]) == ([f"tag-{n}"], n % 2 == 0)
    assert tags_in_database(deployment, alice) == {pushkey: f'["tag-{n}"]'}


# --- Many rules ---------------------------------------------------------------------------------


def store_rules(scene: Scene, number: int, conditions: int, actions: str) -> None:
    """Give Bob's phone many rules, by which no event here matches but the last of them."""
    pattern = {"kind": "event_match", "key": "content.body", "pattern": "word N"}
    scene.deployment.sql(
        """
        INSERT INTO synapse_msc3881_device_rules
            (user_id, profile_tag, kind, rule_id, priority, conditions, actions, enabled)
        WITH RECURSIVE numbers(n) AS (
            SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < ?
        )
        SELECT ?, 'phone', 'override', 'r' || CAST(n AS TEXT), n,
            REPLACE(?, 'word N', 'word ' || CAST(n AS TEXT)), ?, 1
        FROM numbers
        """,
        [number, scene.bob.user_id, json.dumps([pattern] * conditions), actions],
    )
    # By this write, which comes after the others, all processes hear of them.
    scene.bob.put_rule("phone", "underride", "mute", on_type(THING, SILENT))
    scene.bob.put_rule("global", "override", "bell", on_type(THING, BELL))
    assert rules_in_database(scene.deployment, scene.bob) == number + 1


def send_until_it_rings(phone: Device, send: Callable[[], str]) -> list[str]:
    """Send events until one rings; returns all of them.

    Of a user with many rules, a new one holds once it is compiled: events do not wait for it long.
    """
    sent: list[str] = []

    def rang() -> bool:
        sent.append(send())
        return bool(phone.pushes())

    wait_until(rang, "a push by a new rule", timeout=60)
    return sent


def test_others_are_served_while_a_users_rules_are_compiled(
    deployment: Deployment, gateway: Gateway
) -> None:
    scene = make_scene(deployment, gateway)
    phone = scene.device(["phone", "global"])
    store_rules(scene, 9990, 14, "[]")
    deployment.settle()
    carol = deployment.direct(deployment.register())
    alice = deployment.direct(scene.alice)
    served, longest = 0, 0.0

    with ThreadPoolExecutor(1) as pool:
        sent = pool.submit(alice.send, scene.room, {"body": "Hello"}, THING)
        while not sent.done():
            asked = time.monotonic()
            assert carol.request("GET", path("account", "whoami")).status == 200
            longest = max(longest, time.monotonic() - asked)
            served += 1
    for session in (carol, alice):
        session.close()

    # In one step, which takes a second, one of them would have waited with the event.
    assert served >= 10 or longest < 0.5
    # And all the rules held for it, the last of them too.
    fence_off(scene.bob, "phone")
    fences = send_until_it_rings(phone, scene.fence)
    assert set(phone.event_ids()) <= set(fences)


def test_a_users_own_changes_do_not_unmute(deployment: Deployment, gateway: Gateway) -> None:
    scene = make_scene(deployment, gateway)
    phone = scene.device(["phone", "global"])
    store_rules(scene, 3000, 1, "[]")
    for number in range(8):
        scene.bob.put_rule("phone", "override", f"more-{number}", on_body(f"{number}", SIREN))
        scene.thing()
    loud = send_until_it_rings(phone, lambda: scene.thing("7"))
    assert set(phone.event_ids()) <= set(loud)
    assert {push.tweaks["sound"] for push in phone.pushes()} == {"siren"}


@pytest.mark.one_deployment
def test_nothing_is_unmuted_after_a_start(
    fresh_deployment: FreshDeployment, gateway: Gateway
) -> None:
    deployment = fresh_deployment()
    scene = make_scene(deployment, gateway)
    phone = scene.device(["phone", "global"])
    store_rules(scene, 1500, 1, "[]")
    fence_off(scene.bob, "phone")
    deployment.restart()

    sessions = [deployment.direct(scene.alice) for _ in range(20)]
    with ThreadPoolExecutor(len(sessions)) as pool:
        list(pool.map(lambda session: session.send(scene.room, {"body": "Hello"}, THING), sessions))
    for session in sessions:
        session.close()

    fences = send_until_it_rings(phone, scene.fence)
    assert set(phone.event_ids()) <= set(fences)


# --- Other users --------------------------------------------------------------------------------


def test_no_user_touches_the_rules_tags_or_pushes_of_another(
    deployment: Deployment, gateway: Gateway
) -> None:
    scene = make_scene(deployment, gateway)
    bob, mallory = scene.bob, deployment.register()
    mallory.join(scene.room)
    bob.put_rule("phone", "room", scene.room, on_all(SIREN))
    phone = scene.device(["phone", "global"])
    rules, pushers = bob.get_rules(), phone.stored()

    # The same names are her own.
    for actions in (SILENT, NOTIFY):
        mallory.put_rule("phone", "room", scene.room, on_all(actions))
    assert mallory.get_rules("phone") != bob.get_rules("phone")
    mallory.set_rule_enabled("phone", "room", scene.room, False)
    mallory.delete_rule("phone", "room", scene.room)
    assert mallory.request("GET", rules_path("phone", "")).status == 404
    for scope in ("phone", "global"):
        where = rules_path(scope, "room", scene.room)
        assert mallory.request("GET", where).status == 404
        assert mallory.request("PUT", f"{where}/enabled", {"enabled": False}).status == 404
        assert mallory.request("DELETE", where).status == 404
    about_bob = path("user", bob.user_id, "account_data", "m.push_rules")
    assert mallory.request("GET", about_bob).status == 403
    assert mallory.request("PUT", about_bob, {}).status in (403, 405)
    for parameter in ("user_id", "as_user_id", "org.matrix.msc3202.device_id"):
        where = f"{rules_path('phone', '')}?{parameter}={bob.user_id}"
        assert mallory.request("GET", where).status in (403, 404)
    assert "phone" not in repr(mallory.sync()["account_data"])

    # The same pushkey beside Bob's does not take over what his pusher does.
    mallory.set_pusher(phone.pushkey, APP, gateway.url, append=True, profile_tags=["none"])
    assert [p["profile_tags"] for p in mallory.get_pushers()] == [["none"]]
    mallory.delete_pusher(phone.pushkey, APP)

    assert bob.get_rules() == rules
    assert phone.stored() == pushers
    assert phone.wait_for(scene.message()).tweaks == {"sound": "siren"}
    assert bob.request("GET", rules_path("phone", ""), token=False).status == 401


# --- The log ------------------------------------------------------------------------------------


@pytest.mark.one_deployment
def test_the_log_at_info_does_not_hold_what_users_keep_to_themselves(
    fresh_deployment: FreshDeployment, gateway: Gateway
) -> None:
    """Synapse logs paths, so the tag and the rule's id, and at INFO which pushers it starts."""
    deployment = fresh_deployment()
    scene = make_scene(deployment, gateway)
    secret = "my-secret-word"
    scene.bob.put_rule("phone", "content", "r", {"pattern": secret, "actions": SIREN})
    scene.bob.put_rule("phone", "override", "o", on_body(secret, SIREN))
    body = {"conditions": [{"kind": secret, "key": 5}], "actions": [secret]}
    assert scene.bob.request("PUT", rules_path("phone", "override", "x"), body).status == 400
    phone = device(scene.bob, gateway, ["phone"])
    deployment.sql(
        "UPDATE synapse_msc3881_device_rules SET actions = ? WHERE rule_id = 'r'", [f"[{secret}"]
    )
    phone.set(profile_tags=["phone", "global"])
    phone.wait_for(scene.message())
    log = deployment.log_text()
    assert "compile_rule failed" in log
    # A refused request is logged by Synapse with the error that it answers.
    ours = [line for line in log.splitlines() if "msc3881" in line]
    assert ours
    assert secret not in "\n".join(ours)
    for user in (scene.alice, scene.bob):
        assert user.access_token not in log
