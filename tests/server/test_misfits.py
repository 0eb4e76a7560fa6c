# SPDX-License-Identifier: AGPL-3.0-or-later
"""A Synapse that does not fit does not start with the module, and `check` says why."""

from pathlib import Path

import attr
import pytest

from demo.homeserver import Homeserver, Options
from demo.process import ProcessError
from tests.conftest import FreshDeployment
from tests.harness.admin import PACKAGE_PARENT, command, command_here
from tests.harness.deployment import CHECKOUT, MODULE
from tests.harness.sabotage import sabotage

#: What to do.
REMEDY = "take the module out of homeserver.yaml"


@attr.s(auto_attribs=True, frozen=True)
class Misfit:
    """A Synapse that is not as it should be.

    Attributes:
        code: what runs as its Python starts.
        seam: what the message names.
        found: what it says was found.
    """

    code: str
    seam: str
    found: str


MISFITS = {
    "a method is missing": Misfit(
        "from synapse.push.pusherpool import PusherPool\ndel PusherPool.remove_pusher",
        "synapse.push.pusherpool:PusherPool.remove_pusher",
        "missing (type object 'PusherPool' has no attribute 'remove_pusher')",
    ),
    "a parameter is missing": Misfit(
        "from synapse.push.pusherpool import PusherPool\n"
        "native = PusherPool.remove_pusher\n"
        "async def remove_pusher(self, app_id, key, user):\n"
        "    await native(self, app_id, key, user)\n"
        "PusherPool.remove_pusher = remove_pusher",
        "synapse.push.pusherpool:PusherPool.remove_pusher",
        "does not take pushkey, user_id; it takes self, app_id, key, user",
    ),
    "an attribute is missing": Misfit(
        "from synapse.push.pusher import PusherFactory\n"
        "def make(self, hs):\n"
        "    self.kinds = {}\n"
        "PusherFactory.__init__ = make",
        "synapse.push.pusher:PusherFactory",
        "its objects have no pusher_types",
    ),
    # Synapse itself finds it, as it would find its new place.
    "a module has moved": Misfit(
        "import builtins\n"
        "native = builtins.__import__\n"
        "def find(name, globals=None, *args, **kwargs):\n"
        "    if name == 'synapse.push.httppusher':\n"
        "        if (globals or {}).get('__name__', '').startswith('synapse_msc3881'):\n"
        "            raise ModuleNotFoundError(f'No module named {name!r}', name=name)\n"
        "    return native(name, globals, *args, **kwargs)\n"
        "builtins.__import__ = find",
        "synapse.push.httppusher",
        "missing (No module named 'synapse.push.httppusher')",
    ),
}


@pytest.mark.parametrize("misfit", MISFITS.values(), ids=MISFITS)
def test_synapse_does_not_start_and_check_says_why(tmp_path: Path, misfit: Misfit) -> None:
    path = [sabotage(tmp_path / "sabotage", misfit.code), PACKAGE_PARENT]
    modules = [{"module": MODULE, "config": {}}]
    homeserver = Homeserver(tmp_path, Options(modules=modules, python_path=[*path, CHECKOUT]))
    with pytest.raises(ProcessError) as caught:
        homeserver.start()
    assert f"  - {misfit.seam}: {misfit.found}" in str(caught.value)
    assert REMEDY in str(caught.value)
    assert homeserver.pid is None

    answer = command("check", "--json", "-c", homeserver.config_file, path=path)
    assert answer.status == 1
    (problem,) = answer.problems
    assert f"{misfit.seam}: {misfit.found}" in problem
    assert REMEDY in problem


def test_a_missing_column(fresh_deployment: FreshDeployment) -> None:
    deployment = fresh_deployment()
    config = deployment.homeserver.config_file
    deployment.homeserver.stop()
    deployment.sql("ALTER TABLE pusher_throttle RENAME COLUMN throttle_ms TO throttle_s")
    found = "database:pusher_throttle: has no column throttle_ms; it has "
    with pytest.raises(ProcessError) as caught:
        deployment.restart()
    assert f"  - {found}" in str(caught.value)
    assert "throttle_s" in str(caught.value)
    assert REMEDY in str(caught.value)

    answer = command_here("check", "--json", "-c", config)
    assert answer.status == 1
    (problem,) = answer.problems
    assert problem.startswith(found)
    assert REMEDY in problem

    deployment.allow_in_log("does not fit Synapse")
    deployment.sql("ALTER TABLE pusher_throttle RENAME COLUMN throttle_s TO throttle_ms")
    assert command_here("check", "--json", "-c", config).problems == []
    deployment.restart()


def test_a_missing_table(fresh_deployment: FreshDeployment) -> None:
    deployment = fresh_deployment()
    deployment.homeserver.stop()
    deployment.sql("ALTER TABLE pusher_throttle RENAME TO throttles")
    with pytest.raises(ProcessError, match=r"- database:pusher_throttle: missing \(there is"):
        deployment.restart()
    (problem,) = command_here("check", "--json", "-c", deployment.homeserver.config_file).problems
    assert problem.startswith("database:pusher_throttle: missing (")

    deployment.allow_in_log("does not fit Synapse")
    deployment.sql("ALTER TABLE throttles RENAME TO pusher_throttle")
    deployment.restart()
