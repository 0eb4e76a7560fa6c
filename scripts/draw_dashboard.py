# SPDX-License-Identifier: AGPL-3.0-or-later
"""Draw docs/monitoring/dashboard.png: the dashboard's panels, with data of a real server.

    PYTHONPATH=. python scripts/draw_dashboard.py [FILE]

Starts a throwaway Synapse with the module, lets users write to each other for a minute, reads its
metrics each second as Prometheus would, and draws what the expressions of dashboard.json make of
them. In the middle a push gateway fails for a while, and somebody tampers with a user's rules.
Needs the groups `test` and `pictures`.
"""

import json
import random
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import attr
import matplotlib as mpl
import promql_parser
from matplotlib import pyplot as plt
from prometheus_client.parser import text_string_to_metric_families

from demo.client import Session
from demo.gateway import Behaviour, Gateway
from tests.harness.deployment import CHECKOUT, Deployment

DASHBOARD = CHECKOUT / "docs" / "monitoring" / "dashboard.json"
PICTURE = DASHBOARD.with_suffix(".png")

SECONDS = 60
#: What stands for Grafana's `$__rate_interval`: the shorter the load, the shorter.
RATE_SECONDS = 5
APP = "org.example.app"

Labels = frozenset[tuple[str, str]]
Series = Mapping[tuple[str, Labels], float]


@attr.s(auto_attribs=True, frozen=True)
class Scrape:
    """All that a server served at one moment."""

    time: float
    series: Series


def scrape(deployment: Deployment, started: float) -> Scrape:
    of_prometheus = {"job": "synapse", "instance": "main"}
    return Scrape(
        time.monotonic() - started,
        {
            (sample.name, frozenset({**sample.labels, **of_prometheus}.items())): sample.value
            for family in text_string_to_metric_families(deployment.metrics())
            for sample in family.samples
        },
    )


# --- What the dashboard's expressions make of the scrapes ---------------------------------------


def evaluate(node: Any, scrapes: list[Scrape], at: int) -> dict[Labels, float]:
    """The value of an expression at one scrape: of the few forms that the dashboard has."""
    if isinstance(node, promql_parser.AggregateExpr):
        groups: dict[Labels, list[float]] = {}
        by = set(node.modifier.labels) if node.modifier else set()
        for labels, found in evaluate(node.expr, scrapes, at).items():
            kept = frozenset(label for label in labels if label[0] in by)
            groups.setdefault(kept, []).append(found)
        combine = {"sum": sum, "max": max, "count": len}[str(node.op)]
        return {labels: float(combine(found)) for labels, found in groups.items()}
    if isinstance(node, promql_parser.Call):
        now = select(node.args[0].vector_selector, scrapes[at])
        start = max(at - RATE_SECONDS, 0)
        before = select(node.args[0].vector_selector, scrapes[start])
        seconds = max(scrapes[at].time - scrapes[start].time, 1e-9)
        per = {"rate": seconds, "increase": 1.0}[node.func.name]
        return {one: (now[one] - before[one]) / per for one in now if one in before}
    if isinstance(node, promql_parser.VectorSelector):
        return select(node, scrapes[at])
    raise TypeError(f"the picture does not know {node}")


def select(selector: Any, found: Scrape) -> dict[Labels, float]:
    return {
        labels: number
        for (name, labels), number in found.series.items()
        if name == selector.name
        and all(is_matched(matcher, dict(labels)) for matcher in selector.matchers.matchers)
    }


def is_matched(matcher: Any, labels: Mapping[str, str]) -> bool:
    prefix = matcher.value.rstrip(".*+")
    return labels.get(matcher.name, "").startswith(prefix)


def lines(panel: Any, scrapes: list[Scrape]) -> Iterator[tuple[str, list[float]]]:
    """Each line of a panel: its legend, and a value for each scrape."""
    for target in panel["targets"]:
        text = target["expr"].replace("$__rate_interval", "5m").replace("$job", ".*")
        parsed = promql_parser.parse(text)
        values = [evaluate(parsed, scrapes, at) for at in range(len(scrapes))]
        for labels in sorted({one for found in values for one in found}, key=sorted):
            legend = target["legendFormat"]
            for name, shown in labels:
                legend = legend.replace(f"{{{{{name}}}}}", shown)
            yield legend, [found.get(labels, 0.0) for found in values]


# --- The load -----------------------------------------------------------------------------------


