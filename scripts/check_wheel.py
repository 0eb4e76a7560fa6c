# SPDX-License-Identifier: AGPL-3.0-or-later
"""Check that a wheel of this package holds what it has to, and no more: check_wheel.py WHEEL"""

import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "synapse_msc3881"


def main(wheel: str) -> int:
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if not name.endswith("/")}
        metadata = next(name for name in packed if name.endswith(".dist-info/METADATA"))
        needs = [
            line
            for line in archive.read(metadata).decode().splitlines()
            if line.startswith("Requires-Dist:") and "extra ==" not in line
        ]
    code = {name for name in packed if ".dist-info/" not in name}
    problems = [f"missing: {name}" for name in sorted(_sources() - code)]
    problems += [f"not part of the package: {name}" for name in sorted(code - _sources())]
    problems += [f"would make pip install something: {line}" for line in needs]
    if not any(name.endswith("/LICENSE") for name in packed):
        problems.append("missing: LICENSE")
    print("\n".join(problems) or f"{Path(wheel).name}: {len(code)} files, no dependency")
    return 1 if problems else 0


def _sources() -> set[str]:
    """What git knows, or would add, of the package."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", PACKAGE]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return {name for name in listed.stdout.splitlines() if (ROOT / name).exists()}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
