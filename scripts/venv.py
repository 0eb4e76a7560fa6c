# SPDX-License-Identifier: AGPL-3.0-or-later
"""Set up a virtual environment with one Synapse, this package and some of its dependency groups.

    venv.py DIRECTORY REQUIREMENTS GROUPS

Does nothing when that has been done already. Says in one line each what it is doing; what pip
says goes to a log in the environment, and its end to the terminal if pip fails.
"""

import argparse
import hashlib
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOG_LINES_SHOWN = 25

# Python has a parser since 3.11, and pip brings one along for those before.
_READ_GROUPS = """\
import sys
try:
    import tomllib
except ImportError:
    from pip._vendor import tomli as tomllib
with open(sys.argv[1], "rb") as file:
    groups = tomllib.load(file)["dependency-groups"]
for group in sys.argv[2].split(","):
    print(*groups[group], sep="\\n")
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", type=Path)
    parser.add_argument("requirements", type=Path, help="the file that names the Synapse")
    parser.add_argument("groups", nargs="?", default="", help="in pyproject.toml: test,dev")
    arguments = parser.parse_args()
    try:
        Environment(arguments.directory, arguments.requirements, arguments.groups).ensure()
    except SetUpError as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    return 0


class SetUpError(Exception):
    """The environment could not be set up; the message is for a human."""


class Environment:
    def __init__(self, directory: Path, requirements: Path, groups: str) -> None:
        self._directory = directory
        self._requirements = requirements
        self._groups = groups
        self._python = directory / "bin" / "python"
        self._log = directory / "pip.log"
        # One for each set of groups: `make test` and `make types` share an environment.
        self._stamp = directory / f"stamp-{groups}"

    def ensure(self) -> None:
        if not self._requirements.is_file():
            known = ", ".join(
                sorted(file.stem.removeprefix("synapse-") for file in _requirement_files())
            )
            raise SetUpError(f"There is no {self._requirements}. Synapse versions known: {known}")
        if self._is_done():
            return
        started = time.monotonic()
        version = ".".join(map(str, sys.version_info[:3]))
        self._say(f"setting up {self._directory} with Python {version} (once)")
        if not self._made_by_this_python():
            self._create()
        self._say("installing Synapse and the tools (a minute or so)")
        # All at once, so that pip finds versions that fit together.
        wanted = ["--requirement", str(self._requirements), *self._in_groups()]
        self._pip("install", *wanted, "--editable", str(ROOT))
        self._stamp.write_text(self._fingerprint())
        self._say(f"ready after {time.monotonic() - started:.0f} s")

    def _in_groups(self) -> list[str]:
        """What the groups name. Read here, since only pip 25.1 and newer can."""
        if not self._groups:
            return []
        read = [str(self._python), "-c", _READ_GROUPS, str(ROOT / "pyproject.toml"), self._groups]
        done = subprocess.run(read, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise SetUpError(f"{done.stderr}\nThe groups {self._groups} could not be read")
        return done.stdout.splitlines()

    def _is_done(self) -> bool:
        fingerprint = self._fingerprint()
        wanted = set(filter(None, self._groups.split(",")))
        return self._python.exists() and any(
            wanted <= set(stamp.name.removeprefix("stamp-").split(","))
            and stamp.read_text() == fingerprint
            for stamp in self._directory.glob("stamp-*")
        )

    def _fingerprint(self) -> str:
        """Changes with whatever would make pip install something else."""
        digest = hashlib.sha256(f"{sys.version} {self._directory.resolve()}".encode())
        for file in (ROOT / "pyproject.toml", self._requirements):
            digest.update(file.read_bytes())
        return digest.hexdigest()

    def _made_by_this_python(self) -> bool:
        if not self._python.exists():
            return False
        ask = [str(self._python), "-c", "import sys; print(sys.version)"]
        answer = subprocess.run(ask, capture_output=True, text=True, check=False)
        return answer.stdout.strip() == sys.version.strip()

    def _create(self) -> None:
        shutil.rmtree(self._directory, ignore_errors=True)
        create = [sys.executable, "-m", "venv", str(self._directory)]
        done = subprocess.run(create, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise SetUpError(
                f"{done.stdout}{done.stderr}\n"
                f"{sys.executable} could not make a virtual environment. On Debian and Ubuntu"
                " the package python3-venv is missing."
            )

    def _pip(self, *arguments: str) -> None:
        command = [str(self._python), "-m", "pip", "--disable-pip-version-check", *arguments]
        with self._log.open("w") as log:
            done = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, check=False)
        if done.returncode != 0:
            tail = self._log.read_text().splitlines()[-LOG_LINES_SHOWN:]
            raise SetUpError(
                "\n".join([*tail, "", f"pip could not install; all it said is in {self._log}"])
            )

    def _say(self, text: str) -> None:
        print(f"  {text}", flush=True)


def _requirement_files() -> list[Path]:
    return list((ROOT / "tests" / "requirements").glob("synapse-*.txt"))


if __name__ == "__main__":
    sys.exit(main())
