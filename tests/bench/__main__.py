# SPDX-License-Identifier: AGPL-3.0-or-later
"""``python -m tests.bench``: measure, and write the results as JSON, Markdown and SVG.

Results are kept by measurement: what is measured again replaces what was there, the rest stays.
"""

import argparse
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import attr

from demo.process import ProcessError
from tests.bench import (
    end_to_end,
    evaluation,
    fire_path,
    memory,
    muted,
    page,
    profile,
    report,
    results,
    sizes,
    sql,
    start,
    sync,
)
from tests.bench.results import Measurement
from tests.bench.servers import Workshop
from tests.bench.sizes import Size

ROOT = Path(__file__).parent.parent.parent
#: Git ignores it.
DEFAULT_OUTPUT = ROOT / ".cache" / "bench"

MEASUREMENTS: Mapping[str, Callable[[Workshop, Size], Measurement]] = {
    "sql": lambda *to: Measurement({}, counts=sql.measure(*to)),
    "evaluation": lambda *to: Measurement({}, comparisons=evaluation.measure(*to)),
    "end_to_end": lambda *to: Measurement({}, comparisons=list(end_to_end.measure(*to))),
    "muted": lambda *to: Measurement({}, comparisons=list(muted.measure(*to))),
    "fire_path": fire_path.measure,
    "start": start.measure,
    "sync": lambda *to: Measurement({}, comparisons=list(sync.measure(*to))),
    "memory": lambda *to: Measurement({}, amounts=memory.measure(*to)),
    "page": page.measure,
    "profile": lambda *to: Measurement({}, profiles=profile.measure(*to)),
}


def main(arguments: list[str]) -> int:
    # So that what runs is stopped, and what was made is removed, as after Ctrl-C.
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))
    options = _parse(arguments)
    size = sizes.QUICK if options.quick else sizes.FULL
    docs = report.DOCS if options.docs else None
    file = docs.results if docs else options.output / report.RESULTS
    if not options.report:
        try:
            run(options.only or list(MEASUREMENTS), size, file)
        except ProcessError as error:
            print(error, file=sys.stderr)
            return 1
    written = report.write(results.read(file), file.parent, docs)
    print("\n".join(f"wrote {each}" for each in (file, *written)))
    return 0


def run(names: list[str], size: Size, file: Path) -> None:
    """Measure, and write what was found after each measurement.

    Args:
        names: of the measurements.
        size: how large a run.
        file: for the results.

    Raises:
        ProcessError: a server did not come up.
    """
    began = time.monotonic()
    load = os.getloadavg()[0]

    def say(text: str) -> None:
        minutes, seconds = divmod(int(time.monotonic() - began), 60)
        print(f"  {minutes:2d}:{seconds:02d}  {text}", flush=True)

    for number, name in enumerate(names, 1):
        print(f"{name} ({number} of {len(names)})", flush=True)
        started = time.monotonic()
        with Workshop(say) as workshop:
            found = MEASUREMENTS[name](workshop, size)
        about = results.about(size.name, time.monotonic() - started, load)
        kept = results.read(file)
        results.write(file, {**kept, name: attr.evolve(found, about=about)})


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small: a few minutes")
    parser.add_argument(
        "--only",
        action="append",
        choices=list(MEASUREMENTS),
        metavar="NAME",
        help=f"measure only this, again and again for more: {', '.join(MEASUREMENTS)}",
    )
    parser.add_argument(
        "--docs",
        action="store_true",
        help="write to docs/performance/ and the tables of docs/performance.md",
    )
    parser.add_argument(
        "--report", action="store_true", help="measure nothing, write tables and charts again"
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=DEFAULT_OUTPUT,
        help="the directory to write to, if not --docs (%(default)s)",
    )
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
