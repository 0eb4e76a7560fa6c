# SPDX-License-Identifier: AGPL-3.0-or-later
"""The run, and what is said of it in the end."""

import itertools
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator

import attr

from demo.gateway import Gateway
from tests.cluster.load import Count, Load
from tests.harness.cluster import CLIENT_WORKERS, PUSHERS, Cluster
from tests.harness.deployment import Deployment
from tests.soak.churn import Churn, make_churn, shown_wrongly
from tests.soak.judging import Growth, Verdict, growing
from tests.soak.processes import Processes, pace

#: Of the whole time, the part in which processes are ended.
RESTARTING = 0.4
#: In the first of so many rounds one is.
_EVERY = 2
#: Each part has so many rounds, however slow the machine is.
_ROUNDS = 4

# The even load is counted after so many seconds, and its pushes forgotten.
_CHAPTER_SECONDS = 60.0

_FINDINGS_SHOWN = 5


@attr.s(auto_attribs=True, frozen=True, kw_only=True)
class Plan:
    """How long, how much, and what is allowed.

    Attributes:
        seconds: how long it runs, without what comes before and after.
        rate: how many events are sent in a second at most, half of them by either load.
        seed: what is at random can be had again with it, but for what is at the same time.
        allowed_mb: by how much a process may grow while it is watched, after it warmed up.
        restarting: the part of the time in which processes are ended.
        patience: how many seconds are waited for what all pushers are to push.
    """

    seconds: float
    rate: float = 8.0
    seed: int = 0
    allowed_mb: float = 5.0
    restarting: float = RESTARTING
    patience: float = 90.0


@attr.s(auto_attribs=True)
class Account:
    """What was done and what came of it."""

    plan: Plan
    seconds: float = 0.0
    done: Counter[str] = attr.ib(factory=Counter)
    churn: Verdict = attr.ib(factory=Verdict)
    even: Verdict = attr.ib(factory=Verdict)
    restarts: Counter[tuple[str, str]] = attr.ib(factory=Counter)
    repeatable: int = 0
    fallbacks: int = 0
    growth: dict[str, Growth] = attr.ib(factory=dict)
    findings: list[str] = attr.ib(factory=list)

    def faults(self) -> list[str]:
        """What is amiss, in a line each; nothing if all is well."""
        both = self.churn + self.even
        growing_on = growing(self.growth, self.plan.allowed_mb)
        found = {
            f"{both.lost} pushes lost": both.lost,
            f"{both.wrong} pushes wrong": both.wrong,
            f"{both.disordered} times another order": both.disordered,
            f"{both.repeated} pushes repeated, where {self.repeatable} may be": (
                both.repeated > self.repeatable
            ),
            f"{self.fallbacks} times the module fell back": self.fallbacks,
            f"growing on: {', '.join(growing_on)}": growing_on,
            "no events": not both.due,
        }
        others = [finding for finding in self.findings if len(finding) < 200]
        return [*(line for line, is_so in found.items() if is_so), *others]

    def lines(self) -> Iterator[str]:
        """The account, to be read by a human."""
        yield f"{self.seconds:,.0f} seconds, at most {self.plan.rate:g} events a second"
        yield f"  (seed {self.plan.seed})"
        yield ""
        yield f"{'':<24}{'due':>8}{'lost':>7}{'wrong':>7}{'order':>7}{'repeated':>10}"
        for name, verdict in (("everything changes", self.churn), ("even load", self.even)):
            numbers = attr.astuple(verdict)
            yield (
                f"{name:<24}{numbers[0]:>8}"
                + "".join(f"{n:>7}" for n in numbers[1:4])
                + (f"{numbers[4]:>10}")
            )
        yield ""
        yield from (f"{what:<24}{count:>8}" for what, count in sorted(self.done.items()))
        yield f"{'fallbacks':<24}{self.fallbacks:>8}"
        yield ""
        yield f"{'process':<12}{'stopped':>8}{'killed':>8}   MB: middle      end     more"
        for name in {**self.growth, **{name: 0 for name, _ in self.restarts}}:
            ended = "".join(f"{self.restarts[name, how]:>8}" for how in ("stop", "kill -9"))
            yield f"{name:<12}{ended}     {self.growth.get(name, '')}"
        for finding in self.findings[:_FINDINGS_SHOWN]:
            yield f"\n{finding}"
        yield ""
        faults = self.faults()
        yield (
            "\n".join(f"FAULT: {fault}" for fault in faults)
            if faults
            else ("Nothing lost, nothing wrong, no growth that goes on.")
        )