@attr.s(auto_attribs=True, frozen=True)
class Load:
    """Users with different pushers in one room, and who writes to them."""

    deployment: Deployment
    gateway: Gateway
    writer: Session
    room: str
    users: list[Session]

    @classmethod
    def make(cls, deployment: Deployment, gateway: Gateway) -> "Load":
        writer = deployment.register("writer")
        room = writer.create_room(preset="public_chat")
        load = cls(deployment, gateway, writer, room, [])
        kinds: list[tuple[list[str], bool]] = [
            (["phone", "global"], True),
            (["global", "phone"], True),
            (["phone"], True),
            (["phone", "global"], False),
            (["global"], True),
        ]
        for number, (tags, enabled) in enumerate(kinds * 2):
            load.add_user(f"user-{number}", tags, enabled)
        return load

    def add_user(self, name: str, tags: list[str], enabled: bool) -> None:
        user = self.deployment.register(name)
        user.join(self.room)
        user.set_pusher(name, APP, self.gateway.url, profile_tags=tags, enabled=enabled)
        if "phone" in tags:
            for word, actions in (("loud", ["notify"]), ("quiet", [])):
                rule = {"pattern": word, "actions": actions}
                user.put_rule("phone", "content", word, rule)
                user.put_rule("global", "content", "late", {"pattern": "late", "actions": []})
        self.users.append(user)

    def run(self) -> list[Scrape]:
        """Write for a while, and read the metrics each second."""
        chosen = random.Random(3881)
        started = time.monotonic()
        scrapes = [scrape(self.deployment, started)]
        while len(scrapes) <= SECONDS:
            second = len(scrapes)
            self.disturb(second)
            for _ in range(chosen.randint(1, 4)):
                word = chosen.choice(["loud", "quiet", "late", "anything", "loud and late"])
                self.writer.send(self.room, f"Something {word}")
            if second % 15 == 0:
                self.add_user(f"later-{second}", ["phone", "global"], True)
            time.sleep(max(0.0, started + second - time.monotonic()))
            scrapes.append(scrape(self.deployment, started))
        return scrapes

    def disturb(self, second: int) -> None:
        if second == SECONDS // 3:
            for user in self.users[::3]:
                self.gateway.behave(user.user_id[1:].partition(":")[0], Behaviour.ERROR)
        elif second == SECONDS // 2:
            victim = self.users[0]
            self.deployment.sql(
                "UPDATE synapse_msc3881_device_rules SET conditions = '{' WHERE user_id = ?",
                [victim.user_id],
            )
            # Has what is held of the user's rules read again.
            victim.put_rule("tablet", "content", "x", {"pattern": "x", "actions": []})
        elif second == SECONDS // 2 + SECONDS // 6:
            self.deployment.sql(
                "UPDATE synapse_msc3881_device_rules SET conditions = '[]' WHERE user_id = ?",
                [self.users[0].user_id],
            )
            self.users[0].delete_rule("tablet", "content", "x")
            for user in self.users:
                self.gateway.behave(user.user_id[1:].partition(":")[0], Behaviour.OK)


# --- Drawing ------------------------------------------------------------------------------------


def draw(scrapes: list[Scrape], file: Path) -> None:
    panels = json.loads(DASHBOARD.read_text())["panels"]
    mpl.rcParams.update({"font.size": 7, "axes.titlesize": 9, "axes.titlelocation": "left"})
    rows = -(-len(panels) // 2)
    figure, places = plt.subplots(rows, 2, figsize=(11, 2.75 * rows), layout="constrained")
    for axes in places.flat[len(panels) :]:
        axes.set_visible(False)
    times = [found.time for found in scrapes]
    for panel, axes in zip(panels, places.flat, strict=False):
        shown = list(lines(panel, scrapes))
        labels, values = [legend for legend, _ in shown], [found for _, found in shown]
        if panel["fieldConfig"]["defaults"]["custom"]["stacking"]["mode"] == "normal":
            axes.stackplot(times, values, labels=labels, alpha=0.7)
        else:
            for label, found in zip(labels, values, strict=True):
                axes.plot(times, found, label=label)
        axes.set_title(panel["title"])
        axes.set_ylim(bottom=0)
        axes.margins(x=0)
        axes.grid(alpha=0.3)
        axes.legend(loc="upper left", fontsize=6, ncols=2)
    for axes in places[-1]:
        axes.set_xlabel("seconds")
    figure.savefig(file, dpi=90)


def main() -> int:
    file = Path(sys.argv[1]) if len(sys.argv) > 1 else PICTURE
    with tempfile.TemporaryDirectory() as directory, Gateway() as gateway:
        unlimited = {"per_second": 1000, "burst_count": 1000}
        deployment = Deployment(
            kind="sqlite",
            directory=Path(directory),
            extra={"rc_message": unlimited, "rc_joins": {"local": unlimited}},
        ).start()
        try:
            scrapes = Load.make(deployment, gateway).run()
        finally:
            deployment.stop()
    draw(scrapes, file)
    print(f"{file}: {file.stat().st_size} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
