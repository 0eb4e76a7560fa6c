# SPDX-License-Identifier: AGPL-3.0-or-later
"""Processes that die and services that go away, under a load with known expected pushes.

Lost: 0. Wrong (pushed though silenced, or with another sound): 0. Repeated: only where Synapse
without the module repeats too. So each fault strikes both, one after the other, and the counts of
both are printed at the end (`pytest -rA`, or the summary of `tests/cluster/conftest.py`).
"""

import http.client
import json
import threading
import urllib.parse
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from demo.gateway import Behaviour, Gateway
from tests.cluster import saboteur
from tests.cluster.conftest import FaultReport
from tests.cluster.load import MESSAGE, Load, send_surely
from tests.conftest import FreshDeployment
from tests.harness.cluster import (
    CLIENT_WORKERS,
    MAIN,
    PERSISTERS,
    PUSH_RULES_WRITER,
    PUSHERS,
    Cluster,
)
from tests.harness.deployment import Deployment
from tests.harness.waiting import wait_until
from tests.server.cascade_helpers import APP

SABOTEUR = {"module": "tests.cluster.saboteur.Saboteur", "config": {}}

# What Synapse logs with a traceback when what it talks to is gone.
_EXPECTED_TRACEBACKS = (
    r"psycopg2\.(OperationalError|InterfaceError|errors\.\w*Shutdown)",
    r"twisted\.internet\.error\.\w+",
    r"twisted\.web\._newclient\.\w+",
    r"synapse\.api\.errors\.(HttpResponseException|SynapseError)",
    r"Failed to (process|handle|talk|send)",
    r"txredisapi",
    r"Rollback failed",
    r"(CancelledError|ConnectionResetError|RedirectException|ResponseNeverReceived)",
)

Strike = Callable[[Deployment], None]


@pytest.fixture(scope="module", params=[False, True], ids=["vanilla", "module"])
def cluster(request: pytest.FixtureRequest, make_deployment: FreshDeployment) -> Iterator[Cluster]:
    """A cluster without the module, then one with it."""
    cluster = make_deployment("cluster", with_module=request.param, further_modules=[SABOTEUR])
    assert isinstance(cluster, Cluster)
    for pattern in _EXPECTED_TRACEBACKS:
        cluster.allow_in_log(pattern)
    yield cluster
    cluster.stop()
    cluster.assert_log_is_clean()


@pytest.fixture(scope="module", params=[False, True], ids=["vanilla", "module"])
def single(
    request: pytest.FixtureRequest, make_deployment: FreshDeployment
) -> Iterator[Deployment]:
    """A process on SQLite without the module, then one with it."""
    deployment = make_deployment("sqlite", with_module=request.param)
    yield deployment
    deployment.stop()
    deployment.assert_log_is_clean()


def assert_nothing_lost_or_wrong(
    report: FaultReport, load: Load, fault: str, may_lose: bool = False, interruptions: int = 0
) -> None:
    """Nothing is repeated, either, but what Synapse repeats without the module.

    Args:
        interruptions: how often the fault ends the process of the pushers, puts others in their
            place, or keeps them from noting how far they are. Each time, Synapse repeats the push
            that a pusher has under way: of none, some or all of them, as it happens, so that one
            run says nothing of another.
    """
    count = load.count()
    report.add(fault, load.with_module, count)
    assert (0 if may_lose else count.lost, count.wrong) == (0, 0), str(count)
    assert count.repeated <= interruptions * len(load.recipients), str(count)


def kill_and_start(cluster: Cluster, name: str) -> None:
    cluster.kill_process(name)
    cluster.start_process(name)


@pytest.mark.parametrize(
    "name", [MAIN, PUSH_RULES_WRITER, *PERSISTERS, CLIENT_WORKERS[0], "federation"]
)
def test_kill_9_of_a_process(
    cluster: Cluster, gateway: Gateway, fault_report: FaultReport, name: str
) -> None:
    load = Load(cluster, gateway)
    with load.sending():
        kill_and_start(cluster, name)
    assert_nothing_lost_or_wrong(fault_report, load, f"kill -9 of {name}")


def test_kill_9_of_a_pusher_worker(
    cluster: Cluster, gateway: Gateway, fault_report: FaultReport
) -> None:
    """While some of its pushes hang at the gateway, and others are being delivered."""
    load = Load(cluster, gateway)
    hanging = load.recipients[:4]
    for recipient in hanging:
        gateway.behave(recipient.pushkey, Behaviour.HANG)
    with load.sending():
        for name in ("pusher1", "pusher2"):
            cluster.kill_process(name)
        for recipient in hanging:
            gateway.release(recipient.pushkey)
        for name in ("pusher1", "pusher2"):
            cluster.start_process(name)
    assert_nothing_lost_or_wrong(
        fault_report, load, "kill -9 of the pusher workers", interruptions=1
    )


@pytest.mark.parametrize("moves", [False, True], ids=["stay", "move"])
def test_the_pusher_workers_restart(
    cluster: Cluster, gateway: Gateway, fault_report: FaultReport, moves: bool
) -> None:
    """Some of their pushers drop most of what comes; or each goes on on the other worker."""
    load = Load(cluster, gateway)
    with load.sending():
        for name in PUSHERS:
            cluster.homeserver.stop_process(name)
        if moves:
            cluster.homeserver.change_options(pusher_instances=list(reversed(PUSHERS)))
        load.wait_for_more(12)
        for name in PUSHERS:
            cluster.start_process(name)
    assert_nothing_lost_or_wrong(
        fault_report,
        load,
        f"the pusher workers restart{', pushers move' if moves else ''}",
        interruptions=1,
    )


