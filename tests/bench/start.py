# SPDX-License-Identifier: AGPL-3.0-or-later
"""What starting a server with many pushers costs."""

from collections import Counter

from demo.gateway import Gateway
from tests.bench.counting import AT_STARTUP
from tests.bench.population import Population, RoomPlan
from tests.bench.results import Comparison, Count, Measurement
from tests.bench.servers import Workshop
from tests.bench.sizes import Size
from tests.bench.variants import CONTROL, IDLE, VANILLA, Variant
from tests.harness.waiting import wait_until

#: Starting all pushers; and all that the process did until then.
PUSHERS_TIME, PUSHERS_CPU, WHOLE_CPU = "pushers, time", "pushers, CPU time", "process, CPU time"
#: To start all pushers; and those that the module runs on its own before.
STATEMENTS, AT_START = "statements, pushers", "statements, module"

HALF = Variant("half use 5 rules", share=0.5)

VARIANTS = (VANILLA, CONTROL, IDLE, HALF)
SOME = (VANILLA, HALF)


def measure(workshop: Workshop, size: Size) -> Measurement:
    """Start each variant again and again, by turns."""
    population = workshop.populate("sqlite", [RoomPlan("everybody", size.pushers + 1)])
    variants = SOME if size.some else VARIANTS
    starts: list[dict[Variant, dict[str, float]]] = []
    for number in range(size.starts):
        order = variants if number % 2 else variants[::-1]
        starts.append(
            {variant: _start(workshop, population, variant, size.pushers) for variant in order}
        )
        workshop.say(f"started each variant {number + 1} times")
    comparisons = [
        Comparison(
            where="sqlite",
            members=size.pushers,
            baseline=VANILLA.name,
            variant=variant.name,
            quantity=quantity,
            rounds=[(start[VANILLA][quantity], start[variant][quantity]) for start in starts],
        )
        for variant in variants[1:]
        for quantity in (PUSHERS_TIME, PUSHERS_CPU, WHOLE_CPU)
    ]
    counts = [
        Count("sqlite", size.pushers, variant.name, quantity, int(starts[0][variant][quantity]))
        for variant in variants
        for quantity in (STATEMENTS, AT_START)
    ]
    return Measurement(about={}, comparisons=comparisons, counts=counts)


def _start(
    workshop: Workshop, population: Population, variant: Variant, pushers: int
) -> dict[str, float]:
    with (
        Gateway() as gateway,
        workshop.serve(population, variant, gateway=gateway.url, count_statements=True) as server,
    ):
        wait_until(lambda: bool(server.ask("start_of_pushers")), "all pushers started", 600)
        started = server.ask("start_of_pushers")
        assert started["pushers"] == pushers, started
        at_start: Counter[str] = Counter()
        for (context, _), number in server.statements().items():
            at_start[context] += number
        return {
            PUSHERS_TIME: started["wall"],
            PUSHERS_CPU: started["cpu"],
            WHOLE_CPU: server.cpu(),
            STATEMENTS: started["statements"],
            AT_START: at_start[AT_STARTUP],
        }
