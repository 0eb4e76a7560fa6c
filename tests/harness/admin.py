# SPDX-License-Identifier: AGPL-3.0-or-later
"""Runs `python -m synapse_msc3881 …` as an admin does."""

import contextlib
import io
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attr

import synapse_msc3881
from synapse_msc3881.__main__ import main

# The one that is tested, installed or not.
PACKAGE_PARENT = Path(synapse_msc3881.__file__).parent.parent
_TIMEOUT = 120.0


@attr.s(auto_attribs=True, frozen=True)
class Answer:
    """What a command said: its exit status, and what it wrote."""

    status: int
    output: str
    errors: str

    @property
    def json(self) -> dict[str, Any]:
        content: dict[str, Any] = json.loads(self.output)
        return content

    def findings(self, severity: str) -> list[str]:
        """Of `check --json`: the problems or the notes, each as one text."""
        return [
            f"{finding['where']}: {finding['what']} -> {finding['remedy']}"
            for finding in self.json["findings"]
            if finding["severity"] == severity
        ]

    @property
    def problems(self) -> list[str]:
        return self.findings("problem")

    @property
    def notes(self) -> list[str]:
        return self.findings("note")


def command(
    *arguments: str | Path,
    python: str = sys.executable,
    path: Sequence[Path] = (PACKAGE_PARENT,),
    cwd: Path | None = None,
) -> Answer:
    """Run one command to its end.

    Args:
        arguments: what comes after `python -m synapse_msc3881`.
        python: the interpreter.
        path: its PYTHONPATH.
        cwd: where to run it; somewhere without Python packages by default.
    """
    environment = {name: value for name, value in os.environ.items() if name != "NO_COLOR"}
    environment |= {"PYTHONPATH": os.pathsep.join(map(str, path)), "COLUMNS": "200"}
    done = subprocess.run(
        [python, "-m", "synapse_msc3881", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=_TIMEOUT,
        cwd=cwd or tempfile.gettempdir(),
        env=environment,
    )
    return Answer(done.returncode, done.stdout, done.stderr)


def command_here(*arguments: str | Path) -> Answer:
    """The same in this process: a new one takes seconds to import Synapse."""
    output, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
        try:
            status = main([str(argument) for argument in arguments])
        except SystemExit as error:
            status = error.code if isinstance(error.code, int) else 1
    return Answer(status, output.getvalue(), errors.getvalue())
