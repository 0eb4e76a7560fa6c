# SPDX-License-Identifier: AGPL-3.0-or-later
"""A pytest plugin, loaded into the processes that run Synapse's tests.

It adds a module to the configuration of every homeserver that the tests make, and writes down what
came of each test. It runs where `tests` means Synapse's tests, so it imports nothing of ours.
"""

import importlib
import json
import os
from pathlib import Path
from typing import Any

import pytest
from synapse.config.modules import ModulesConfig
from synapse.module_api import ModuleApi

# Set by the runner: the module's dotted name, or nothing for a run without it.
MODULE = os.environ.get("SYNAPSE_SUITE_MODULE", "")
RESULTS = Path(os.environ["SYNAPSE_SUITE_RESULTS"])

_SEVERITY = ["passed", "skipped", "failed"]


class Recorder:
    """What came of each test, and in how many homeservers the module was."""

    def __init__(self) -> None:
        self.homeservers = 0
        self._outcomes: dict[str, str] = {}
        self._details: dict[str, str] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Setting up, running and tearing down report apart: the worst of them counts."""
        self._record(report.nodeid, report)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self._record(report.nodeid, report)

    def _record(self, name: str, report: pytest.TestReport | pytest.CollectReport) -> None:
        before = self._outcomes.get(name, "passed")
        self._outcomes[name] = max(before, report.outcome, key=_SEVERITY.index)
        if report.failed:
            self._details[name] = self._details.get(name, "") + report.longreprtext

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any, error: object) -> None:  # noqa: ARG002
        """A process of pytest-xdist is done."""
        self.homeservers += getattr(node, "workeroutput", {}).get("homeservers", 0)

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        workeroutput = getattr(session.config, "workeroutput", None)
        if workeroutput is not None:
            workeroutput["homeservers"] = self.homeservers

    def pytest_unconfigure(self, config: pytest.Config) -> None:
        if not hasattr(config, "workeroutput"):
            results = {
                "outcomes": self._outcomes,
                "details": self._details,
                "homeservers": self.homeservers,
            }
            RESULTS.write_text(json.dumps(results))


def pytest_configure(config: pytest.Config) -> None:
    recorder = Recorder()
    config.pluginmanager.register(recorder)
    if MODULE:
        _add_to_every_config(MODULE)
        _count_instances(MODULE, recorder)


def _add_to_every_config(module: str) -> None:
    """First of all modules, so that those of the tests themselves find ours at work."""
    read_config = ModulesConfig.read_config

    def with_module(self: ModulesConfig, config: dict[str, Any], **kwargs: Any) -> None:
        modules = [{"module": module, "config": {}}, *(config.get("modules") or [])]
        read_config(self, {**config, "modules": modules}, **kwargs)

    ModulesConfig.read_config = with_module  # type: ignore[method-assign]


def _count_instances(module: str, recorder: Recorder) -> None:
    """So that a run that never loaded the module is not taken for a good one."""
    package, _, name = module.rpartition(".")
    module_class = getattr(importlib.import_module(package), name)
    init = module_class.__init__

    # The names are those that Synapse's tests pass.
    def counting(self: object, config: object, api: ModuleApi) -> None:
        init(self, config, api)
        recorder.homeservers += 1

    module_class.__init__ = counting
