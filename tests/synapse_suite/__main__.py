# SPDX-License-Identifier: AGPL-3.0-or-later
"""Run Synapse's own tests with the module in every homeserver, and compare."""

import argparse
import contextlib
import importlib.metadata
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import attr

from tests.harness.postgres import Postgres
from tests.synapse_suite.fetch import FetchError, fetch_tests

HERE = Path(__file__).resolve().parent
CACHE = HERE.parent.parent / ".cache" / "synapse-tests"
PLUGIN = HERE / "plugin"
LIST = HERE / "modules.txt"

SECONDS_FOR_A_RUN = 600
# What pytest's exit code says: all passed, or some did not. All others: it could not run.
_RAN = (0, 1)


class SuiteError(Exception):
    """The tests could not be run; the message is for a human."""


@attr.s(auto_attribs=True, frozen=True, kw_only=True)
class Results:
    """What came of one run, as the plugin wrote it down."""

    outcomes: Mapping[str, str]
    details: Mapping[str, str]
    homeservers: int

    def named(self, outcome: str) -> set[str]:
        return {test for test, was in self.outcomes.items() if was == outcome}


@attr.s(auto_attribs=True, frozen=True, kw_only=True)
class Suite:
    """Synapse's tests on this machine, and how to run them."""

    directory: Path
    processes: int
    environment: Mapping[str, str]

    def run(self, selection: Iterable[str], module: str) -> Results:
        """Run what is selected, with `module` loaded everywhere (an empty name: without)."""
        with tempfile.TemporaryDirectory() as temporary:
            results = Path(temporary, "results.json")
            # Synapse's `tests` first: ours has the same name.
            path = [str(self.directory), str(PLUGIN), os.environ.get("PYTHONPATH", "")]
            environment = {
                **self.environment,
                "SYNAPSE_SUITE_MODULE": module,
                "SYNAPSE_SUITE_RESULTS": str(results),
                "PYTHONPATH": os.pathsep.join(filter(None, path)),
            }
            done = subprocess.run(
                self._command(selection),
                # Some tests write to the directory that they run in.
                cwd=temporary,
                env={**os.environ, **environment},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=SECONDS_FOR_A_RUN,
                check=False,
            )
            if done.returncode not in _RAN or not results.exists():
                raise SuiteError(f"{done.stdout}\npytest could not run Synapse's tests")
            return Results(**json.loads(results.read_text()))

    def _command(self, selection: Iterable[str]) -> list[str]:
        return [
            *(sys.executable, "-m", "pytest", "--quiet", "--tb=long"),
            *("-c", str(PLUGIN / "pytest.ini"), "--rootdir", str(self.directory)),
            *("-p", "load_module", "-p", "no:cacheprovider"),
            *("--numprocesses", str(self.processes)),
            *(self._option(entry) for entry in selection),
        ]

    def _option(self, entry: str) -> str:
        excluded = entry.removeprefix("!")
        return str(self.directory / entry) if excluded == entry else f"--deselect={excluded}"


def main() -> int:
    arguments = _arguments()
    version = importlib.metadata.version("matrix-synapse")
    print(f"Synapse {version}'s own tests, with {arguments.module} in every homeserver")
    broken: list[str] = []
    try:
        directory = fetch_tests(version, CACHE)
        for database, listed in _listed(directory).items():
            if database in arguments.databases:
                with _database(database) as environment:
                    suite = Suite(
                        directory=directory, processes=arguments.processes, environment=environment
                    )
                    selection = arguments.paths or listed
                    broken += _compare(suite, selection, arguments.module, database)
    except (FetchError, SuiteError) as error:
        print(error, file=sys.stderr)
        return 1
    if broken:
        print(f"\n{len(broken)} of Synapse's tests pass only without the module:")
        print("\n".join(f"  {test}" for test in broken))
    return 1 if broken else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.synapse_suite", description=__doc__)
    parser.add_argument("paths", nargs="*", help="tests to run instead of those in modules.txt")
    parser.add_argument("--module", default="synapse_msc3881.PusherControl")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument(
        "--databases",
        type=lambda value: value.split(","),
        default=["sqlite", "postgres"],
        help="which of them: sqlite,postgres",
    )
    return parser.parse_args()


def _listed(directory: Path) -> dict[str, list[str]]:
    """What modules.txt lists for each database, as far as this Synapse has it."""
    sections: dict[str, list[str]] = {}
    current: list[str] = []
    for line in LIST.read_text().splitlines():
        entry = line.partition("#")[0].strip()
        if entry.startswith("["):
            current = sections.setdefault(entry.strip("[]"), [])
        elif entry and _exists(directory, entry):
            current.append(entry)
    return sections


def _exists(directory: Path, entry: str) -> bool:
    path, _, test_class = entry.removeprefix("!").partition("::")
    file = directory / path
    return file.exists() and (not test_class or f"class {test_class}(" in file.read_text())


def _compare(suite: Suite, selection: list[str], module: str, database: str) -> list[str]:
    """The tests that pass without the module and not with it; why they do not is printed.

    Only what does not pass with the module is run without it: that says the same as running
    everything twice, in half the time.
    """
    having = _timed(suite, selection, module, f"{database}, with the module")
    if not having.homeservers:
        raise SuiteError(f"{module} was not loaded in any homeserver.")
    suspects = having.named("failed") | having.named("skipped")
    if not suspects:
        return []
    without = _timed(suite, sorted(suspects), "", f"{database}, those again without")
    broken = sorted(suspects & without.named("passed"))
    for test in broken:
        print(f"\n=== {having.outcomes[test]}: {test}\n{having.details.get(test, '')}")
    for test in sorted(having.named("failed") - set(broken)):
        print(f"    fails without the module too, so not counted: {test}")
    return broken


def _timed(suite: Suite, selection: Iterable[str], module: str, title: str) -> Results:
    started = time.monotonic()
    results = suite.run(selection, module)
    counts = ", ".join(
        f"{len(results.named(outcome))} {outcome}" for outcome in ("passed", "failed", "skipped")
    )
    loaded = f", in {results.homeservers} homeservers" if module else ""
    print(f"  {title}: {counts}{loaded} ({time.monotonic() - started:.0f} s)", flush=True)
    return results


@contextlib.contextmanager
def _database(name: str) -> Iterator[Mapping[str, str]]:
    """The environment that makes Synapse's tests use that database."""
    if name == "sqlite":
        yield {}
        return
    with Postgres() as postgres:
        host = postgres.create_database().host
        yield {
            "SYNAPSE_POSTGRES": "1",
            "SYNAPSE_POSTGRES_HOST": host,
            "SYNAPSE_POSTGRES_USER": "postgres",
        }


if __name__ == "__main__":
    sys.exit(main())