def test_pushers_are_set_while_events_come(
    cluster: Cluster, gateway: Gateway, fault_report: FaultReport
) -> None:
    """Disabled, enabled and set again; the other pushers of their users miss nothing."""
    load = Load(cluster, gateway, users=3)
    restless, load.recipients = load.recipients[::2], load.recipients[1::2]
    users = {each.user_id: cluster.login(each.user_id, "RESTLESS") for each in restless}

    def set_all(**fields: Any) -> None:
        for each in restless:
            tags = {"profile_tags": list(each.tags)} if load.with_module else {}
            users[each.user_id].set_pusher(
                each.pushkey, APP, gateway.url, append=True, **tags, **fields
            )

    switches = (True, False, True, True, False, True)
    with load.sending():
        for is_enabled in switches:
            set_all(enabled=is_enabled)
            load.wait_for_more(4)
    assert_nothing_lost_or_wrong(fault_report, load, "pushers are set: the others")
    # What came while one was off is not theirs to push.
    load.recipients = restless
    assert_nothing_lost_or_wrong(
        fault_report,
        load,
        "pushers are set: those",
        may_lose=True,
        interruptions=len(switches),
    )


def test_kill_9_of_a_client_worker_between_evaluating_and_persisting(
    cluster: Cluster, gateway: Gateway, fault_report: FaultReport
) -> None:
    load = Load(cluster, gateway)
    victim, other = CLIENT_WORKERS
    cluster.settle()
    url = urllib.parse.urlsplit(cluster.homeserver.url_of(victim)).netloc

    def ask(method: str, query: str = "") -> Any:
        connection = http.client.HTTPConnection(url, timeout=30)
        connection.request(method, saboteur.PATH + query)
        answer = json.loads(connection.getresponse().read())
        connection.close()
        return answer

    ask("PUT", f"?user={urllib.parse.quote(load.alice.user_id)}")
    session = cluster.direct(load.alice)
    turns = iter([victim])
    session.route = lambda *_: cluster.homeserver.url_of(next(turns, other))
    thread = threading.Thread(
        target=send_surely, args=(session, load.room, MESSAGE, "loud"), name="cut off"
    )
    thread.start()
    wait_until(lambda: ask("GET")["stopped"], "the end of evaluating")
    kill_and_start(cluster, victim)
    thread.join()
    session.close()
    with load.sending():
        pass
    assert_nothing_lost_or_wrong(fault_report, load, "kill -9 between evaluating and persisting")


def test_valkey_restarts(cluster: Cluster, gateway: Gateway, fault_report: FaultReport) -> None:
    load = Load(cluster, gateway)
    with load.sending():
        cluster.valkey.kill()
        # Nothing that happens now is replicated at once.
        load.wait_for_more(5)
        cluster.valkey.start()
    assert_nothing_lost_or_wrong(fault_report, load, "Valkey restarted")


@pytest.mark.parametrize("behaviour", [Behaviour.ERROR, Behaviour.HANG, Behaviour.CLOSE])
def test_the_gateway_fails_for_a_while(
    cluster: Cluster, gateway: Gateway, fault_report: FaultReport, behaviour: Behaviour
) -> None:
    load = Load(cluster, gateway, users=2)
    with load.sending():
        for recipient in load.recipients:
            gateway.behave(recipient.pushkey, behaviour)
        load.wait_for_more(12)
        for recipient in load.recipients:
            gateway.behave(recipient.pushkey, Behaviour.OK)
    assert_nothing_lost_or_wrong(fault_report, load, f"the gateway {behaviour.value}")


def test_the_gateway_rejects_one_pushkey(
    cluster: Cluster, gateway: Gateway, fault_report: FaultReport
) -> None:
    load = Load(cluster, gateway, users=2)
    gone = load.recipients.pop(0)
    with load.sending():
        gateway.behave(gone.pushkey, Behaviour.REJECT)
    assert_nothing_lost_or_wrong(fault_report, load, "the gateway rejects another pushkey")
    rows = cluster.sql("SELECT 1 FROM pushers WHERE pushkey = ?", [gone.pushkey])
    assert rows == []


def test_postgresql_restarts(cluster: Cluster, gateway: Gateway, fault_report: FaultReport) -> None:
    load = Load(cluster, gateway)
    assert cluster.postgres is not None
    with load.sending():
        cluster.postgres.restart()
    assert_nothing_lost_or_wrong(fault_report, load, "PostgreSQL restarted", interruptions=1)
    # Or else each process may answer 500 once more for each connection it lost.
    cluster.restart()


def test_kill_9_of_postgresql(
    cluster: Cluster, gateway: Gateway, fault_report: FaultReport
) -> None:
    """With transactions under way; all that was committed must come back.

    The last one on a cluster: its processes have lost their connections.
    """
    load = Load(cluster, gateway)
    assert cluster.postgres is not None
    with load.sending():
        for _ in range(2):
            cluster.postgres.kill()
            cluster.postgres.start_again()
            load.wait_for_more(6)
    assert_nothing_lost_or_wrong(
        fault_report, load, "kill -9 of PostgreSQL, twice", interruptions=2
    )


def test_kill_9_of_the_only_process_on_sqlite(
    single: Deployment, gateway: Gateway, fault_report: FaultReport
) -> None:
    load = Load(single, gateway)
    for recipient in load.recipients[:4]:
        gateway.behave(recipient.pushkey, Behaviour.HANG)
    with load.sending():
        for _ in range(2):
            single.kill()
            for recipient in load.recipients[:4]:
                gateway.release(recipient.pushkey)
            single.restart()
            load.wait_for_more(6)
    assert_nothing_lost_or_wrong(
        fault_report, load, "kill -9 of the only process, on SQLite, twice", interruptions=2
    )
