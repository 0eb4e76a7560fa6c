# SPDX-License-Identifier: AGPL-3.0-or-later
"""An environment with Synapse, made as the Debian packages of matrix.org make theirs.

They build a virtual environment with `dh_virtualenv --builtin-venv`, with the exact versions of
Synapse's poetry.lock, in one place. Then they have its scripts name the place that it is shipped
to, and move it there.
"""

import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import attr

LOCKED = Path(__file__).with_name("synapse-1.157.1.txt")


class CommandError(Exception):
    """A program failed; the message holds what it wrote."""


def run(*command: str | Path, cwd: Path | None = None) -> str:
    """Run a program that must succeed, and return its output.

    Raises:
        CommandError: it failed.
    """
    # What the tests run with is not for what they install.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        list(map(str, command)),
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
        env=environment,
    )
    if done.returncode != 0:
        raise CommandError(f"{' '.join(map(str, command))}\n{done.stdout}\n{done.stderr}")
    return done.stdout


@attr.s(auto_attribs=True, frozen=True)
class Environment:
    """A virtual environment with Synapse."""

    directory: Path

    @classmethod
    def make(cls, building: Path, final: Path) -> "Environment":
        """Build one, and move it to where it is shipped to."""
        run(sys.executable, "-m", "venv", building)
        environment = cls(building)
        environment.pip("install", "--no-deps", "--compile", "--requirement", LOCKED)
        _name_place(building, final)
        final.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(building, final)
        return cls(final)

    @property
    def python(self) -> Path:
        return self.directory / "bin" / "python"

    def pip(self, *arguments: str | Path) -> str:
        return run(self.directory / "bin" / "pip", "--disable-pip-version-check", *arguments)

    def freeze(self) -> set[str]:
        """All packages with their versions, pip's own ones too."""
        return set(self.pip("freeze", "--all").splitlines())

    def files(self) -> Mapping[str, str]:
        """Each file that belongs to a package, with a digest of its content."""
        return {
            str(file.relative_to(self.directory)): hashlib.sha256(file.read_bytes()).hexdigest()
            for file in self.directory.rglob("*")
            if file.is_file() and "__pycache__" not in file.parts
        }


def _name_place(building: Path, final: Path) -> None:
    """Have the scripts in `bin` name the final place."""
    for script in (building / "bin").iterdir():
        if script.is_symlink() or not script.is_file():
            continue
        content = script.read_bytes()
        if content.startswith(b"#!") or script.name.startswith("activate"):
            pattern = re.escape(str(building).encode())
            script.write_bytes(re.sub(pattern, str(final).encode(), content))
