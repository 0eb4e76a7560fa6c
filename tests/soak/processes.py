# SPDX-License-Identifier: AGPL-3.0-or-later
"""The processes of the deployment: restarted by turns, and looked at."""

import contextlib
import itertools
import random
import re
import resource
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

from demo.process import Child
from tests.harness.cluster import MAIN, PUSHERS, Cluster
from tests.harness.deployment import Deployment
from tests.soak.judging import Growth

_SAMPLE_SECONDS = 1.0
_PAGE = resource.getpagesize()

#: What the module counts where it could not do as it should.
_FALLBACKS = re.compile(r"^synapse_msc3881_fallbacks_total\{.*\} (\S+)$", re.MULTILINE)


class Processes:
    """Main process and workers of a cluster, or the only process."""

    def __init__(self, deployment: Deployment, dice: random.Random) -> None:
        self._deployment = deployment
        names = list(self.children())
        dice.shuffle(names)
        # Each of them is asked to stop once and killed once, by turns.
        self._turns = itertools.cycle((name, how) for how in ("stop", "kill -9") for name in names)
        self.restarts: Counter[tuple[str, str]] = Counter()
        self.starting: str | None = None
        self._fallbacks = 0.0
        self._samples: dict[str, list[int]] = {}

    def children(self) -> Mapping[str, Child]:
        """The processes by name."""
        if isinstance(self._deployment, Cluster):
            return self._deployment.homeserver.children
        child = self._deployment.homeserver._child
        assert child is not None
        return {MAIN: child}

    # Restarted

    def end_next(self) -> str:
        """End one, with or without a warning; `bring_back` starts it again."""
        name, how = next(self._turns)
        self._fallbacks += self._count_fallbacks(name)
        child = self.children()[name]
        child.kill() if how == "kill -9" else child.stop()
        self.restarts[name, how] += 1
        self.starting = name
        if isinstance(self._deployment, Cluster):
            self._deployment.homeserver.spawn(name)
        else:
            child.spawn()
        return name

    def wait(self) -> None:
        """Return when the one that was ended answers again."""
        if self.starting is None:
            return
        if isinstance(self._deployment, Cluster):
            self._deployment.homeserver.wait(self.starting)
        else:
            homeserver = self._deployment.homeserver
            self.children()[self.starting].wait_until(homeserver._answers, 120)
        self.starting = None

    @property
    def restarts_of_pushers(self) -> int:
        """How often one was ended that runs pushers, which may then push once more."""
        running = PUSHERS if isinstance(self._deployment, Cluster) else (MAIN,)
        return sum(count for (name, _), count in self.restarts.items() if name in running)

    # Looked at

    def ended(self) -> list[str]:
        """Those that do not run, and were not ended by us."""
        return [name for name, child in self.children().items() if not child.alive]

    def fallbacks(self) -> int:
        """How often the module fell back, in all processes and all their lives."""
        now = sum(map(self._count_fallbacks, self.children()))
        return round(self._fallbacks + now)

    def _count_fallbacks(self, name: str) -> float:
        homeserver = self._deployment.homeserver
        if isinstance(self._deployment, Cluster):
            text = self._deployment.homeserver.metrics_of(name)
        else:
            text = homeserver.metrics()
        return sum(float(value) for value in _FALLBACKS.findall(text))

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Watch the memory of all, none of which is restarted meanwhile."""
        pids = {name: child.pid for name, child in self.children().items()}
        self._samples = {name: [] for name in pids}
        stop = threading.Event()

        def sample() -> None:
            while not stop.wait(_SAMPLE_SECONDS):
                for name, pid in pids.items():
                    with contextlib.suppress(OSError):  # `ended` says so.
                        resident = Path(f"/proc/{pid}/statm").read_text().split()[1]
                        self._samples[name].append(int(resident) * _PAGE)

        thread = threading.Thread(target=sample, name="memory", daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    def growth(self) -> dict[str, Growth]:
        """How the memory of each went while it was watched."""
        return {name: Growth.of(samples) for name, samples in self._samples.items() if samples}


def pace(rate: float) -> Iterator[None]:
    """Each step takes its time: no more than so many in a second."""
    due = time.monotonic()
    while True:
        due = max(due + 1 / rate, time.monotonic())
        time.sleep(max(0.0, due - time.monotonic()))
        yield
