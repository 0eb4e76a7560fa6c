# SPDX-License-Identifier: AGPL-3.0-or-later
"""`make soak`, with SOAK_SECONDS; ends with an account, and 1 where something is amiss."""

import argparse
import contextlib
import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from demo.process import ProcessError
from tests.harness.cluster import Cluster
from tests.harness.deployment import KINDS, Deployment
from tests.harness.postgres import Postgres
from tests.soak.soak import EXPECTED_TRACEBACKS, Account, Plan, Soak

_SECONDS = 1200.0


#: Small caches: they are full before memory is watched.
_EXTRA = {"caches": {"global_factor": 0.1}}


def main() -> int:
    """Run, and say what came of it."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    seconds = float(os.environ.get("SOAK_SECONDS") or _SECONDS)
    parser.add_argument("--seconds", type=float, default=seconds)
    parser.add_argument("--rate", type=float, default=Plan(seconds=0).rate)
    parser.add_argument("--seed", type=int, default=random.randrange(2**32))
    parser.add_argument("--deployment", choices=KINDS, default="cluster")
    parser.add_argument("--keep-log", type=Path, help="where to copy Synapse's log to")
    asked = parser.parse_args()
    plan = Plan(seconds=asked.seconds, rate=asked.rate, seed=asked.seed)
    started = time.monotonic()

    def say(line: str) -> None:
        print(f"{time.monotonic() - started:>6.0f} s  {line}", flush=True)

    say(f"starting: {asked.deployment}, seed {plan.seed}")
    try:
        account = _run(asked.deployment, plan, say, asked.keep_log)
    except (ProcessError, KeyboardInterrupt) as error:
        print(f"Not run to its end: {error!r}", file=sys.stderr)
        return 2
    print("\n" + "\n".join(account.lines()))
    return 1 if account.faults() else 0


def _run(kind: str, plan: Plan, say: Callable[[str], None], keep_log: Path | None) -> Account:
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="synapse-soak-")))
        postgres = None if kind == "sqlite" else stack.enter_context(Postgres())
        make = Cluster if kind == "cluster" else Deployment
        deployment = make(kind=kind, directory=directory, postgres=postgres, extra=_EXTRA)
        for pattern in EXPECTED_TRACEBACKS:
            deployment.allow_in_log(pattern)
        deployment.start()
        stack.callback(deployment.stop)
        try:
            return Soak(deployment, plan, say).run()
        finally:
            if keep_log is not None:
                shutil.copy(deployment.homeserver.log_file, keep_log)


if __name__ == "__main__":
    sys.exit(main())
