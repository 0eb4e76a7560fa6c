# SPDX-License-Identifier: AGPL-3.0-or-later
"""Test each minor release of Synapse, one after the other, and write the table of them.

    versions.py                    those that have no result yet, from the oldest supported
    versions.py 1.123.0 1.141.0    these, whether they have one or not
    versions.py --again            all, as for a new release of the module
    versions.py --table            the table only

Results are kept in .cache/versions, one file each: stop it at any time, and call it again to go on.
So that a release costs a minute or two, all have one environment, where pip changes what differs.
Beside each stands what tests/requirements has beside the pinned release before it.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import platform
import re
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from collections.abc import Iterable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
REQUIREMENTS = ROOT / "tests" / "requirements"
KEPT = ROOT / ".cache" / "versions"
ENVIRONMENT = KEPT / "venv"
PYTHON = ENVIRONMENT / "bin" / "python"
GUIDE = ROOT / "docs" / "admin-guide.md"
HEADING = "### Every minor release"

#: What differs between releases shows here. On SQLite, as nothing of it depends on the database.
TESTS = ("tests/unit", "tests/server/test_cascade.py", "tests/server/test_failures.py")

#: A release that hangs must not keep the others from their turn.
PATIENCE_SECONDS = 1800

_PIN = re.compile(r"^matrix-synapse\[redis\]==(.+)$", re.MULTILINE)
_OTHERS = re.compile(r"^(?!matrix-synapse)([A-Za-z_]+)([=<>].+)$", re.MULTILINE)
_AVAILABLE = re.compile(r"^Available versions: (.+)$", re.MULTILINE)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("releases", nargs="*", help="such as 1.123.0")
    parser.add_argument("--again", action="store_true", help="run those with a result, too")
    parser.add_argument("--table", action="store_true", help="write the table only")
    arguments = parser.parse_args()
    KEPT.mkdir(parents=True, exist_ok=True)
    failed = []
    if not arguments.table:
        wanted = arguments.releases or [
            release
            for release in minor_releases()
            if arguments.again or not file_of(release).exists()
        ]
        for release in sorted(wanted, key=numbers):
            result = run(release)
            file_of(release).write_text(json.dumps(result, indent=2) + "\n")
            print(f"  {release}: {cell(result)}, in {result['seconds']} s", flush=True)
            if not is_good(result):
                failed.append(release)
    write_table()
    if failed:
        print(f"Failed: {', '.join(failed)}; what was said is in {KEPT}", file=sys.stderr)
    return 1 if failed else 0


# Which releases there are


def numbers(release: str) -> list[int]:
    return [int(part) for part in release.split(".")]


def pinned() -> dict[str, str]:
    """The releases of tests/requirements, oldest first, and the name of each one's file."""
    found = {
        pin: file.stem.removeprefix("synapse-")
        for file in REQUIREMENTS.glob("synapse-*.txt")
        for pin in _PIN.findall(file.read_text())
    }
    return dict(sorted(found.items(), key=lambda item: numbers(item[0])))


def minor_releases() -> list[str]:
    """The newest patch of each minor release from the oldest supported that pip has a wheel of."""
    ask = [sys.executable, "-m", "pip", "--disable-pip-version-check", "index", "versions"]
    done = subprocess.run(
        [*ask, "matrix-synapse", "--only-binary", ":all:"],
        capture_output=True,
        text=True,
        check=False,
    )
    available = _AVAILABLE.search(done.stdout)
    if available is None:
        raise SystemExit(f"{done.stderr}\npip did not say which releases of Synapse there are")
    oldest = numbers(next(iter(pinned())))
    newest_patch: dict[tuple[int, ...], list[int]] = {}
    for release in available[1].split(", "):
        if (parts := numbers(release)) >= oldest:
            minor = tuple(parts[:2])
            newest_patch[minor] = max(parts, newest_patch.get(minor, []))
    return [".".join(map(str, parts)) for _, parts in sorted(newest_patch.items())]


# One of them


def run(release: str) -> dict[str, Any]:
    """Install a release and run the tests with it."""
    started = time.monotonic()
    result: dict[str, Any] = {
        "release": release,
        "day": dt.datetime.now(tz=dt.timezone.utc).date().isoformat(),
        "python": platform.python_version(),
        "commit": _git("describe", "--always", "--dirty", "--abbrev=12"),
    }
    result |= _test(release) if _install(release) else {"problem": "could not be installed"}
    return result | {"seconds": round(time.monotonic() - started)}