class Soak:
    """Runs on a deployment that was just started; the caller stops it."""

    def __init__(
        self, deployment: Deployment, plan: Plan, say: Callable[[str], None] = lambda _line: None
    ) -> None:
        self._deployment = deployment
        self._plan = plan
        self._say = say
        self._dice = random.Random(plan.seed)
        self._processes = Processes(deployment, self._dice)
        self._account = Account(plan)

    def run(self) -> Account:
        """Run for the time of the plan, and a little longer."""
        with Gateway() as for_churn, Gateway() as for_even:
            churn = make_churn(
                self._deployment,
                for_churn,
                self._route,
                self._plan.seed,
                pace(self._plan.rate / 2),
                self._plan.patience,
            )
            even = Load(self._deployment, for_even, pause_seconds=2 / self._plan.rate)
            started = time.monotonic()
            self._say("everything changes, and processes are ended")
            self._run_for(self._plan.restarting, churn, even, restarts=True)
            self._say("everything changes, and memory is watched")
            with self._processes.watched():
                self._run_for(1 - self._plan.restarting, churn, even, restarts=False)
            self._account.seconds = time.monotonic() - started
            self._finish(churn, even)
        return self._account

    def _run_for(self, part: float, churn: Churn, even: Load, *, restarts: bool) -> None:
        """Run for a part of the time."""
        end = time.monotonic() + part * self._plan.seconds
        rounds = itertools.count()
        while (left := end - time.monotonic()) > 0:
            chapter = time.monotonic() + min(left, _CHAPTER_SECONDS)
            with even.sending():
                while (number := next(rounds)) < _ROUNDS or time.monotonic() < chapter:
                    self._round(churn, restarts and number % _EVERY == 0)
            count = even.count_on()
            self._account.even += _verdict(count)
            self._account.findings += shown_wrongly(churn)
            self._say(f"  {churn.verdict + self._account.even}")

    def _round(self, churn: Churn, restarts: bool) -> None:
        ended = self._processes.end_next() if restarts else None
        runs_pushers = ended is not None and (
            ended in PUSHERS or not isinstance(self._deployment, Cluster)
        )
        churn.round(may_fail=not runs_pushers)
        self._processes.wait()
        self._account.findings += [f"{name} ended by itself" for name in self._processes.ended()]

    def _route(self, method: str, path: str) -> str:
        """Where requests go: to all that runs, once it has seen what was written before."""
        homeserver = self._deployment.homeserver
        url = homeserver.route(method, path)
        starting = self._processes.starting
        if isinstance(self._deployment, Cluster) and starting in CLIENT_WORKERS:
            # Until it says that it is up it does not say up to where it has come, either.
            while url == self._deployment.homeserver.url_of(starting):
                url = homeserver.route(method, path)
        return url

    def _finish(self, churn: Churn, even: Load) -> None:
        account = self._account
        account.done = Counter({**churn.counts, "events of the even load": even.sent})
        account.churn = churn.verdict
        account.findings += churn.findings
        account.restarts = self._processes.restarts
        pushers = len(churn.world.pushers) + len(even.recipients)
        account.repeatable = self._processes.restarts_of_pushers * pushers
        account.fallbacks = self._processes.fallbacks()
        account.growth = self._processes.growth()
        churn.users.close()
        self._deployment.homeserver.close_sessions()
        try:
            self._deployment.assert_log_is_clean()
        except AssertionError as error:
            account.findings += ["a traceback in the log", str(error)]


def _verdict(count: Count) -> Verdict:
    return Verdict(due=count.expected, lost=count.lost, wrong=count.wrong, repeated=count.repeated)


#: What Synapse logs with a traceback where what it talks to is gone.
EXPECTED_TRACEBACKS = (
    r"twisted\.internet\.error\.\w+",
    r"twisted\.web\._newclient\.\w+",
    r"synapse\.api\.errors\.(HttpResponseException|SynapseError)",
    r"Failed to (process|handle|talk|send)",
    r"txredisapi",
    r"(CancelledError|ConnectionResetError|RedirectException|ResponseNeverReceived)",
)
