# SPDX-License-Identifier: AGPL-3.0-or-later
"""Prometheus itself: it scrapes a Synapse with the module, and its own tool tries the alerts."""

import json
import re
import shutil
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml

from demo.gateway import Behaviour, Gateway
from demo.process import Child, free_port
from tests.harness.deployment import CHECKOUT, Deployment
from tests.harness.waiting import wait_until
from tests.server.cascade_helpers import SIREN, fence_off, make_scene, on_all

_PROMETHEUS, _PROMTOOL = shutil.which("prometheus"), shutil.which("promtool")
pytestmark = [
    pytest.mark.skipif(
        _PROMETHEUS is None or _PROMTOOL is None,
        reason="Prometheus is not installed (Debian: prometheus)",
    ),
    # The series are the same on each database.
    pytest.mark.one_deployment,
]

_MONITORING = CHECKOUT / "docs" / "monitoring"
_ALERTS = _MONITORING / "alerts.yaml"
_DASHBOARD = _MONITORING / "dashboard.json"

_RULES: list[dict[str, Any]] = yaml.safe_load(_ALERTS.read_text())["groups"][0]["rules"]
_NAMES = [rule["alert"] for rule in _RULES]


# --- The alerts ---------------------------------------------------------------------------------

Series = dict[str, str]


def _fallbacks(which: str) -> str:
    """A series of the fallbacks, by the label that the alert leaves `cost` out by."""
    (label,) = re.findall(r'\{(\w+)!="cost"\}', _RULES[_NAMES.index("PushModuleFallsBack")]["expr"])
    return f'synapse_msc3881_fallbacks_total{{job="s",instance="a",{label}="{which}"}}'


def _info(metric: str, instance: str, **labels: str) -> str:
    more = "".join(f',{name}="{value}"' for name, value in labels.items())
    return f'{metric}{{job="s",instance="{instance}"{more}}}'


_BUILD, _MODULE = "synapse_build_info", "synapse_msc3881_info"
_FAILED = 'synapse_http_httppusher_http_pushes_failed_total{job="s"}'
_TAKEN = 'synapse_http_httppusher_http_pushes_processed_total{job="s"}'
_TIME = 'synapse_storage_transaction_time_%s_total{job="s",desc="msc3881_push_action_rows"}'
_OTHER_TIME = 'synapse_storage_transaction_time_%s_total{job="s",desc="add_pusher"}'

# For each alert, and whether it is to fire after an hour: what Prometheus has seen, a value a
# minute.
_CASES: list[tuple[str, bool, Series]] = [
    ("PushModuleFallsBack", True, {_fallbacks("load"): "0x50 1x20"}),
    ("PushModuleFallsBack", False, {_fallbacks("load"): "3x70", _fallbacks("cost"): "0+5x70"}),
    (
        "PushModuleMissing",
        True,
        {_info(_BUILD, "a"): "1x70", _info(_BUILD, "b"): "1x70", _info(_MODULE, "a"): "1x70"},
    ),
    (
        "PushModuleMissing",
        False,
        {
            _info(_BUILD, "a"): "1x70",
            _info(_MODULE, "a"): "1x70",
            # Another deployment, which has the module nowhere.
            _info(_BUILD, "c").replace('"s"', '"other"'): "1x70",
        },
    ),
    (
        "PushModuleVersionsDiffer",
        True,
        {
            _info(_MODULE, "a", version="0.1.0"): "1x70",
            _info(_MODULE, "b", version="0.2.0"): "1x70",
        },
    ),
    (
        "PushModuleVersionsDiffer",
        False,  # as at an upgrade
        {
            _info(_MODULE, "a", version="0.2.0"): "1x70",
            _info(_MODULE, "b", version="0.1.0"): "1x40 stale",
            _info(_MODULE, "b", version="0.2.0"): "_x41 1x30",
        },
    ),
    ("PushesFail", True, {_FAILED: "0+9x70", _TAKEN: "0+3x70"}),
    ("PushesFail", True, {_FAILED: "0+1x70"}),
    ("PushesFail", False, {_FAILED: "0+3x70", _TAKEN: "0+9x70"}),
    ("PushModuleSlow", True, {_TIME % "sum": "0+60x70", _TIME % "count": "0+60x70"}),
    (
        "PushModuleSlow",
        False,
        {
            _TIME % "sum": "0+6x70",
            _TIME % "count": "0+60x70",
            _OTHER_TIME % "sum": "0+60x70",
            _OTHER_TIME % "count": "0+60x70",
        },
    ),
]


