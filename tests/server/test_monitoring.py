# SPDX-License-Identifier: AGPL-3.0-or-later
"""The metrics, and that docs/monitoring.md, the dashboard and the alerts speak of these."""

import json
import re
from collections.abc import Iterator
from typing import Any

import promql_parser
import yaml
from prometheus_client.parser import text_string_to_metric_families

from demo.gateway import Behaviour
from synapse_msc3881 import __version__
from synapse_msc3881.failures import Fallback
from tests.harness.deployment import CHECKOUT, Deployment
from tests.harness.metrics import (
    COUNTING_SECONDS,
    DECISIONS,
    OURS,
    PUSHER_STATES,
    Sample,
    scrape,
    value,
)
from tests.harness.waiting import wait_until
from tests.server.cascade_helpers import (
    NOTIFY,
    SILENT,
    SIREN,
    Scene,
    fence_off,
    on_all,
    on_body,
)
from tests.server.own_settings_helpers import switch

PAGE = CHECKOUT / "docs" / "monitoring.md"
DASHBOARD = CHECKOUT / "docs" / "monitoring" / "dashboard.json"
ALERTS = CHECKOUT / "docs" / "monitoring" / "alerts.yaml"

#: Prometheus adds these to all that it scrapes.
OF_PROMETHEUS = {"job", "instance"}


def test_each_decision_is_counted_by_its_outcome(deployment: Deployment, scene: Scene) -> None:
    bob = scene.bob
    bob.put_rule("phone", "override", "ring", on_body("ring", SIREN))
    bob.put_rule("phone", "override", "hush", on_body("hush", SILENT))
    bob.put_rule("phone", "override", "late", on_body("late", NOTIFY))
    bob.put_rule("global", "override", "late", on_body("late", SILENT))
    # The second also makes sure that there is a row for each message below.
    first, last = scene.device(["phone", "global"]), scene.device(["global", "phone"])
    alone = scene.device(["phone"])
    plain = scene.device()
    fence_off(bob, "phone", "global")

    def counts() -> dict[str, float]:
        samples = scrape(deployment)
        found = {s.labels["outcome"]: s.value for s in samples if s.name == DECISIONS}
        return {**found, "scopes": value(samples, f"{OURS}scopes_evaluated_total")}

    before = counts()
    for body in ("ring", "hush", "other", "late"):
        scene.message(body)
    fence = scene.fence()
    for one in (first, last, alone, plain):
        one.wait_for(fence)

    counted = {name: count - before[name] for name, count in counts().items()}
    # first: ring and late and the fence by phone, hush silenced by it, other by global.
    # last: ring, hush, other and the fence by global, late silenced by it.
    # alone: ring, late and the fence by phone, hush silenced by it, other not matched.
    assert counted == {
        "pushed_by_device_scope": 3 + 0 + 3,
        "silenced_by_device_scope": 1 + 0 + 1,
        "pushed_by_global": 1 + 4 + 0,
        "silenced_by_global": 0 + 1 + 0,
        "no_match": 0 + 0 + 1,
        "scopes": counted["scopes"],
    }
    # In four of the five a rule of the scope matches; the other need not be evaluated.
    assert 4 <= counted["scopes"] <= 5


def test_users_without_tags_are_not_counted(deployment: Deployment, scene: Scene) -> None:
    before = scrape(deployment)
    plain = scene.device()
    plain.wait_for(scene.message())
    after = scrape(deployment)
    for name in (DECISIONS, f"{OURS}scopes_evaluated_total"):
        assert value(after, name) == value(before, name)


