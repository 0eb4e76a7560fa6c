# SPDX-License-Identifier: AGPL-3.0-or-later
"""Check that nothing that a CI run started is still running. It knows them by two things: the
variable that .ci/run exports, and programs inside the checkout (PostgreSQL overwrites its
environment). Looks into /proc, so on systems without that there is nothing it can say.
"""

import os
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VARIABLE = "SYNAPSE_MSC3881_CI_RUN"
# For those that were told to end and are about to.
GRACE_SECONDS = 5.0


def main() -> int:
    if not Path("/proc/self/environ").exists():
        print("No /proc here: not checked.")
        return 0
    deadline = time.monotonic() + GRACE_SECONDS
    while (left := _left_behind()) and time.monotonic() < deadline:
        time.sleep(0.2)
    for process in left:
        print(f"still running: {process.name} {_command(process)}")
    if not left:
        print("No process was left behind.")
    return 1 if left else 0


def _left_behind() -> list[Path]:
    marker = f"{VARIABLE}={os.environ[VARIABLE]}".encode()
    return [
        process
        for process in Path("/proc").iterdir()
        if process.name.isdecimal()
        and int(process.name) not in _family()
        and (_has(process, marker) or _runs_from_checkout(process))
    ]


def _family() -> set[int]:
    """This process and those above it: the run itself."""
    family = set()
    pid = os.getpid()
    while pid:
        family.add(pid)
        # A name in brackets, which may hold brackets itself, then the state, then the parent.
        pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return family


def _has(process: Path, marker: bytes) -> bool:
    try:
        return marker in (process / "environ").read_bytes().split(b"\0")
    except OSError:  # it ended, or is somebody else's
        return False


def _runs_from_checkout(process: Path) -> bool:
    try:
        return (process / "exe").readlink().is_relative_to(ROOT)
    except OSError:
        return False


def _command(process: Path) -> str:
    try:
        command = (process / "cmdline").read_bytes()
    except OSError:
        return "(has ended since)"
    return command.replace(b"\0", b" ").decode(errors="replace").strip()


if __name__ == "__main__":
    sys.exit(main())