def _install(release: str) -> bool:
    """Put the release into the environment, with what the pinned one before it needs beside it."""
    *_, newest = pinned().values()
    newest_file = str(REQUIREMENTS / f"synapse-{newest}.txt")
    set_up = [sys.executable, str(ROOT / "scripts" / "venv.py"), str(ENVIRONMENT), newest_file]
    if subprocess.run([*set_up, "test"], check=False).returncode != 0:
        raise SystemExit("There is no environment to test in")
    wanted = KEPT / f"{release}.txt"
    wanted.write_text(requirements(release))
    pip = [str(PYTHON), "-m", "pip", "--disable-pip-version-check", "install"]
    with (KEPT / f"{release}.pip.log").open("w") as log:
        command = [*pip, "--upgrade", "--requirement", str(wanted)]
        done = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, check=False)
    return done.returncode == 0


def requirements(release: str) -> str:
    """What pip is to install: the release, and packages pinned beside it or set free again."""
    pins = {name: _OTHERS.findall(_file(name)) for name in pinned().values()}
    before = [name for pin, name in pinned().items() if numbers(pin) <= numbers(release)]
    if not before:
        raise SystemExit(f"Synapse {release} is older than the oldest that is supported")
    wanted = dict(pins[before[-1]])
    free = {package for pinned_there in pins.values() for package, _ in pinned_there}
    lines = [f"matrix-synapse[redis]=={release}"]
    lines += [package + wanted.get(package, "") for package in sorted(free)]
    return "\n".join([*lines, ""])


def _file(name: str) -> str:
    return (REQUIREMENTS / f"synapse-{name}.txt").read_text()


def _test(release: str) -> dict[str, Any]:
    report = KEPT / f"{release}.xml"
    report.unlink(missing_ok=True)
    pytest = [str(PYTHON), "-m", "pytest", "--deployments", "sqlite"]
    with (KEPT / f"{release}.log").open("w") as log:
        try:
            subprocess.run(
                [*pytest, f"--junit-xml={report}", *TESTS],
                cwd=ROOT,
                stdout=log,
                stderr=subprocess.STDOUT,
                check=False,
                timeout=PATIENCE_SECONDS,
            )
        except subprocess.TimeoutExpired:
            return {"problem": f"did not end within {PATIENCE_SECONDS} s"}
    if not report.exists():
        return {"problem": "the tests did not start"}
    return counts(report)


def counts(report: Path) -> dict[str, Any]:
    """How many tests passed, and which did not, of what pytest wrote as JUnit's XML."""
    passed, skipped, failed = 0, 0, []
    for case in ET.parse(report).iter("testcase"):
        if case.find("failure") is not None or case.find("error") is not None:
            failed.append(f"{case.get('classname')}.{case.get('name')}")
        elif case.find("skipped") is not None:
            skipped += 1
        else:
            passed += 1
    return {"passed": passed, "skipped": skipped, "failed": failed}


def _git(*arguments: str) -> str:
    done = subprocess.run(
        ["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return done.stdout.strip()


# What came of it


def file_of(release: str) -> Path:
    return KEPT / f"{release}.json"


def is_good(result: dict[str, Any]) -> bool:
    return not result.get("problem") and not result["failed"] and result["passed"] > 0


def cell(result: dict[str, Any]) -> str:
    """What a row says of a release."""
    if result.get("problem"):
        return str(result["problem"])
    said = [f"{result['passed']:,}"]
    if result["skipped"]:
        said.append(f"{result['skipped']} skipped")
    if result["failed"]:
        said.append(f"**{len(result['failed'])} failed**")
    return ", ".join(said)


def write_table() -> None:
    """Put all that is kept into the admin guide; rows of releases without a result stay."""
    kept = [json.loads(file.read_text()) for file in KEPT.glob("*.json")]
    before, heading, after = GUIDE.read_text().partition(f"\n{HEADING}\n")
    if not heading:
        raise SystemExit(f"{GUIDE} has no heading {HEADING!r}")
    lines = after.split("\n")
    first = next(n for n, line in enumerate(lines) if line.startswith("|"))
    last = next(n for n, line in enumerate(lines[first:], first) if not line.startswith("|"))
    rows = {row.split("|")[1].strip(): row for row in lines[first + 2 : last]}
    rows |= {r["release"]: f"| {r['release']} | {cell(r)} | {r['day']} |" for r in kept}
    ordered: Iterable[str] = (rows[release] for release in sorted(rows, key=numbers))
    lines[first + 2 : last] = ordered
    GUIDE.write_text(f"{before}{heading}{chr(10).join(lines)}")


if __name__ == "__main__":
    sys.exit(main())