def test_what_is_stored_is_counted_after_each_change(deployment: Deployment, scene: Scene) -> None:
    def stored() -> dict[tuple[str, ...], float]:
        found: dict[tuple[str, ...], float] = {
            (s.labels["enabled"], s.labels["profile_tags"]): s.value
            for s in scrape(deployment)
            if s.name == PUSHER_STATES
        }
        samples = scrape(deployment)
        users = value(samples, f"{OURS}users_with_device_rules")
        own = value(samples, f"{OURS}devices_with_own_settings")
        return {**found, ("users",): users, ("own",): own}

    def really_stored() -> dict[tuple[str, ...], float]:
        found: dict[tuple[str, ...], float] = {
            (enabled, tagged): 0.0 for enabled in ("true", "false") for tagged in ("true", "false")
        }
        for on, tags in deployment.sql(
            "SELECT COALESCE(p.enabled, TRUE), t.profile_tags FROM pushers AS p"
            " LEFT JOIN synapse_msc3881_pusher_tags AS t ON t.user_id = p.user_name"
            " AND t.app_id = p.app_id AND t.pushkey = p.pushkey"
        ):
            found[str(bool(on)).lower(), str(tags is not None).lower()] += 1
        users = deployment.sql("SELECT COUNT(DISTINCT user_id) FROM synapse_msc3881_device_rules")
        own = deployment.sql("SELECT COUNT(*) FROM synapse_msc3881_own_settings")
        return {**found, ("users",): float(users[0][0]), ("own",): float(own[0][0])}

    def agree(what: str) -> dict[tuple[str, ...], float]:
        wait_until(
            lambda: stored() == really_stored(), f"the metrics after {what}", COUNTING_SECONDS
        )
        return stored()

    before = agree("the start")
    scene.bob.put_rule("phone", "room", scene.room, on_all(NOTIFY))
    assert agree("a rule")["users",] == before["users",] + 1
    pusher, plain = scene.device(["phone"], enabled=False), scene.device()
    changed = agree("pushers")
    assert changed["false", "true"] == before["false", "true"] + 1
    assert changed["true", "false"] == before["true", "false"] + 1
    pusher.set(profile_tags=["phone"], enabled=True)
    assert agree("a toggle")["true", "true"] == before["true", "true"] + 1
    plain.user.delete_pusher(plain.pushkey, plain.app_id)
    assert agree("a removal")["true", "false"] == before["true", "false"]
    scene.bob.delete_rule("phone", "room", scene.room)
    assert agree("the last rule")["users",] == before["users",]
    switch(scene.bob, on=True)
    assert agree("own settings")["own",] == before["own",] + 1
    switch(scene.bob, on=False)
    assert agree("none again")["own",] == before["own",]


def test_the_series_are_there_before_anything_happens(deployment: Deployment) -> None:
    samples = scrape(deployment)
    reasons = {s.labels["reason"] for s in samples if s.name == f"{OURS}fallbacks_total"}
    assert reasons == {fallback.reason for fallback in Fallback}
    name = deployment.server_name
    assert value(samples, f"{OURS}info", version=__version__, server_name=name) == 1
    ours = [sample for sample in samples if sample.name.startswith(OURS)]
    assert {sample.labels["server_name"] for sample in ours} == {name}


# --- What the docs say of them ------------------------------------------------------------------


def table(heading: str, column: int = 0) -> list[str]:
    """The cells of one column of the first table below a heading."""
    _, _, below = PAGE.read_text().partition(f"\n## {heading}\n")
    rows = re.search(r"(?:^\|.*\n)+", below, re.MULTILINE)
    assert rows is not None
    lines = rows[0].splitlines()[2:]
    return [re.split(r"(?<!\\)\|", line)[column + 1].strip() for line in lines]


def expressions() -> Iterator[tuple[str, str]]:
    """All that the dashboard and the alerts ask, each with where it stands."""
    dashboard = json.loads(DASHBOARD.read_text())
    for panel in dashboard["panels"]:
        for target in panel["targets"]:
            expression = target["expr"].replace("$__rate_interval", "5m").replace("$job", ".*")
            yield f"panel {panel['title']}", expression
    for group in yaml.safe_load(ALERTS.read_text())["groups"]:
        for rule in group["rules"]:
            yield f"alert {rule['alert']}", rule["expr"]


def selectors(expression: str) -> list[Any]:
    """The selectors of an expression. Raises where it is no PromQL."""
    found: list[Any] = []

    def visit(node: Any) -> None:
        if isinstance(node, promql_parser.VectorSelector):
            found.append(node)

    promql_parser.walk(promql_parser.parse(expression), visit)
    return found


def grouped_by(expression: str) -> set[str]:
    """The labels in the `by (…)` and `on (…)` of an expression."""
    lists = re.findall(r"\b(?:by|on)\s*\(([^)]*)\)", expression)
    return {label.strip() for labels in lists for label in labels.split(",")}


def test_the_page_names_each_metric_and_no_other(deployment: Deployment) -> None:
    def is_counted() -> bool:
        return any(sample.name == PUSHER_STATES for sample in scrape(deployment))

    wait_until(is_counted, "the first counting", COUNTING_SECONDS)
    served = {}
    for family in text_string_to_metric_families(deployment.metrics()):
        if family.name.startswith(OURS):
            for sample in family.samples:
                served[sample.name] = (family.type, set(sample.labels) - {"server_name"})
    documented = {
        name.strip("`"): (kind, set(re.findall(r"`(\w+)`", labels)))
        for name, kind, labels in zip(
            table("Metrics"), table("Metrics", 1), table("Metrics", 2), strict=True
        )
    }
    assert documented == served