def test_each_alert_is_seen_to_fire_and_to_be_silent(tmp_path: Path) -> None:
    for name in _NAMES:
        assert {fires for alert, fires, _ in _CASES if alert == name} == {True, False}, name
    checked = subprocess.run(
        [str(_PROMTOOL), "check", "rules", str(_ALERTS)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr
    file = tmp_path / "alerts_test.yaml"
    file.write_text(
        yaml.safe_dump(
            {
                "rule_files": [str(_ALERTS)],
                "evaluation_interval": "1m",
                "tests": [_as_test(*case) for case in _CASES],
            }
        )
    )
    _promtool("test", file)


def _promtool(what: str, file: Path) -> None:
    done = subprocess.run(
        [str(_PROMTOOL), what, "rules", str(file)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def _as_test(alert: str, fires: bool, series: Series) -> dict[str, Any]:
    firing = f'count(ALERTS{{alertname="{alert}",alertstate="firing"}})'
    return {
        "name": f"{alert}: {'fires' if fires else 'is silent'}",
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "promql_expr_test": [
            {
                "expr": firing,
                "eval_time": "1h",
                "exp_samples": [{"labels": "{}", "value": 1}] if fires else [],
            }
        ],
    }


# --- The dashboard ------------------------------------------------------------------------------


@pytest.fixture
def prometheus(deployment: Deployment, tmp_path: Path) -> Iterator[str]:
    """The address of a Prometheus that scrapes the server each second."""
    port = free_port()
    config = tmp_path / "prometheus.yml"
    scrape = {
        "job_name": "synapse",
        "metrics_path": "/_synapse/metrics",
        "static_configs": [{"targets": [f"127.0.0.1:{deployment.homeserver.metrics_port}"]}],
    }
    config.write_text(
        yaml.safe_dump(
            {
                "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
                "rule_files": [str(_ALERTS)],
                "scrape_configs": [scrape],
            }
        )
    )
    server = Child(
        name="Prometheus",
        command=[
            str(_PROMETHEUS),
            f"--config.file={config}",
            f"--storage.tsdb.path={tmp_path / 'data'}",
            f"--web.listen-address=127.0.0.1:{port}",
        ],
        output=tmp_path / "prometheus.txt",
    )
    server.spawn()
    address = f"http://127.0.0.1:{port}"
    try:
        server.wait_until(lambda: _answers(f"{address}/-/ready"), 60)
        yield address
    finally:
        server.stop()


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except urllib.error.HTTPError as error:
        error.close()  # Or it keeps its socket, and whichever test runs at its end fails.
        return False
    except OSError:
        return False


def _ask(address: str, expression: str) -> list[Any]:
    query = urllib.parse.urlencode({"query": expression})
    with urllib.request.urlopen(f"{address}/api/v1/query?{query}", timeout=30) as answer:
        content = json.load(answer)
    assert content["status"] == "success", content
    found: list[Any] = content["data"]["result"]
    return found


def _expressions() -> Iterator[str]:
    for panel in json.loads(_DASHBOARD.read_text())["panels"]:
        for target in panel.get("targets", []):
            yield target["expr"].replace("$job", ".*").replace("$__rate_interval", "1m")


def test_each_expression_of_the_dashboard_returns_data(
    deployment: Deployment, gateway: Gateway, prometheus: str
) -> None:
    scene = make_scene(deployment, gateway)
    fence_off(scene.bob, "phone", "global")
    scene.bob.put_rule("phone", "override", "siren", on_all(SIREN))
    phone = scene.device(["phone", "global"])
    # Synapse has a series of failed pushes from the first one on.
    gateway.behave(scene.device(["phone"]).pushkey, Behaviour.ERROR)
    missing = set(_expressions())
    assert missing

    def all_return_data() -> bool:
        scene.thing()
        for expression in list(missing):
            if _ask(prometheus, expression):
                missing.discard(expression)
        time.sleep(0.2)  # not to flood the room
        return not missing

    with suppress(AssertionError):
        wait_until(all_return_data, timeout=60)
    assert missing == set()
    phone.wait_for(scene.fence())
    decided = 'sum(synapse_msc3881_push_decisions_total{outcome="pushed_by_device_scope"})'
    # Where a scrape takes too long, there is nothing until the next.
    wait_until(
        lambda: any(float(sample["value"][1]) > 0 for sample in _ask(prometheus, decided)),
        "the decisions",
    )
