# SPDX-License-Identifier: AGPL-3.0-or-later
"""Which process serves which metrics: docs/monitoring.md says that none counts twice."""

from demo.gateway import Gateway
from tests.harness.cluster import CLIENT_WORKERS, MAIN, PUSHERS, WORKERS, Cluster
from tests.harness.metrics import (
    COUNTING_SECONDS,
    DECISIONS,
    OURS,
    PUSHER_STATES,
    Sample,
    parse,
    value,
)
from tests.harness.waiting import wait_until
from tests.server.cascade_helpers import SIREN, make_scene, on_all

EVALUATED = f"{OURS}scopes_evaluated_total"


def scrape(cluster: Cluster) -> dict[str, list[Sample]]:
    return {name: parse(cluster.homeserver.metrics_of(name)) for name in (MAIN, *WORKERS)}


def serving(cluster: Cluster, metric: str) -> set[str]:
    """The processes that have any sample of a metric."""
    return {
        process
        for process, samples in scrape(cluster).items()
        if any(sample.name == metric for sample in samples)
    }


def test_each_thing_is_counted_by_one_process(cluster: Cluster, gateway: Gateway) -> None:
    scene = make_scene(cluster, gateway)
    scene.bob.put_rule("phone", "room", scene.room, on_all(SIREN))
    phone = scene.device(["phone"])
    cluster.settle()
    before = scrape(cluster)

    phone.wait_for(scene.thing())

    def rise(metric: str) -> dict[str, float]:
        after = scrape(cluster)
        risen = {one: value(after[one], metric) - value(before[one], metric) for one in after}
        return {process: by for process, by in risen.items() if by}

    ((pushed_by, decisions),) = rise(DECISIONS).items()
    ((evaluated_by, scopes),) = rise(EVALUATED).items()
    assert (decisions, scopes) == (1, 1)
    assert pushed_by in PUSHERS
    assert evaluated_by in CLIENT_WORKERS

    wait_until(
        lambda: bool(serving(cluster, PUSHER_STATES)), "the first counting", COUNTING_SECONDS
    )
    assert serving(cluster, PUSHER_STATES) == {MAIN}
    assert serving(cluster, f"{OURS}users_with_device_rules") == {MAIN}
    assert serving(cluster, f"{OURS}info") == {MAIN, *WORKERS}


def test_the_main_process_hears_of_rules_that_another_writes(
    cluster: Cluster, gateway: Gateway
) -> None:
    scene = make_scene(cluster, gateway)
    ((before,),) = cluster.sql("SELECT COUNT(DISTINCT user_id) FROM synapse_msc3881_device_rules")
    scene.bob.put_rule("phone", "room", scene.room, on_all(SIREN))

    def counted() -> float:
        samples = parse(cluster.homeserver.metrics_of(MAIN))
        return value(samples, f"{OURS}users_with_device_rules")

    wait_until(lambda: counted() == before + 1, "the users with device rules", COUNTING_SECONDS)