def test_the_page_names_each_value_of_a_label(deployment: Deployment) -> None:
    page = PAGE.read_text()
    for name, label in ((DECISIONS, "outcome"), (f"{OURS}fallbacks_total", "reason")):
        values = {s.labels[label] for s in scrape(deployment) if s.name == name}
        assert values
        assert [one for one in values if f"`{one}`" not in page] == []


def test_the_page_names_each_panel_and_alert() -> None:
    panels = [panel["title"] for panel in json.loads(DASHBOARD.read_text())["panels"]]
    assert sorted(title for cell in table("Dashboard") for title in split_titles(cell)) == sorted(
        panels
    )
    (group,) = yaml.safe_load(ALERTS.read_text())["groups"]
    assert [cell.strip("`") for cell in table("Alerts")] == [
        rule["alert"] for rule in group["rules"]
    ]


def split_titles(cell: str) -> list[str]:
    return cell.split(", ")


def test_an_alert_has_what_prometheus_wants() -> None:
    assert yaml.safe_load(ALERTS.read_text()).keys() == {"groups"}
    (group,) = yaml.safe_load(ALERTS.read_text())["groups"]
    assert group.keys() == {"name", "rules"}
    for rule in group["rules"]:
        assert rule.keys() <= {"alert", "expr", "for", "labels", "annotations"}
        assert rule.keys() >= {"alert", "expr", "labels", "annotations"}
        assert rule["labels"]["severity"] in ("warning", "critical")
        promql_parser.parse_duration(rule.get("for", "1s"))
        used = set(re.findall(r"\$labels\.(\w+)", json.dumps(rule["annotations"])))
        assert used <= grouped_by(rule["expr"]) | OF_PROMETHEUS


def test_the_dashboard_has_what_grafana_wants() -> None:
    dashboard = json.loads(DASHBOARD.read_text())
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    variables = {variable["name"] for variable in dashboard["templating"]["list"]}
    for panel in panels:
        where = panel["gridPos"]
        assert where["x"] + where["w"] <= 24
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])
        used = set(re.findall(r"\$\{?(\w+)", json.dumps(panel)))
        assert used <= variables | {"__rate_interval"}
    # None covers another.
    cells = [
        (x, y)
        for where in (panel["gridPos"] for panel in panels)
        for x in range(where["x"], where["x"] + where["w"])
        for y in range(where["y"], where["y"] + where["h"])
    ]
    assert len(set(cells)) == len(cells)


def test_all_that_is_asked_for_is_served(deployment: Deployment, scene: Scene) -> None:
    """By a server under a load that has a bit of everything."""
    scene.bob.put_rule("phone", "room", scene.room, on_all(SIREN))
    phone, broken = scene.device(["phone"]), scene.device()
    scene.gateway.behave(broken.pushkey, Behaviour.ERROR)
    event_id = scene.message()
    phone.wait_for(event_id)
    broken.wait_for(event_id)

    asked = [(where, selector) for where, text in expressions() for selector in selectors(text)]
    assert len(asked) > 15

    def missing() -> list[str]:
        samples = scrape(deployment)
        return [
            f"{where}: {selector}"
            for where, selector in asked
            if not any(is_selected(sample, selector) for sample in samples)
        ]

    wait_until(lambda: missing() == [], "all that is asked for", COUNTING_SECONDS)
    samples = scrape(deployment)
    for where, text in expressions():
        labels = {
            label
            for selector in selectors(text)
            for sample in samples
            if is_selected(sample, selector)
            for label in sample.labels
        }
        assert grouped_by(text) <= labels | OF_PROMETHEUS, where


def is_selected(sample: Sample, selector: Any) -> bool:
    if sample.name != selector.name:
        return False
    for matcher in selector.matchers.matchers:
        if matcher.name not in OF_PROMETHEUS:
            value = sample.labels.get(matcher.name, "")
            if matcher.op == promql_parser.MatchOp.NotEqual:
                selected = value != matcher.value
            else:
                assert matcher.op == promql_parser.MatchOp.Re
                selected = re.fullmatch(matcher.value, value) is not None
            if not selected:
                return False
    return True
