# SPDX-License-Identifier: AGPL-3.0-or-later
"""Several homeservers in one process, as newer Synapses can be run.

``python -m tests.harness.two_homeservers first.yaml second.yaml``
"""

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from demo.process import Child
from tests.harness.deployment import Deployment

_START_SECONDS = 300.0


def is_possible() -> bool:
    """Whether the parts that Synapse's own start is made of can be called one by one."""
    from synapse.app import homeserver  # noqa: PLC0415 - only where there is a server to make

    return hasattr(homeserver, "create_homeserver")


@contextmanager
def in_one_process(deployments: Sequence[Deployment]) -> Iterator[None]:
    """Run deployments, made and not started, in one process, which makes them in this order."""
    homeservers = []
    for deployment in deployments:
        deployment.prepare()
        homeserver = deployment.homeserver = deployment._make_homeserver()
        homeserver.directory.mkdir(parents=True, exist_ok=True)
        homeserver._choose_ports()
        homeserver._write_config()
        homeservers.append(homeserver)
    environment = homeservers[0]._environment()
    child = Child(
        name="two homeservers",
        command=[sys.executable, "-m", __name__, *(str(each.config_file) for each in homeservers)],
        # All of them log where the last one does.
        output=homeservers[-1].log_file,
        env={**os.environ, **environment},
    )
    for each in homeservers:
        each._child = child
    child.spawn()
    try:
        child.wait_until(lambda: all(each._answers() for each in homeservers), _START_SECONDS)
        yield
    finally:
        for deployment in deployments:
            deployment.stop()
    for deployment in deployments:
        deployment.assert_log_is_clean()


def main(config_files: Sequence[str]) -> None:
    from synapse.app import _base, homeserver  # noqa: PLC0415 - see above
    from synapse.logging.context import LoggingContext  # type: ignore[attr-defined]  # noqa: PLC0415

    config: Any = None
    for config_file in config_files:
        config = homeserver.load_or_generate_config(["-c", config_file])
        with LoggingContext(name="main", server_name=config.server.server_name):
            hs = homeserver.create_homeserver(config)
            homeserver.setup(hs)
            _base.register_start(hs, homeserver.start, hs, freeze=False)
    homeserver.start_reactor(config)


if __name__ == "__main__":
    main(sys.argv[1:])
